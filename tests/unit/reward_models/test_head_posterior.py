"""The Bradley-Terry loss, the last layer's posterior, and the uncertainty that it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import stats

from posteriori.errors import NonFiniteError
from posteriori.reward_models.bradley_terry import (
    bradley_terry_loss,
    curvature,
    label_probability,
    slope,
)
from posteriori.reward_models.head_posterior import HeadPosterior
from posteriori.reward_models.laplace import PairFeatures, fit_head, laplace
from posteriori.reward_models.reward_trainer import (
    bootstrap_weights,
)

FALSE_ALARM = 1e-6


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestLoss:
    def test_is_the_hand_formula(self):
        delta, margin, label = f64(2.0, -1.0, 0.5), f64(0.0, 0.5, 0.0), f64(1.0, 1.0, 0.5)
        sigmoid = [1 / (1 + math.exp(-z)) for z in (2.0, -1.5, 0.5)]
        tie = -0.5 * math.log(sigmoid[2]) - 0.5 * math.log(1 - sigmoid[2])
        wanted = [-math.log(sigmoid[0]), -math.log(sigmoid[1]), tie]
        assert bradley_terry_loss(delta, margin, label).tolist() == pytest.approx(wanted, abs=1e-14)
        noisy = bradley_terry_loss(delta, margin, label, noise=0.1)[0]
        assert float(noisy) == pytest.approx(-math.log(0.9 * sigmoid[0] + 0.1 * (1 - sigmoid[0])))

    @pytest.mark.parametrize("noise", [0.0, 0.2])
    def test_has_the_slope_and_curvature_that_are_stated(self, noise):
        z = f64(-3.0, -0.4, 0.0, 1.7).requires_grad_(True)
        label = f64(1.0, 0.3, 0.5, 0.0)
        zero = torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(bradley_terry_loss(z, zero, label, noise).sum(), z)
        assert torch.allclose(gradient, slope(z.detach(), label, noise), atol=1e-12)
        # The Fisher information: the curvature's expectation over labels l ~ q(z).
        q = label_probability(z.detach(), noise)
        expected = torch.zeros_like(q)
        for answer, weight in ((1.0, q), (0.0, 1 - q)):
            labels = torch.full_like(q, answer)
            loss = bradley_terry_loss(z, zero, labels, noise).sum()
            (first,) = torch.autograd.grad(loss, z, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), z)
            expected += weight * second
        assert torch.allclose(expected, curvature(z.detach(), noise), atol=1e-12)

    def test_with_noise_no_label_is_worth_more_than_its_doubt(self):
        worst = bradley_terry_loss(f64(-1e4), f64(0.0), f64(1.0), noise=0.01)
        assert float(worst) == pytest.approx(math.log(100))
        assert float(bradley_terry_loss(f64(-1e4), f64(0.0), f64(1.0))) == 1e4


def toy_pairs(num: int, size: int, seed: int, noise: float = 0.0) -> PairFeatures:
    """Labels of a linear reward with heads and features that are normal."""
    stream = generator(seed)
    diff = torch.randn(num, size, generator=stream, dtype=torch.float64)
    head = torch.randn(size, generator=stream, dtype=torch.float64)
    margin = 0.1 * torch.randn(num, generator=stream, dtype=torch.float64)
    label = (
        torch.rand(num, generator=stream, dtype=torch.float64) < (diff @ head).sigmoid()
    ).double()
    label[: num // 10] = 0.5
    return PairFeatures(diff, margin, label, noise)


class TestLaplace:
    def test_is_the_mode_and_the_inverse_of_the_hessian_there(self):
        pairs = toy_pairs(60, 4, seed=0)
        found = laplace(pairs, precision=0.7)

        def minus_log_joint(w):
            return pairs.loss(w).sum() + 0.35 * w.square().sum()

        gradient = torch.autograd.functional.jacobian(minus_log_joint, found.mean_D)
        hessian = torch.autograd.functional.hessian(minus_log_joint, found.mean_D)
        assert float(gradient.norm()) < 1e-6
        assert torch.allclose(torch.linalg.inv(hessian), found.covariance_DD, atol=1e-10)
        evidence = (
            -float(minus_log_joint(found.mean_D))
            + 2 * math.log(0.7)
            - 0.5 * float(torch.logdet(hessian))
        )
        assert found.log_evidence == pytest.approx(evidence, abs=1e-9)

    def test_has_the_precision_that_the_pairs_make_likeliest(self):
        pairs = toy_pairs(300, 4, seed=1)
        best = laplace(pairs)
        assert not best.at_bound
        for factor in (0.8, 1.25):
            assert laplace(pairs, best.precision * factor).log_evidence < best.log_evidence

    def test_says_where_the_pairs_tell_nothing(self):
        pairs = toy_pairs(50, 3, seed=2)
        ties = PairFeatures(pairs.diff_ND, 0 * pairs.margin_N, torch.full_like(pairs.label_N, 0.5))
        assert laplace(ties).at_bound
        with pytest.raises(NonFiniteError, match="gives chosen and rejected the same"):
            laplace(PairFeatures(0 * pairs.diff_ND, pairs.margin_N, pairs.label_N))

    def test_marginal_is_the_integral_over_the_gaussian(self):
        """Against Gauss-Hermite quadrature of E[exp(r / beta)]."""
        found = laplace(toy_pairs(60, 3, seed=3), precision=1.0)
        reference = f64(0.1, -0.2, 0.3)
        posterior = HeadPosterior.gaussian(found.mean_D, found.covariance_DD, reference)
        features = torch.randn(5, 3, generator=generator(4), dtype=torch.float64)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        for beta in (1.0, 0.3):
            told = posterior.log_evidence(features, beta, "marginal")
            for row, h in enumerate(features):
                x = h - reference
                sd = math.sqrt(float(x @ found.covariance_DD @ x))
                mean = float(h @ found.mean_D)
                integral = weights @ np.exp((mean + sd * nodes) / beta) / math.sqrt(2 * math.pi)
                assert float(told[row]) == pytest.approx(math.log(integral), abs=1e-9)


class TestUncertainty:
    posterior = HeadPosterior.from_members(
        torch.tensor([[1.0, 0.0], [3.0, 1.0], [2.0, -1.0]]), torch.tensor([0.5, 0.5])
    )
    features = f64([1.0, 2.0], [0.5, 0.5])

    def test_of_an_ensemble_is_the_hand_value(self):
        rewards = []  # mean . h + (w_k - mean) . (h - v), with mean (2, 0) and h - v = (0.5, 1.5)
        for w in ((1.0, 0.0), (3.0, 1.0), (2.0, -1.0)):
            rewards.append(2.0 + (w[0] - 2.0) * 0.5 + w[1] * 1.5)
        told = {
            kind: float(self.posterior.log_evidence(self.features, 0.5, kind, kappa=2.0)[0])
            for kind in ("mean", "marginal", "lower")
        }
        assert told["mean"] == pytest.approx(np.mean(rewards) / 0.5)
        assert told["marginal"] == pytest.approx(math.log(np.mean(np.exp(np.array(rewards) / 0.5))))
        assert told["lower"] == pytest.approx(
            (np.mean(rewards) - 2 * np.std(rewards, ddof=1)) / 0.5
        )
        assert told["lower"] < told["mean"] < told["marginal"]

    def test_is_none_at_the_reference(self):
        for kind in ("marginal", "lower"):
            told = self.posterior.log_evidence(self.features, 0.5, kind)[1]
            assert float(told) == pytest.approx(1.0 / 0.5)

    @pytest.mark.parametrize("num_pairs", [1000, 4000])
    def test_of_the_bootstrap_is_that_of_known_fisher_information(self, num_pairs):
        """One feature, d = 1, labels with P = sigmoid(w): var(w) = 1 / (N q (1 - q)).

        K members are independent given the labels, so (K - 1) s^2 / var is chi-squared; the ratio
        of the two sizes' spreads is then the 1 / sqrt(pairs) of the theory, within the same error.
        """
        members = 400
        label = (torch.arange(num_pairs) < 0.7 * num_pairs).double()
        pairs = PairFeatures(torch.ones(num_pairs, 1, dtype=torch.float64), 0 * label, label)
        weights = bootstrap_weights(num_pairs, members, seed=5)
        start = torch.zeros(1, dtype=torch.float64)
        heads = [float(fit_head(pairs, 1e-6, w, start)) for w in weights.T]
        statistic = (members - 1) * np.var(heads, ddof=1) * num_pairs * 0.7 * 0.3
        low, high = stats.chi2.interval(1 - FALSE_ALARM, members - 1)
        assert low < statistic < high
        # A mutant that forgets to resample has no spread; one that halves the pairs has twice it.
        assert not low < 0.5 * statistic < high
        assert not low < 2.0 * statistic < high

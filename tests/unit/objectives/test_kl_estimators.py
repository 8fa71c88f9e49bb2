"""What each estimator of KL(pi, prior) does to the gradient, in the reward and in the loss.

No randomness: every outcome of a table is written down and weighed by its probability. The figures
in docs/kl-estimators.md are those pinned here.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import posteriori as po
from posteriori.objectives.policy_gradient.kl_estimators import kl_estimate

EXACT = 1e-10


class Pair:
    """A policy some way from its prior on four tokens and four steps, and every outcome."""

    def __init__(self, distance: float, seed: int) -> None:
        words = ("<eos>", "a", "b", "c")
        self.prior = po.TabularLM.random(words, 4, ("",), seed=seed)
        self.policy = po.TabularLM.random(words, 4, ("",), seed=100 + seed, scale=distance)
        self.policy.logits.data += self.prior.logits
        self.policy.requires_grad_(True)
        flat = po.Reward(lambda completions, **kw: [0.0] * len(completions), beta=1.0)
        exact = po.exact(po.Target(self.prior, flat, [""], 4))
        self.outcomes = exact.outcomes[0]
        self.log_prior_NL = self.prior.token_log_prob(self.outcomes)
        self.log_pi_NL = self.policy.token_log_prob(self.outcomes)
        self.p_N = self.log_pi_NL.detach().sum(-1).exp()
        self.kl = float(self.p_N @ (self.log_pi_NL - self.log_prior_NL).detach().sum(-1))

    def gradient(self, expectation: Tensor) -> Tensor:
        return torch.autograd.grad(expectation, [self.policy.logits], retain_graph=True)[0]

    def true(self) -> Tensor:
        """grad KL(pi, prior) over whole outcomes."""
        log_pi_N = self.log_pi_NL.sum(-1)
        return self.gradient((log_pi_N.exp() * (log_pi_N - self.log_prior_NL.sum(-1))).sum())

    def in_the_loss(self, kind) -> Tensor:
        """E_pi[grad of the estimate], the draws held."""
        return self.gradient(
            self.p_N @ kl_estimate(kind, self.log_pi_NL, self.log_prior_NL).sum(-1)
        )

    def by_the_ratio(self, kind) -> Tensor:
        """E_q[grad of (pi_t / q_t) estimate], token by token, at q = pi, the draws held."""
        ratio_NL = (self.log_pi_NL - self.log_pi_NL.detach()).exp()
        estimate_NL = kl_estimate(kind, self.log_pi_NL, self.log_prior_NL)
        return self.gradient(self.p_N @ (ratio_NL * estimate_NL).sum(-1))

    def in_the_reward(self, kind) -> Tensor:
        """E_pi[estimate grad log pi], the estimate held."""
        estimate_N = kl_estimate(kind, self.log_pi_NL, self.log_prior_NL).sum(-1).detach()
        return self.gradient((self.p_N * estimate_N) @ self.log_pi_NL.sum(-1))

    def per_token(self, forward: bool) -> Tensor:
        """Prefixes held: grad of the exact KL of next tokens, KL(prior, pi) if forward, else
        KL(pi, prior)."""
        table_N1, prefix_NL = self.policy._rows(self.outcomes)
        log_pi_NLV = self.policy.logits[table_N1, prefix_NL].log_softmax(-1)
        log_prior_NLV = self.prior.logits[table_N1, prefix_NL].log_softmax(-1)
        one, other = (log_prior_NLV, log_pi_NLV) if forward else (log_pi_NLV, log_prior_NLV)
        kl_NL = (one.exp() * (one - other)).sum(-1) * self.outcomes.mask_NL
        return self.gradient(self.p_N @ kl_NL.sum(-1))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.fixture(params=[0.3, 1.0, 2.0], ids=lambda d: f"distance {d}")
def pair(request) -> Pair:
    return Pair(request.param, seed=0)


def test_k1_in_the_loss_does_nothing(pair):
    assert float(pair.in_the_loss("k1").abs().max()) < EXACT
    assert float(pair.true().abs().max()) > 1e-3


def test_k2_in_the_loss_is_the_kl_of_each_token_with_its_prefix_held(pair):
    expected = pair.per_token(forward=False)
    torch.testing.assert_close(pair.in_the_loss("k2"), expected, rtol=0, atol=EXACT)


def test_k3_in_the_loss_is_the_other_kl_of_each_token_with_its_prefix_held(pair):
    expected = pair.per_token(forward=True)
    torch.testing.assert_close(pair.in_the_loss("k3"), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_by_the_ratio_it_is_the_kl_of_each_token_with_its_prefix_held(pair, kind):
    """The same as k2 in the loss, which is therefore not the KL of the outcomes."""
    expected = pair.per_token(forward=False)
    torch.testing.assert_close(pair.by_the_ratio(kind), expected, rtol=0, atol=EXACT)
    assert cosine(pair.by_the_ratio(kind), pair.true()) < 1 - 1e-4


def test_k2_by_the_ratio_is_no_kl(pair):
    assert float((pair.by_the_ratio("k2") - pair.per_token(forward=False)).abs().max()) > 1e-3


def test_k1_in_the_reward_is_exact(pair):
    torch.testing.assert_close(pair.in_the_reward("k1"), pair.true(), rtol=0, atol=EXACT)


def test_k3_in_the_reward_takes_the_other_kl_off_again(pair):
    expected = pair.true() - pair.per_token(forward=True)
    torch.testing.assert_close(pair.in_the_reward("k3"), expected, rtol=0, atol=EXACT)


def test_k2_in_the_reward_is_the_gradient_of_its_mean_less_that_of_each_tokens_kl(pair):
    k2_N = kl_estimate("k2", pair.log_pi_NL, pair.log_prior_NL).sum(-1)
    mean = pair.gradient(pair.log_pi_NL.sum(-1).exp() @ k2_N)
    expected = mean - pair.per_token(forward=False)
    torch.testing.assert_close(pair.in_the_reward("k2"), expected, rtol=0, atol=EXACT)


def test_on_the_last_token_alone_k2_in_the_loss_is_exact():
    """What it leaves out is how a token changes the prefixes after it; here there are none."""
    prior = po.TabularLM.random(("<eos>", "a", "b"), 1, ("",), seed=0)
    policy = po.TabularLM.random(("<eos>", "a", "b"), 1, ("",), seed=1).requires_grad_(True)
    outcomes = policy.completions([""], [[0], [1], [2]], 1)
    log_pi_NL, log_prior_NL = policy.token_log_prob(outcomes), prior.token_log_prob(outcomes)
    p_N = log_pi_NL.detach().sum(-1).exp()
    held = p_N @ kl_estimate("k2", log_pi_NL, log_prior_NL).sum(-1)
    kl = (log_pi_NL.exp() * (log_pi_NL - log_prior_NL)).sum()
    (mine,) = torch.autograd.grad(held, [policy.logits], retain_graph=True)
    (true,) = torch.autograd.grad(kl, [policy.logits])
    torch.testing.assert_close(mine, true, rtol=0, atol=EXACT)


COSINES = {
    0.25: (0.055, {("k2", "loss"): 0.993, ("k3", "loss"): 0.990, ("k3", "reward"): 0.154}),
    1.0: (0.692, {("k2", "loss"): 0.894, ("k3", "loss"): 0.864, ("k3", "reward"): -0.054}),
    3.0: (2.242, {("k2", "loss"): 0.835, ("k3", "loss"): 0.730, ("k3", "reward"): -0.342}),
}
"""Scale of the noise on the prior's logits -> the mean KL, and mean cosines."""

SEEDS = range(10)


@pytest.mark.parametrize("distance", COSINES)
def test_the_cosines_with_the_true_gradient_are_those_in_the_docs(distance):
    """Means over ten tables; without randomness, so the tolerance is that of the digits quoted."""
    pairs = [Pair(distance, seed) for seed in SEEDS]
    wanted_kl, wanted = COSINES[distance]
    assert sum(pair.kl for pair in pairs) / len(pairs) == pytest.approx(wanted_kl, abs=5e-3)
    for (kind, where), value in wanted.items():
        found = [cosine(getattr(pair, f"in_the_{where}")(kind), pair.true()) for pair in pairs]
        assert sum(found) / len(found) == pytest.approx(value, abs=5e-3), (kind, where)

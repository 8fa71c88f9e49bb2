"""Held-out figures: accuracy, calibration error, temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import stats

from posteriori.reward_models.calibration import (
    expected_calibration_error,
    fit_temperature,
    held_out_figures,
    reliability,
)

FALSE_ALARM = 1e-6


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


class TestCalibrationError:
    def test_is_the_hand_value(self):
        """Ten pairs at 0.72 of which six are right, and ten at 0.94 (read the other way round, so
        that the rejected one is likelier) of which all are."""
        probability = f64(*[0.72] * 10, *[0.06] * 10)
        label = f64(*[1.0] * 6, *[0.0] * 4, *[0.0] * 10)
        bins = reliability(probability, label)
        assert [(b.count, round(b.accuracy, 12)) for b in bins] == [(10, 0.6), (10, 1.0)]
        assert [(round(b.low, 12), round(b.high, 12)) for b in bins] == [(0.7, 0.75), (0.9, 0.95)]
        assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.12 + 0.5 * 0.06)
        signed = sum(b.count * (b.accuracy - b.confidence) for b in bins) / 20
        assert signed == pytest.approx(-0.03)  # the mutant without | | is caught

    def test_is_zero_where_shares_are_as_promised(self):
        delta = f64(*[logit(0.75)] * 8, *[-logit(0.75)] * 8)
        label = f64(*[1.0] * 6, *[0.0] * 2, *[0.0] * 6, *[1.0] * 2)
        figures = held_out_figures(delta, label, ["x"] * 16)
        assert figures.ece == pytest.approx(0.0, abs=1e-12)
        assert figures.temperature == pytest.approx(1.0, abs=1e-6)
        assert figures.accuracy.value == 0.75

    def test_of_overconfident_rewards_falls_by_the_temperature(self):
        """Sure to 0.95, right in 75 of 100: T = logit(0.95) / logit(0.75)."""
        label = f64(*[1.0] * 75, *[0.0] * 25)
        figures = held_out_figures(torch.full((100,), logit(0.95)).double(), label, ["x"] * 100)
        assert figures.ece == pytest.approx(0.2, abs=1e-6)
        assert figures.temperature == pytest.approx(logit(0.95) / logit(0.75), rel=1e-5)
        assert figures.ece_scaled == pytest.approx(0.0, abs=1e-5)
        entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
        assert figures.log_loss_scaled.value == pytest.approx(entropy)
        assert figures.log_loss.value > figures.log_loss_scaled.value

    def test_bins_hold_every_pair_once(self):
        probability = torch.rand(500, generator=generator(0), dtype=torch.float64)
        bins = reliability(probability, torch.ones(500, dtype=torch.float64))
        assert sum(b.count for b in bins) == 500
        assert all(b.low <= b.confidence <= b.high for b in bins)


class TestTemperature:
    @pytest.mark.parametrize(
        ("right", "said"), [(1.0, "all ordered rightly"), (0.5, "no better than by chance")]
    )
    def test_at_a_bound_of_its_search_is_a_finding(self, right, said):
        delta = torch.ones(40, dtype=torch.float64)
        label = (torch.arange(40) < 40 * right).double()
        (finding,) = held_out_figures(delta, label, range(40)).findings
        assert said in finding.message
        label[:30], label[30:] = 1.0, 0.0
        assert held_out_figures(delta, label, range(40)).findings == []

    def test_a_model_at_chance_is_told(self):
        """0.53 of 60 pairs, and 0.8 of them."""
        delta = torch.linspace(0.1, 4, 60, dtype=torch.float64)
        at = torch.arange(60)
        label = torch.where(at < 30, at % 5 < 2, at % 3 < 2).double()
        (finding,) = held_out_figures(delta, label, range(60)).findings
        assert finding.name == "at_chance"
        assert "0.5333 ± 0.065 of 60 held-out pairs (60 prompts)" in finding.message
        few = held_out_figures(delta, label, [each // 30 for each in range(60)])
        assert [each.name for each in few.findings] == ["at_chance"]
        better = (torch.arange(60) % 5 < 4).double()
        assert held_out_figures(delta, better, range(60)).findings == []

    def test_of_exact_probabilities_is_exact(self):
        delta = torch.randn(200, generator=generator(1), dtype=torch.float64) * 3
        for wanted in (0.3, 1.0, 4.0):
            label = (delta / wanted).sigmoid()
            assert fit_temperature(delta, label) == pytest.approx(wanted, rel=1e-6)

    @pytest.mark.parametrize("noise", [0.0, 0.15])
    def test_of_drawn_labels_is_within_its_error(self, noise):
        """1 / T is asymptotically normal with variance 1 / sum delta^2 q'^2 / (q (1 - q)); 20,000
        labels, so that T = 2.5 is told from 1 and from one fitted without the noise."""
        delta = torch.randn(20_000, generator=generator(2), dtype=torch.float64) * 3
        s = (delta / 2.5).sigmoid()
        q = noise + (1 - 2 * noise) * s
        uniform = torch.rand(len(q), generator=generator(3), dtype=torch.float64)
        label = (uniform < q).double()
        slope = (1 - 2 * noise) * s * (1 - s)
        error = 1 / math.sqrt(float((delta.square() * slope.square() / (q * (1 - q))).sum()))
        z = stats.norm.isf(FALSE_ALARM / 2)
        assert abs(1 / fit_temperature(delta, label, noise) - 1 / 2.5) < z * error
        assert abs(1.0 - 1 / 2.5) > 2 * z * error
        if noise:
            assert abs(1 / fit_temperature(delta, label) - 1 / 2.5) > z * error


class TestAccuracy:
    def test_counts_ties_and_undecided_pairs_as_half(self):
        figures = held_out_figures(
            f64(1.0, -1.0, 2.0, 0.0), f64(1.0, 1.0, 0.5, 1.0), ["a", "b", "c", "d"]
        )
        assert figures.accuracy.value == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
        assert figures.accuracy.standard_error == pytest.approx(
            np.std([1, 0, 0.5, 0.5], ddof=1) / 2 * stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975)
        )

    def test_of_pairs_that_come_k_times_is_known_no_better(self):
        """Four copies of each prompt's pair halve the plain error, and leave the other's alone."""
        delta = torch.randn(50, generator=generator(4), dtype=torch.float64)
        label = (torch.rand(50, generator=generator(5)) < 0.7).double()
        once = held_out_figures(delta, label, list(range(50))).accuracy
        copies = held_out_figures(delta.repeat(4), label.repeat(4), list(range(50)) * 4).accuracy
        assert copies.value == once.value
        assert copies.standard_error == pytest.approx(
            once.standard_error / 2 * math.sqrt(49 / 50 * 200 / 199)
        )
        assert copies.standard_error_new_prompts == pytest.approx(once.standard_error_new_prompts)
        assert once.standard_error_new_prompts == pytest.approx(once.standard_error)

    def test_of_pairs_that_are_all_ordered_alike_is_not_certain(self):
        """By the rule of three, 3/n over 1.96: of 12 pairs of 3 prompts. Where the model has one
        reward for all, a half is what it gets, and certain."""
        groups = ["a", "b", "c"] * 4
        right = held_out_figures(torch.ones(12), torch.ones(12), groups).accuracy
        assert right.value == 1.0
        assert right.standard_error == pytest.approx(3 / 12 / 1.96, rel=1e-4)
        assert right.standard_error_new_prompts == pytest.approx(3 / 3 / 1.96, rel=1e-4)
        flat = held_out_figures(torch.zeros(12), torch.ones(12), groups).accuracy
        assert (flat.value, flat.standard_error) == (0.5, 0.0)

    def test_of_one_prompt_says_nothing_of_others(self):
        figures = held_out_figures(f64(1.0, -1.0), f64(1.0, 1.0), ["a", "a"])
        assert figures.accuracy.standard_error_new_prompts is None

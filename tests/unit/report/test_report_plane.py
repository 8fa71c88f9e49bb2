"""The plane of reward and KL that a report draws."""

from __future__ import annotations

import matplotlib.style
import numpy as np
import pytest
from report_cases import estimate, policy_of

from posteriori.diagnostics.frontier.curve import Point
from posteriori.report import gather
from posteriori.report.draw.histograms import rows
from posteriori.report.draw.plane import error_at, least_kl, plane
from posteriori.report.draw.theme import LIGHT, settings


class TestPlane:
    def test_the_gap_is_what_was_wasted(self, two_runs):
        curve = gather(two_runs[:1]).curve
        middle = curve.points[12]
        policy = policy_of(
            "p",
            kl_to_prior=estimate(middle.kl.value + 0.25),
            mean_reward=estimate(middle.reward.value),
        )
        assert least_kl(policy, curve) == pytest.approx(middle.kl.value, rel=1e-12)
        assert least_kl(policy, None) is None
        told = policy_of("p", wasted_nats=estimate(0.5), kl_to_prior=estimate(1.5))
        assert least_kl(told, None) == 1.0
        beyond = policy_of("p", mean_reward=estimate(99.0))
        assert least_kl(beyond, curve) is None

    def test_what_is_drawn_is_what_was_estimated(self, two_runs):
        subject = gather(two_runs)
        points = subject.curve.points
        spent = policy_of("spent", kl_to_prior=estimate(9.0), wasted_nats=estimate(8.5))
        with matplotlib.style.context(settings(LIGHT), after_reset=True):
            (axes,) = plane([spent], None, subject.curve, LIGHT).axes
        line = next(each for each in axes.lines if str(each.get_label()).startswith("frontier"))
        assert list(line.get_xdata()) == [point.kl.value for point in points]
        assert list(line.get_ydata()) == [point.reward.value for point in points]
        (band,) = axes.collections[:1]
        top = band.get_paths()[0].vertices[:, 1].max()
        tops = [point.reward.value + 2 * error_at(point) for point in points]
        assert top == pytest.approx(max(tops), rel=1e-9)
        (gap,) = [text for text in axes.texts if text.arrow_patch is not None]
        assert gap.xyann == (0.5, 0.5)
        assert gap.xy == (9.0, 0.5)
        assert axes.get_xscale() == "symlog"

    def test_only_log_zs_error_moves_the_curve(self):
        """The band at a fixed KL, against the curve moved by a small change of log Z: reward(KL) =
        min over beta of beta (KL + log Z(beta))."""
        mean, spread, shift, error = 1.0, 0.8, 1e-6, 0.05
        betas = np.linspace(0.2, 4, 400_001)
        log_z = mean / betas + spread**2 / (2 * betas**2)  # a normal reward's

        def reward_at(kl: float, moved: float) -> float:
            return float((betas * (kl + log_z + moved)).min())

        beta = 0.5
        kl, reward = spread**2 / (2 * beta**2), mean + spread**2 / beta
        slope = (reward_at(kl, shift) - reward_at(kl, 0.0)) / shift
        exact = mean / beta + spread**2 / (2 * beta**2)
        point = Point(
            beta, estimate(kl, 9.0), estimate(reward, 9.0), estimate(exact, error), 0.1, "prior"
        )
        assert error_at(point) == pytest.approx(slope * error, rel=1e-3)
        of_something_else = Point(
            beta, estimate(kl), estimate(reward + 1, 0.3), estimate(exact, error), 0.1, "prior"
        )
        assert error_at(of_something_else) == 0.3

    def test_the_target_is_drawn_by_the_draws_that_say_most(self):
        texts = ["t"] * 40
        even = policy_of("even", texts, [0.0] * 40)
        uneven = policy_of("uneven", texts, [30.0] + [0.0] * 39)
        names = [row.name for row in rows([uneven, even], None)]
        assert names == ["uneven", "even", "target (even weighted)"]
        assert [row.name for row in rows([uneven], None)] == ["uneven"]

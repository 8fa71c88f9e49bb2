"""The diagram shows every bin where it is, with its error, in two styles."""

from __future__ import annotations

import numpy as np
import torch
from helpers import generator

from posteriori.report.draw.reliability_diagram import reliability_diagram
from posteriori.report.draw.theme import LIGHT
from posteriori.reward_models.calibration import held_out_figures


def test_points_are_the_bins():
    delta = 3 * torch.randn(500, dtype=torch.float64, generator=generator(0))
    label = (torch.rand(500, generator=generator(1)) < torch.sigmoid(delta / 2)).double()
    held_out = held_out_figures(delta, label, range(500))
    (axes,) = reliability_diagram(held_out, LIGHT).axes
    series = [each for each in axes.collections if len(each.get_offsets()) > 2]
    points = [np.asarray(each.get_offsets()) for each in series if each.get_label()[0] != "_"]
    for found, bins in zip(
        points, (held_out.reliability, held_out.reliability_scaled), strict=True
    ):
        np.testing.assert_allclose(found, [(b.confidence, b.accuracy) for b in bins])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["as trained", f"at temperature {held_out.temperature:.3g}"]
    # Overconfident by a factor of two: the fitted temperature is close to it.
    assert 1.3 < held_out.temperature < 3.0

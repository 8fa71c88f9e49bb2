"""Drawing from rows of categorical distributions by inverting their cumulative sums.

One uniform number per draw: the draw is a function of (distribution, number), so it does not depend
on which other rows share the batch, in which order they come, or how the batch is split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.errors import NonFiniteError

BLOCK = 512


def draw_tokens(
    logits_RV: Tensor,
    uniform_R: Tensor,
    memory_RV: Tensor | None = None,
    *,
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Token ids [R] with P(id = v) = softmax(logits)[v], and their log-probs, float64 [R].

    `uniform_R` is float64 in [0, 1). The softmax is never normalised: one pass of exponentials
    serves the draw and the log-prob. A wide vocabulary is searched in two levels, blocks and then
    tokens of one block, because a running sum over all of it costs more than the rest of the draw.
    A token of probability zero is never drawn. `memory_RV`, of the logits' shape, is written over:
    memory that is new to the process is slower to write to than all of this takes.

    Raises `NonFiniteError` where a row has no distribution. To find that out the host waits for the
    device; without `check` it does not, and such a row has a log-prob that is not finite.
    """
    top_R1 = logits_RV.amax(-1, keepdim=True)
    mass_RV = torch.sub(logits_RV, top_R1, out=memory_RV).exp_()
    rows, vocab = mass_RV.shape
    if vocab <= 2 * BLOCK:
        token_R, total_R = cell_of(mass_RV, uniform_R, check=check)
    else:
        mass_RBb = in_blocks(mass_RV)
        block_R, rest_R, total_R = search(mass_RBb.sum(-1), uniform_R, check=check)
        inside_Rb = mass_RBb[torch.arange(rows, device=mass_RV.device), block_R]
        token_R = block_R * BLOCK + cell_of(inside_Rb, rest_R, check=False)[0]
    chosen_R = logits_RV.gather(1, token_R[:, None])[:, 0].double()
    return token_R, chosen_R - top_R1[:, 0].double() - total_R.log()


def in_blocks(mass_RV: Tensor) -> Tensor:
    """[R, B, BLOCK], with mass 0 after the last token."""
    pad = -mass_RV.shape[1] % BLOCK
    if pad:
        mass_RV = torch.nn.functional.pad(mass_RV, (0, pad))
    return mass_RV.view(len(mass_RV), -1, BLOCK)


def cell_of(mass_RK: Tensor, uniform_R: Tensor, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """The cell that holds each uniform number, and the row's mass, float64."""
    cell_R1, _, cumulative_RK = _find(mass_RK, uniform_R, check)
    return cell_R1[:, 0], cumulative_RK[:, -1]


def search(
    mass_RK: Tensor, uniform_R: Tensor, *, check: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The cell that holds each uniform number, where in it the number lies, and the row's mass."""
    cell_R1, point_R1, cumulative_RK = _find(mass_RK, uniform_R, check)
    high_R1 = cumulative_RK.gather(1, cell_R1)
    mass_R1 = mass_RK.gather(1, cell_R1).double()
    rest_R1 = ((point_R1 - (high_R1 - mass_R1)) / mass_R1).clamp(0.0, 1.0)
    return cell_R1[:, 0], rest_R1[:, 0], cumulative_RK[:, -1]


def nothing_to_draw() -> NonFiniteError:
    return NonFiniteError(
        "the model's next-token probabilities are not numbers, so nothing can be drawn",
        hint="its weights or logits are not finite: load good ones, or lower learning_rate",
    )


def _find(mass_RK: Tensor, uniform_R: Tensor, check: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The cell [R, 1], the uniform number in units of mass [R, 1], and the running sum of mass."""
    cumulative_RK = mass_RK.cumsum(-1, dtype=torch.float64)
    total_R1 = cumulative_RK[:, -1:]
    if check and not bool((total_R1 > 0).all()):
        raise nothing_to_draw()
    below_total_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))
    point_R1 = torch.minimum(uniform_R[:, None] * total_R1, below_total_R1)
    cell_R1 = torch.searchsorted(cumulative_RK, point_R1, right=True)
    # Past the last cell where the masses are not numbers: what reads the cell must not fail first.
    return cell_R1.clamp(max=mass_RK.shape[1] - 1), point_R1, cumulative_RK

"""A sampler's whole probability tree: every way that its random choices can fall."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from posteriori.samplers.smc import resampling
from posteriori.samplers.smc.guidance import Guided
from posteriori.samplers.smc.resampling import Choices, Scheme


class Walk(Choices):
    """Put in place of the random choices of a run, it takes all of them, path by path.

        for walk in Walk(): ..  # run once with these choices

    Uniform numbers of resampling count as well: what they decide is constant between the points
    where n times the running sum of the weights passes them. Of a particle that is pinned for its
    first so many tokens (`pinned`) no choice counts: it stands in row 0 all that time.
    """

    def __init__(self, pinned: int = 0) -> None:
        self.pinned = pinned
        self.path: list[tuple[list[float], int]] = []
        self.depth = 0

    def __iter__(self) -> Iterator[Walk]:
        """The walk itself, once for every path; `probability` is then that of the path taken."""
        self.path = []
        while True:
            self.depth, self.probability, self.step = 0, 1.0, 0
            yield self
            assert self.depth == len(self.path), (
                "a run did not make the choices that it made before"
            )
            while self.path and self.path[-1][1] + 1 == len(self.path[-1][0]):
                self.path.pop()
            if not self.path:
                return
            options, taken = self.path[-1]
            self.path[-1] = (options, taken + 1)

    def pick(self, probability: list[float]) -> int:
        """One of several, each in its turn."""
        if self.depth == len(self.path):
            self.path.append((probability, 0))
        options, taken = self.path[self.depth]
        assert len(options) == len(probability)
        self.depth += 1
        self.probability *= probability[taken]
        return taken

    def tokens(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        log_p_RV = logits_RV.double().log_softmax(-1)
        p_RV = log_p_RV.exp().tolist()
        given = int(self.step < self.pinned)
        self.step += 1
        token_R = torch.tensor([0] * given + [self.pick(row) for row in p_RV[given:]])
        return token_R, log_p_RV.gather(1, token_R[:, None])[:, 0]

    def guided(self, q: Guided) -> Tensor:
        """As `tokens`; a uniform number inside the token's cell makes `q` itself take it."""
        row_RV = torch.arange(len(q.logits_RV))[:, None].expand_as(q.logits_RV)
        token_RV = torch.arange(q.logits_RV.shape[1]).expand_as(q.logits_RV)
        ends_RV = (
            q.log_prob(row_RV.flatten(), token_RV.flatten())[0].exp().view_as(row_RV).cumsum(-1)
        )
        token_R, uniforms = torch.zeros(len(ends_RV), dtype=torch.long), []
        given = int(self.step < self.pinned)
        self.step += 1
        for row, ends_V in enumerate(ends_RV.tolist()):
            starts_V = [0.0, *ends_V[:-1]]
            widths = [end - start for start, end in zip(starts_V, ends_V, strict=True)]
            token = 0 if row < given else self.pick(widths)
            token_R[row] = token
            uniforms.append((starts_V[token] + ends_V[token]) / 2)
        drawn_R = q.draw(torch.tensor(uniforms, dtype=torch.float64))
        assert torch.equal(drawn_R, token_R)
        return drawn_R

    def ancestors(self, scheme: Scheme, log_w_GK: Tensor, size_G: Tensor) -> Tensor:
        uniform_GU = torch.tensor(
            [
                self._uniforms(scheme, log_w_K, size)
                for log_w_K, size in zip(log_w_GK, size_G.tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
        return resampling.ancestors(scheme, log_w_GK, size_G, uniform_GU)

    def _uniforms(self, scheme: Scheme, log_w_K: Tensor, size: int) -> list[float]:
        ends = log_w_K.softmax(-1).cumsum(-1).tolist()
        scaled = [size * end for end in ends]
        if scheme == "multinomial":
            cells = [ends] * size
        elif scheme == "stratified":
            cells = [[end - k for end in scaled] for k in range(size)]
        else:
            cells = [[end - k for end in scaled for k in range(size)]]
        given = int(self.pinned > 0 and scheme != "systematic")
        drawn = [0.5] * given + [self._between(points) for points in cells[given:]]
        return drawn + [0.5] * (resampling.uniforms_needed(scheme, len(log_w_K)) - len(drawn))

    def _between(self, points: list[float]) -> float:
        """A number in one of the intervals that the points cut [0, 1) into."""
        cuts = [0.0, *sorted(point for point in points if 1e-12 < point < 1 - 1e-12), 1.0]
        widths = [high - low for low, high in pairwise(cuts)]
        kept = [at for at, width in enumerate(widths) if width > 1e-12]
        at = kept[self.pick([widths[k] for k in kept])]
        return (cuts[at] + cuts[at + 1]) / 2

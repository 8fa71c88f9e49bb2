"""Engines of our own: a model of ours behind the protocol, which can be made to go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

import posteriori as po
from posteriori.models.engines.backend import Drawn, Request
from posteriori.models.weights.state import own_copy


@dataclass
class Fake:
    """Draws by copies of the models that it is given.

    sabotage: "stale" (keeps the first weights), "stale once" (the second load alone is lost),
    "half" (every other tensor stays old), "temperature" and "top_p" (draws by another distribution
    than it reports), "tempered" (draws by another, and reports that).
    """

    dtype: torch.dtype = torch.float32
    sabotage: str = ""
    tolerance: float = 0.005
    temperature: float = 0.7
    loads: int = 0
    scored: int = 0
    closed: bool = False
    lm: po.CausalLM | None = field(default=None, repr=False)

    def load(self, lm):
        self.loads += 1
        stale = self.sabotage == "stale" or (self.sabotage == "stale once" and self.loads == 2)
        if self.lm is not None and stale:
            return
        new = po.CausalLM(own_copy(lm.model).to(self.dtype), lm.tokenizer, adapter=lm.adapter)
        if self.lm is not None and self.sabotage == "half":
            old = self.lm.trained_state()
            for name, tensor in list(new.trained_state().items())[::2]:
                tensor.copy_(old[name])
        self.lm = new.warped(temperature=self.temperature) if self.sabotage == "tempered" else new

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        return [each for request in requests for each in self._drawn(request)]

    def _drawn(self, request: Request) -> list[Drawn]:
        drawing = self.lm
        if self.sabotage == "temperature":
            drawing = drawing.warped(temperature=self.temperature)
        if self.sabotage == "top_p":
            drawing = drawing.warped(top_p=0.7)
        drawing = drawing.warped()
        drawing.encode = lambda prompt: request.prompt_ids
        random = torch.Generator().manual_seed(request.seed)
        drawn = drawing.sample([""], request.num_samples, request.max_new_tokens, random)
        with torch.no_grad():
            log_prob_NL = self.lm.token_log_prob(drawn)
            tops = self._tops(drawn, request.top)
        return [
            Drawn(ids, log_prob_NL[row, : len(ids)].tolist(), tops[row][: len(ids)])
            for row, ids in enumerate(drawn.completion_ids)
        ]

    def score(self, prompt_ids, completion_ids):
        self.scored += len(prompt_ids)
        names = [str(at) for at in range(len(prompt_ids))]
        batch = self.lm.completions(names, [list(ids) for ids in completion_ids])
        with torch.no_grad():
            log_prob_NL = self.lm.token_log_prob(replace(batch, prompt_ids=tuple(prompt_ids)))
        return [row[: len(y)] for row, y in zip(log_prob_NL.tolist(), completion_ids, strict=True)]

    def close(self):
        self.closed = True

    def _tops(self, drawn, top):
        if not top:
            return [[]] * len(drawn)
        size = self.lm.vocab_size
        every = torch.arange(size).expand(*drawn.tokens_NL.shape, size)
        best = self.lm.choice_log_prob(drawn, every).topk(min(top, size), dim=-1)
        return [
            [dict(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True)]
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

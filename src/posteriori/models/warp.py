"""Temperature, top-k, top-p and minimum length, as part of the distribution itself.

A warp changes what is drawn, so it must change what is scored: the same function of the logits is
used by the sampler and by `log_prob`, and the log-prob that comes with a draw is that of the
distribution which really drew it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.data.given_numbers import in_short, positive
from posteriori.errors import ConfigError


@dataclass(frozen=True)
class Warp:
    """log pi'(v) = log-softmax of logits / temperature, restricted by top-k, then top-p.

    `min_new_tokens` forbids an end of sequence among the first so many tokens. The defaults change
    nothing. Tokens that a restriction leaves out have log-prob -inf.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        wrong = None
        if positive(self.temperature) is None:
            wrong = f"temperature={in_short(self.temperature)} must be a positive number"
        elif self.top_k < 0:
            wrong = f"top_k={self.top_k} must be 0 (off) or a positive number of tokens"
        elif not 0 < self.top_p <= 1:
            wrong = f"top_p={self.top_p} must be in (0, 1]"
        elif self.min_new_tokens < 0:
            wrong = f"min_new_tokens={self.min_new_tokens} must be at least 0"
        if wrong:
            raise ConfigError(wrong)

    def logits(self, logits: Tensor, position: Tensor, eos: Tensor) -> Tensor:
        """The next token's unnormalised log-probs, at least float32, shape of `logits` [..., V].

        `position` [...] (or a scalar) counts the completion's tokens before this one; `eos` holds
        the end-of-sequence ids.
        """
        x = logits if logits.dtype == torch.float64 else logits.float()
        if self.temperature != 1.0:
            x = x / self.temperature
        if self.min_new_tokens:
            too_early = (position < self.min_new_tokens)[..., None]
            is_eos = torch.zeros(x.shape[-1], dtype=torch.bool, device=x.device)
            is_eos[eos] = True
            x = x.masked_fill(too_early & is_eos, -math.inf)
        if 0 < self.top_k < x.shape[-1]:
            threshold = x.topk(self.top_k, dim=-1).values[..., -1:]
            x = x.masked_fill(x < threshold, -math.inf)
        if self.top_p < 1.0:
            ordered, order = x.sort(dim=-1, descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            cut = torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            x = x.masked_fill(cut, -math.inf)
        return x

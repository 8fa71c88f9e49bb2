"""What a model says of every token of its vocabulary after every prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.protocols import NextTokenLM


def every_token(completions: Completions, size: int) -> Tensor:
    """The drawn token and then the whole vocabulary, for each prefix: [N, L, 1 + V]."""
    drawn_NL1 = completions.tokens_NL[..., None]
    all_V = torch.arange(size, device=drawn_NL1.device)
    return torch.cat([drawn_NL1, all_V.expand(*drawn_NL1.shape[:2], size)], dim=-1)


@torch.no_grad()
def vocabulary_log_prob(lm: NextTokenLM, completions: Completions) -> Tensor:
    """log pi(v|c, y_<t) of every token v, float64 [N, L, V], micro-batch by micro-batch; it means
    nothing past a completion's end."""
    shape = (*completions.tokens_NL.shape, lm.vocab_size)
    log_prob_NLV = torch.empty(shape, dtype=torch.float64, device=completions.tokens_NL.device)
    for rows in lm.micro_batches(completions, keeps_logits=True):
        some = completions.select(rows)
        read_nLK = lm.choice_log_prob(some, every_token(some, lm.vocab_size))
        log_prob_NLV[rows] = read_nLK[..., 1:].to(log_prob_NLV)
    return log_prob_NLV

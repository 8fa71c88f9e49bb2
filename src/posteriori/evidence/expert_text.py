"""A completion's text in the tokens of another language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import spend
from posteriori.core.draw import lm_tokens
from posteriori.core.prompted import Prefix, with_prefix


def retokenised(lm: Any, completions: Completions, prefix: Prefix | None) -> Tensor:
    """log pi(tokens of the text [, EOS] | prefix + c) under `lm`, float64 [N]; 0 for no tokens.

    A completion that ends has the model's end of sequence for its own.
    """
    ids = lm.tokenizer(completions.texts, add_special_tokens=False)["input_ids"]
    end = [lm.eos_token_ids[0]]
    ended = completions.ended_N.tolist()
    ids = [[*row, *end] if over else list(row) for row, over in zip(ids, ended, strict=True)]
    prompts = [
        prompt if prefix is None else with_prefix(prompt, prefix) for prompt in completions.prompts
    ]
    log_prob_N = torch.zeros(len(ids), dtype=torch.float64)
    some = [at for at, row in enumerate(ids) if row]
    if some:
        read = lm.completions([prompts[at] for at in some], [ids[at] for at in some])
        spend(lm_tokens=lm_tokens(read))
        log_prob_N[some] = lm.log_prob(read).double().cpu()
    return log_prob_N

"""A transformers model as a function of tokens: whichever of its optional arguments it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from transformers import DynamicCache

from posteriori.errors import ModelError
from posteriori.models.cpu.skip_head import left_out

_OF_ITS_OWN_CODE = (
    *(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError),
    NotImplementedError,
)
"""What a model's code raises for a use that it does not know; out of memory is another thing."""


@dataclass(frozen=True)
class ModelCall:
    """Any causal transformers model, and which of the optional arguments it takes."""

    model: Callable
    name: str
    arguments: frozenset[str]
    """Names of the optional arguments that the model takes."""
    head: nn.Module | None
    """The output head, where the model names one."""
    hidden: bool = False
    """Whether it is left out: hidden states then come in place of logits."""
    turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Around each pass: of a sharded model all processes make it together."""

    def __call__(
        self,
        ids_RT: Tensor,
        mask_RL: Tensor,
        num_logits: int,
        position_RT: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Logits (or hidden states) [R, num_logits, V] at the last columns of `ids_RT`, which go
        into the cache if there is one. Raises `ModelError` for what the model's own code raises."""
        given = {
            "attention_mask": mask_RL,
            "use_cache": cache is not None,
            "logits_to_keep": num_logits,
            # Its auxiliary loss takes a mask without the cached columns, and it is not needed.
            "output_router_logits": False,
        }
        if position_RT is not None:
            given["position_ids"] = position_RT
        given = {name: value for name, value in given.items() if name in self.arguments}
        if cache is not None:
            # A model that does not name them may take them still; its answers are compared.
            given |= {"past_key_values": cache, "attention_mask": mask_RL, "use_cache": True}
        left = left_out(cast(nn.Linear, self.head)) if self.hidden else contextlib.nullcontext()
        with left as seen:
            try:
                with self.turn():
                    out = self.model(input_ids=ids_RT, **given)
            except _OF_ITS_OWN_CODE as error:
                raise ModelError(
                    f"{self.name} cannot be run in this way: {type(error).__name__}: "
                    f"{(str(error).splitlines() or [''])[0]}",
                    hint="does it run by itself, model(input_ids=..., attention_mask=...)?",
                ) from error
        if seen is not None and out.logits is not seen[-1]:
            raise ModelError("the model changes what its output head returns, and did not before")
        return out.logits[:, -num_logits:]

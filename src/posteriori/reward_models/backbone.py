"""A sequence-classification model without its last layer: what turns text into features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from posteriori.core.occurrence import Prompt
from posteriori.core.seeds import derive, drawing
from posteriori.distributed.exchange import by_rows
from posteriori.errors import ModelError, PromptError
from posteriori.models.device import usable_device
from posteriori.models.hub import check_model_name
from posteriori.models.text.classifier_text import (
    Text,
    in_float32,
    padded,
    padding_id,
    text_of,
    token_ids,
)
from posteriori.models.transformers_loading import UNREADABLE, first_line, loading

Token = list[int]


class Backbone(nn.Module):
    """h(c, y): the input of the scalar head, as the model itself pools it; [N, D].

    The head is taken out of the model (`model.score` of most decoders, the last linear layer of
    most encoders) and put back on saving, so the saved model reads and pools texts in the very way
    it was trained. Dropout is off, in training too: with it a pair's two texts would be read by two
    different models.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        model = in_float32(model)
        self._pad = padding_id(model, tokenizer)
        self.head_name, head = _last_linear(model)
        self.hidden_size = head.in_features
        self.has_bias = head.bias is not None
        self.initial_head_D = head.weight.detach().float()[0].clone()
        _put(model, self.head_name, nn.Identity())
        self.model = model.eval()
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def context_length(self) -> int | None:
        return getattr(self.model.config, "max_position_embeddings", None)

    def text(self, prompt: Prompt, completion: str) -> Text:
        """The text of prompt and completion that `posteriori.Reward` scores too."""
        said: Any = completion
        if not isinstance(prompt, str):
            said = [{"role": "assistant", "content": completion}]
        return text_of(self.tokenizer, prompt, said)

    def tokens(self, texts: Sequence[Text], where: Sequence[str]) -> list[Token]:
        """Raises `PromptError` for a text of no tokens, or more than the context holds."""
        if not texts:
            return []
        found = token_ids(self.tokenizer, texts)
        for ids, place in zip(found, where, strict=True):
            if not ids:
                raise PromptError(
                    "prompt and completion together have no tokens",
                    where=place,
                    hint="give a prompt that is not empty",
                )
            if self.context_length is not None and len(ids) > self.context_length:
                raise PromptError(
                    f"prompt and completion have {len(ids)} tokens, and the reward model's "
                    f"context holds {self.context_length}",
                    where=place,
                    hint="remove or shorten it, or take a model with a longer context",
                )
        return found

    def forward(self, tokens: Sequence[Token]) -> Tensor:
        """Features of texts, float32 [N, D], padded on the right within this batch."""
        return self.model(**padded(tokens, self._pad, self.device)).logits.float()

    @torch.no_grad()
    def features(self, tokens: Sequence[Token], batch_size: int = 32) -> Tensor:
        """Features of any number of texts, float64 [N, D] on the CPU, in batches by length."""
        parts = by_rows(
            len(tokens),
            lambda share: self._features(tokens[share], batch_size),
            [len(ids) for ids in tokens],
        )
        return torch.cat(parts)

    def _features(self, tokens: Sequence[Token], batch_size: int) -> Tensor:
        order = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))
        feature_ND = torch.empty(len(tokens), self.hidden_size, dtype=torch.float64)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            feature_ND[rows] = self([tokens[at] for at in rows]).double().cpu()
        return feature_ND

    def head(self, weight_D: Tensor) -> nn.Linear:
        """A scalar head that says w . h, ready to be put into a model."""
        # Without the random weights that torch would draw from its global stream.
        made: Any = skip_init(nn.Linear, self.hidden_size, 1, bias=self.has_bias)
        made.weight.data = weight_D.float()[None].clone()
        if self.has_bias:
            nn.init.zeros_(made.bias)
        return made

    def put_head(self, model: Any, weight_D: Tensor) -> None:
        _put(model, self.head_name, self.head(weight_D))


def load_backbone(
    path: str | Path, tokenizer: Any, seed: int, *, trained: bool = False
) -> Backbone:
    """The model at `path` (a directory, a hub id) with a scalar head, in float32.

    A model without such a head gets a random one, a function of the seed; `trained` refuses it.
    Raises `ModelError` for what transformers cannot load as a sequence-classification model.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = str(path)
    if place.startswith(("/", ".")) and not Path(place).exists():
        raise ModelError(f"there is no model at '{place}'", hint="check the path")
    check_model_name(place, (), kind="a sequence-classification model")
    try:
        # A head that is not in the checkpoint is drawn.
        with loading() as options, drawing(derive(seed, "reward head")):
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=1, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(place, **options)
    except UNREADABLE as error:
        raise ModelError(
            f"cannot load a sequence-classification model from '{path}': {first_line(error)}",
            hint="give a directory or hub id of a transformers model with its tokenizer",
        ) from error
    model, info = loaded
    head, _ = _last_linear(model)
    others = sorted(key for key in info["missing_keys"] if not key.startswith(head))
    if others or (trained and info["missing_keys"]):
        first = others[0] if others else min(info["missing_keys"])
        raise ModelError(
            f"the model at '{path}' has no weights for '{first}': its scores would be random",
            hint="give a model that posteriori.fit_reward saved"
            if trained
            else "give a whole model",
        )
    return Backbone(model, tokenizer)


def with_device(backbone: Backbone, device: str | torch.device | None) -> Backbone:
    return backbone.to(usable_device(device))


def _last_linear(model: Any) -> tuple[str, nn.Linear]:
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no linear layer with a single output",
            hint="give a model for sequence classification with num_labels=1",
        )
    return found[-1]


def _put(model: Any, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, attribute, module)

"""How a sequence-classification model is given a text: its tokens, its padding, its precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.data.completion_text import own_text
from posteriori.data.conversation import answered, with_text_contents
from posteriori.errors import EvidenceError
from posteriori.models.weights.shared_copy import shared_copy


class Text(NamedTuple):
    """A text, and whether a chat template wrote it: that has put in the special tokens already."""

    text: str
    from_template: bool


def text_of(tokenizer: Any, prompt: Prompt, completion: Any) -> Text:
    """What a sequence-classification model reads: prompt and completion (a message list where the
    prompt is one) as one text. Raises `EvidenceError` where the chat template refuses them."""
    if isinstance(prompt, str):
        return Text(prompt + completion, False)
    messages = answered(with_text_contents(prompt), own_text(completion))
    try:
        return Text(tokenizer.apply_chat_template(messages, tokenize=False), True)
    except Exception as error:  # a template is a program that came with the model
        raise EvidenceError(
            f"the chat template of the sequence-classification model refuses a conversation that "
            f"ends with {str(messages[-1])[:60]!r}: {error}",
            hint="set its tokenizer.chat_template, or give a function that writes the text",
        ) from error


def token_ids(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """Without a second BOS (or [CLS]) where the template wrote the first."""
    found: list[list[int]] = [[] for _ in texts]
    for from_template in (False, True):
        rows = [at for at, each in enumerate(texts) if each.from_template == from_template]
        if rows:
            ids = tokenizer([texts[at].text for at in rows], add_special_tokens=not from_template)[
                "input_ids"
            ]
            for at, row in zip(rows, ids, strict=True):
                found[at] = row
    return found


def padding_id(model: Any, tokenizer: Any) -> int:
    """The token that pads this model's texts: its own, by which it finds where a text ends.

    A model that has none (or none among its tokens) gets the tokenizer's padding, else its end
    of sequence.
    """
    config = model.config.get_text_config()
    own = config.pad_token_id
    if own is not None and 0 <= own < model.get_input_embeddings().weight.shape[0]:
        return int(own)
    padding = tokenizer.pad_token_id
    config.pad_token_id = tokenizer.eos_token_id if padding is None else padding
    if config.pad_token_id is None:
        raise EvidenceError(
            "neither the sequence-classification model nor its tokenizer has a padding token",
            hint="set tokenizer.pad_token",
        )
    return int(config.pad_token_id)


def padded(ids: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Padded on the right: on the left it would shift the positions of models that learned them."""
    width = max(len(row) for row in ids)
    rows = [[*row, *[pad] * (width - len(row))] for row in ids]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
    return {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def for_reading(model: Any) -> Any:
    """The model in float32 and without dropout, of modules of its own: a user's object keeps its
    mode."""
    own = shared_copy(in_float32(model))
    # A trainer's wrapper around it would go on calling the original.
    vars(own).pop("forward", None)
    return own


def in_float32(model: Any) -> Any:
    """The model, or a copy of one in reduced precision: a reward is divided by beta, and its
    rounding with it. A quantised model stays as it is."""
    if getattr(model, "is_quantized", False):
        return model
    reduced = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in model.parameters())
    return copy.deepcopy(model).float() if reduced else model

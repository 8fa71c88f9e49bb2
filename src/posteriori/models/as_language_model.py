"""Language models in whatever form a user has one: a path, a transformers model, a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from posteriori.core.hooks import HasEnvironment, tokenizer_of
from posteriori.core.prompted import Prompted
from posteriori.core.protocols import LanguageModel
from posteriori.errors import ModelError

from .causal import CausalLM
from .load import BUNDLED, load
from .transformers_loading import UNREADABLE, loading

_HOLDERS = ("policy", "model")
"""Where objects keep the model that they are about: a `Fit`, a trainer, a pipeline."""

_TOKENIZERS = ("processing_class", "tokenizer")


def as_language_model(given: Any, role: str, like: Any = None) -> LanguageModel:
    """`given` as a language model.

    What `posteriori.load` takes; a transformers or PEFT causal model, with the tokenizer that its
    `name_or_path` has, or that of the model `like` which it is judged against; a `Fit`; a trainer
    of transformers or TRL, or a pipeline, with their own tokenizer. Raises `ModelError` for
    anything else.
    """
    if isinstance(given, str | Path):
        return load(given)
    if isinstance(given, type):
        raise ModelError(
            f"the {role} is the class {given.__name__} itself", hint="make one, or load it"
        )
    if isinstance(given, torch.nn.Module):
        return _of_module(given, role, None, like)
    for name in _HOLDERS:
        held = getattr(given, name, None)
        if isinstance(held, LanguageModel):
            return held
        if isinstance(held, torch.nn.Module):
            tokenizer = next((t for n in _TOKENIZERS if (t := getattr(given, n, None))), None)
            return _of_module(held, role, tokenizer, like)
    if hasattr(given, "generate"):
        raise ModelError(
            f"the {role} is a {type(given).__name__}, which generates and does not say how "
            "probable a text is",
            hint="give the transformers model behind it, or its path",
        )
    raise ModelError(
        f"the {role} is a {type(given).__name__}, which is no language model",
        hint='give posteriori.load("..."), a transformers model, or a path',
    )


def _of_module(model: Any, role: str, tokenizer: Any, like: Any) -> CausalLM:
    config = getattr(model, "config", None)
    kind = type(model).__name__
    if config is None or not hasattr(model, "generate") or not hasattr(model, "forward"):
        raise ModelError(
            f"the {role} is a {kind}, which is no causal language model of transformers",
            hint="load one by posteriori.load or AutoModelForCausalLM",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"the {role} is a {kind}, which reads its prompt by an encoder",
            hint="give a causal (decoder-only) language model",
        )
    return CausalLM(model, tokenizer or _tokenizer(model, role, like))


def _tokenizer(model: Any, role: str, like: Any) -> Any:
    """The model's own, by its name where that is on this machine; else that of `like`."""
    name = str(getattr(model, "name_or_path", "") or getattr(model.config, "_name_or_path", ""))
    place = BUNDLED.get(name, Path(name)) if name else None
    if place is not None:
        try:
            with loading() as options:
                return AutoTokenizer.from_pretrained(str(place), local_files_only=True, **options)
        except UNREADABLE:
            pass
    like = like.lm if isinstance(like, Prompted | HasEnvironment) else like
    own = tokenizer_of(like)
    rows = model.get_input_embeddings().weight.shape[0]
    if own is not None and rows == like.vocab_size:
        return own
    raise ModelError(
        f"the {role} is a {type(model).__name__}, and nothing says which tokenizer it has",
        hint="give posteriori.CausalLM(model, tokenizer)",
    )

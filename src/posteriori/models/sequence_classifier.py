"""Sequence-classification models: their logits, and one with a single logit as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.run.progress import advance
from posteriori.errors import EvidenceError, ModelError

from .hub import check_model_name
from .text.classifier_text import Text, for_reading, padded, padding_id, text_of, token_ids
from .transformers_loading import UNREADABLE, first_line, loading


class SequenceClassifier:
    """The logits of a sequence-classification model on texts, in batches of similar length.

    Conversations go through the tokenizer's chat template, as TRL's trainers do it. Raises
    `ModelError` for what cannot be loaded, or has no trained head.
    """

    where: ClassVar[str]
    """Whose argument the model is, for errors."""

    def __init__(self, model: Any, tokenizer: Any = None, batch_size: int = 32) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = str(model) if isinstance(model, str | Path) else model.config.name_or_path
        missing: list[str] = []
        if isinstance(model, str | Path):
            check_model_name(path, (), self.where, kind="a sequence-classification model")
        try:
            if isinstance(model, str | Path):
                with loading() as options:
                    model, info = AutoModelForSequenceClassification.from_pretrained(
                        path, dtype=torch.float32, output_loading_info=True, **options
                    )
                missing = sorted(info["missing_keys"])
            with loading() as options:
                self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(path, **options)
        except UNREADABLE as error:
            raise ModelError(
                f"cannot load a sequence-classification model from '{path}': {first_line(error)}",
                where=self.where,
                hint="give its directory or hub id, or pass tokenizer= beside a model object",
            ) from error
        if missing:
            raise ModelError(
                f"the model at '{path}' has no weights for its head ('{missing[0]}'): "
                "its scores would be random",
                where=self.where,
                hint="give a model that was trained for sequence classification",
            )
        self.path = path
        self.model = for_reading(model)
        self.batch_size = batch_size
        self.__name__ = Path(path or "sequence classifier").name
        self._pad = padding_id(self.model, self.tokenizer)

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """[N, C] for C labels, without gradient, in the texts' own order.

        Raises `EvidenceError` for a text without a token.
        """
        ids = token_ids(self.tokenizer, texts)
        for row, text in zip(ids, texts, strict=True):
            if not row:
                raise EvidenceError(
                    f"the text {text.text[:60]!r} has no tokens",
                    where=self.where,
                    hint="give a prompt that is not empty",
                )
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = []
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            inputs = padded([ids[i] for i in rows], self._pad, self.model.device)
            with torch.no_grad():
                parts.append(self.model(**inputs).logits.float().cpu())
            advance(len(rows))
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]


class SequenceScorer(SequenceClassifier):
    """r(c, y) = the single logit of a sequence-classification model on prompt and completion."""

    where = "Reward"

    def __init__(self, model: Any, tokenizer: Any = None, batch_size: int = 32) -> None:
        super().__init__(model, tokenizer, batch_size)
        if self.model.config.num_labels != 1:
            raise EvidenceError(
                f"the model at '{self.path}' has {self.model.config.num_labels} labels, a reward "
                "has one",
                where=self.where,
                hint="wrap it in a function that returns the number you mean, or take one label's "
                "probability: likelihoods.classifier(model, label)",
            )

    def __call__(self, prompts: list[Prompt], completions: list[Any], **_: Any) -> list[float]:
        texts = [text_of(self.tokenizer, *two) for two in zip(prompts, completions, strict=True)]
        return self.logits(texts)[:, 0].tolist()

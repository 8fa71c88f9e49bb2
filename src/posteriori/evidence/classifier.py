"""Sequence-classification models: their logits, and one with a single logit as a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import EvidenceError, ModelError
from ..types import Prompt
from ..watching import advance


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
        try:
            if isinstance(model, str | Path):
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    path, output_loading_info=True
                )
                missing = sorted(info["missing_keys"])
            self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load a sequence-classification model from '{path}': "
                f"{str(error).splitlines()[0]}",
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
        self.model = model.eval()
        self.batch_size = batch_size
        self.__name__ = Path(path or "sequence classifier").name
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = self.tokenizer.pad_token_id

    def logits(self, texts: list[str]) -> Tensor:
        """[N, C] for C labels, without gradient, in the texts' own order."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = []
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            # Padding on the left would shift the positions of models that learned them.
            inputs = self.tokenizer(
                [texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="right"
            ).to(self.model.device)
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


def text_of(tokenizer: Any, prompt: Prompt, completion: Any) -> str:
    """What a sequence-classification model reads: prompt and completion (a message list where the
    prompt is one) as one text."""
    if isinstance(prompt, str):
        return prompt + completion
    return tokenizer.apply_chat_template(prompt + completion, tokenize=False)

"""The probability of one label under a sequence-classification model."""

from __future__ import annotations

from typing import Any

from posteriori.core.occurrence import Prompt
from posteriori.data.completion_text import own_text
from posteriori.errors import ModelError, unknown_name
from posteriori.models.sequence_classifier import SequenceClassifier
from posteriori.models.text.classifier_text import Text, text_of


class LabelProbability(SequenceClassifier):
    """softmax(f(text))[label]; sigmoid(f(text)[label]) where labels do not exclude each other."""

    where = "likelihoods.classifier"

    def __init__(
        self, model: Any, label: str | int, read: str, tokenizer: Any, batch_size: int
    ) -> None:
        super().__init__(model, tokenizer, batch_size)
        self.read = read
        config = self.model.config
        self.several = config.problem_type == "multi_label_classification"
        if config.problem_type == "regression" or (config.num_labels == 1 and not self.several):
            raise ModelError(
                f"the model at '{self.path}' has a single score, and no probabilities",
                where=self.where,
                hint="use it as Reward(model, beta)",
            )
        names = {str(name): int(at) for at, name in config.id2label.items()}
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            self.label = label
        elif label in names:
            self.label = names[str(label)]
        else:
            raise unknown_name("label", str(label), names)
        self.__name__ = f"{self.__name__}, {label}"

    def __call__(self, prompts: list[Prompt], completions: list[Any], **_: Any) -> list[float]:
        if self.read == "completion":
            texts = [Text(own_text(each), False) for each in completions]
        else:
            both = zip(prompts, completions, strict=True)
            texts = [text_of(self.tokenizer, *each) for each in both]
        logits_NC = self.logits(texts).double()
        p_NC = logits_NC.sigmoid() if self.several else logits_NC.softmax(-1)
        return p_NC[:, self.label].tolist()

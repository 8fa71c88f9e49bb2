"""How similar in meaning a text is to others, by sentence embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.data.formats.json_object import read_object
from posteriori.errors import ConfigError, EvidenceError, ModelError
from posteriori.models.hub import check_model_name
from posteriori.models.transformers_loading import UNREADABLE, first_line, loading

from .plain_text import plain_texts

_WHERE = "likelihoods.similarity"


class Similarity:
    """sigmoid((max_j cos(h(text), h(to_j)) - threshold) / temperature)."""

    def __init__(
        self,
        to: list[str],
        model: str | Path | Callable[[list[str]], Any],
        threshold: float,
        temperature: float,
        read: str,
        batch_size: int,
    ) -> None:
        if not to or not all(isinstance(each, str) and each.strip() for each in to):
            raise ConfigError("there is no text to compare with", where=_WHERE, hint='to="..."')
        if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(threshold)):
            raise ConfigError(
                f"threshold={threshold} and temperature={temperature} must be finite, and the "
                "temperature positive",
                where=_WHERE,
            )
        self.threshold, self.temperature, self.read = threshold, temperature, read
        self.embed = MeanPooled(model, batch_size) if isinstance(model, str | Path) else model
        self.to_JD = self._embed(to)
        self.__name__ = f"similarity to {to[0][:30]!r}"

    def __call__(self, prompts: list[Prompt], completions: list[Any], **_: Any) -> list[float]:
        h_ND = self._embed(plain_texts(prompts, completions, self.read))
        cosine_N = (h_ND @ self.to_JD.T).amax(-1)
        return ((cosine_N - self.threshold) / self.temperature).sigmoid().tolist()

    def _embed(self, texts: list[str]) -> Tensor:
        """Of length one, float64 [N, D]."""
        h_ND = torch.as_tensor(self.embed(texts)).detach().cpu().double()
        if h_ND.dim() != 2 or len(h_ND) != len(texts):
            raise EvidenceError(
                f"the embedding of {len(texts)} texts has the shape {tuple(h_ND.shape)}",
                where=_WHERE,
                hint="return one row a text",
            )
        return torch.nn.functional.normalize(h_ND, dim=-1)


def _pools_by_mean(file: Path) -> bool:
    """What sentence-transformers' file says. Raises `ModelError` where it cannot be read."""
    try:
        return bool(read_object(file)["pooling_mode_mean_tokens"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"it does not say how the encoder pools: {type(error).__name__} {error}",
            where=str(file),
            hint="copy the encoder's directory again, whole",
        ) from error


class MeanPooled:
    """The mean of an encoder's last hidden states over a text's tokens, in batches of similar
    length, as sentence-transformers' models with mean pooling were trained."""

    def __init__(self, path: str | Path, batch_size: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        check_model_name(str(path), (), kind="an encoder")
        try:
            with loading() as options:
                self.model = AutoModel.from_pretrained(path, dtype=torch.float32, **options).eval()
                self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
        except UNREADABLE as error:
            raise ModelError(
                f"cannot load an encoder from '{path}': {first_line(error)}",
                where=_WHERE,
                hint="give its directory or hub id, or a function from texts to an array [N, D]",
            ) from error
        pooling = Path(path) / "1_Pooling" / "config.json"
        if pooling.is_file() and not _pools_by_mean(pooling):
            raise ModelError(
                f"'{path}' does not pool by the mean over tokens",
                where=_WHERE,
                hint="pass SentenceTransformer(path).encode instead of the path",
            )
        self.batch_size = batch_size
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, texts: list[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        longest = getattr(self.model.config, "max_position_embeddings", None)
        parts = []
        for start in range(0, len(order), self.batch_size):
            rows = [texts[i] for i in order[start : start + self.batch_size]]
            # As sentence-transformers do it, a text longer than the encoder takes counts by its
            # beginning.
            inputs = self.tokenizer(
                rows,
                return_tensors="pt",
                padding=True,
                padding_side="right",
                truncation=longest is not None,
                max_length=longest,
            ).to(self.model.device)
            with torch.no_grad():
                states_NLD = self.model(**inputs).last_hidden_state.float()
            mask_NL1 = inputs["attention_mask"][..., None].float()
            # A text without a token has the embedding 0, and a cosine of 0 with every other.
            parts.append((states_NLD * mask_NL1).sum(1) / mask_NL1.sum(1).clamp(min=1))
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]

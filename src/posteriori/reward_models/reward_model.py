"""A trained reward model: scoring, saving in transformers' format, loading."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from posteriori.core.journal.files import writing
from posteriori.core.occurrence import Prompt
from posteriori.data.formats.json_object import read_object
from posteriori.errors import ModelError

from .backbone import Backbone, load_backbone, with_device
from .head_posterior import HeadPosterior

HEADS_FILE, ABOUT_FILE = "heads.safetensors", "reward.json"
MARK = "has_posteriori_heads"
"""In config.json: the model is one of ours, and not whole without them."""


@runtime_checkable
class LinearReward(Protocol):
    """A reward that is linear in features, r(c, y) = w . h(c, y), with what is known of w."""

    posterior: HeadPosterior
    temperature: float

    def features(
        self, prompts: Sequence[Prompt], completions: Sequence[str], batch_size: int = 32
    ) -> Tensor:
        """h(c, y), float64 [N, D]."""
        ...


class RewardModel:
    """A learned reward, with what is known of its head.

        r(c, y) = w . h(c, y),   P(y1 preferred to y2) = sigmoid((r1 - r2) / temperature)

    r is in nats of log-odds up to `temperature`, and identified up to a constant per prompt, which
    no posterior p* sees. `posteriori.fit_reward` trains one; `RewardModel.load` reads one.

    Args:
        backbone: the model that gives h(c, y).
        posterior: what is known of w.
        temperature: the one that calibrates it on held-out pairs.

    Example:
        >>> reward_fit.model.reward(["The food is"], [" good"]).shape
        torch.Size([1])
    """

    def __init__(
        self, backbone: Backbone, posterior: HeadPosterior, temperature: float = 1.0
    ) -> None:
        self.backbone, self.posterior, self.temperature = backbone, posterior, temperature

    def __repr__(self) -> str:
        return (
            f"RewardModel({type(self.backbone.model).__name__}, temperature {self.temperature:.3g})"
        )

    def features(
        self, prompts: Sequence[Prompt], completions: Sequence[str], batch_size: int = 32
    ) -> Tensor:
        """h(c, y), float64 [N, D]; a text that comes twice is read once."""
        texts = [self.backbone.text(*two) for two in zip(prompts, completions, strict=True)]
        place = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        where = [f"text {each.text[:60]!r}" for each in place]
        feature_UD = self.backbone.features(self.backbone.tokens(list(place), where), batch_size)
        return feature_UD[[place[text] for text in texts]]

    def reward(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Tensor:
        """The mean reward, float64 [N]: what the saved model's single logit is."""
        return self.posterior.mean(self.features(prompts, completions))

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        merge: bool = True,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Save as a transformers sequence-classification model whose head is the mean of w.

        Beside it `heads.safetensors` holds what else is known of w, and `reward.json` the
        temperature and `about`. A LoRA adapter is merged into the weights; with `merge=False` it is
        saved as an adapter, which `peft.AutoPeftModelForSequenceClassification` loads with
        `num_labels=1`, and this library does not.
        """
        place = Path(directory)
        with writing("the reward model", place):
            place.mkdir(parents=True, exist_ok=True)
            with self._with_head(merge=merge) as model:
                model.save_pretrained(str(place))
            _mark(place / "config.json")
            self.backbone.tokenizer.save_pretrained(str(place))
            known = {k: v for k, v in asdict(self.posterior).items() if v is not None}
            save_file({k: v.contiguous() for k, v in known.items()}, place / HEADS_FILE)
            text = json.dumps({"temperature": self.temperature, **(about or {})}, indent=2)
            (place / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")

    @contextmanager
    def _with_head(self, *, merge: bool) -> Iterator[Any]:
        model, mean_D = self.backbone.model, self.posterior.mean_D
        name = self.backbone.head_name
        if isinstance(model, PeftModel) and merge:
            merged = copy.deepcopy(model).merge_and_unload()
            self.backbone.put_head(merged, mean_D)
            yield merged
            return
        inner: Any = model
        if isinstance(model, PeftModel):
            inner = model.get_base_model()
            top, _, rest = name.partition(".")
            wrapper = inner.get_submodule(top)
            assert isinstance(wrapper, ModulesToSaveWrapper), "PEFT saves a classifier whole"
            name = ".".join(part for part in (top, "modules_to_save.default", rest) if part)
        parent_name, _, attribute = name.rpartition(".")
        parent = inner.get_submodule(parent_name)
        tap = getattr(parent, attribute) if not isinstance(parent, torch.nn.ModuleDict) else None
        if tap is None:
            tap = parent[attribute]
            parent[attribute] = self.backbone.head(mean_D)
        else:
            setattr(parent, attribute, self.backbone.head(mean_D))
        try:
            yield model
        finally:
            parent.add_module(attribute, tap)

    @classmethod
    def load(cls, directory: str | Path, device: str | None = None) -> RewardModel:
        """What `save_pretrained` wrote; or any sequence-classification model with a single logit,
        which has no uncertainty and temperature 1. Raises `ModelError`."""
        place = Path(directory)
        backbone = with_device(load_backbone(directory, None, 0, trained=True), device)
        mean_D = backbone.initial_head_D.double()
        if not (place / HEADS_FILE).is_file():
            if getattr(backbone.model.config, MARK, False):
                raise ModelError(
                    f"the reward model at '{directory}' is not whole: {HEADS_FILE} is missing",
                    hint="copy all of its files, or train it again",
                )
            return cls(backbone, HeadPosterior(mean_D, torch.zeros_like(mean_D)))
        try:
            tensors = load_file(place / HEADS_FILE)
            temperature = float(read_object(place / ABOUT_FILE)["temperature"])
            if not (math.isfinite(temperature) and temperature > 0):
                raise ValueError(f"its temperature is {temperature}, not a positive number")
            posterior = HeadPosterior(**{**tensors, "mean_D": mean_D})
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"the reward model at '{directory}' is damaged: {error}",
                hint=f"its {HEADS_FILE} and {ABOUT_FILE} are those that fit_reward wrote",
            ) from error
        return cls(backbone, posterior, temperature)


def _mark(config: Path) -> None:
    """An adapter's folder has no config.json, and needs no mark."""
    if config.is_file():
        held = read_object(config)
        config.write_text(json.dumps({**held, MARK: True}, indent=2) + "\n", encoding="utf-8")

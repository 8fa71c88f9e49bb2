"""`fit_rules`: a rule model per rule, from labelled violations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from posteriori.core.settings.combined import combined
from posteriori.core.settings.keywords import FitRewardKeywords
from posteriori.core.settings.training import FitRewardConfig
from posteriori.core.types import Estimate, Finding
from posteriori.data.formats.json_object import read_object
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, DataError, ModelError
from posteriori.reward_models.fit_reward import RewardFit, fit_reward, refuse_idle
from posteriori.reward_models.reward_model import RewardModel
from posteriori.reward_models.reward_trainer import Record

from .finished import ABOUT, begin, end, finished
from .labels import RuleLabel, read_rule_labels
from .rule_model import REFERENCE, RuleModel


@dataclass(frozen=True, repr=False)
class RulesFit:
    """What `posteriori.fit_rules` returns: a rule model per rule, and how good each one is.

    Args:
        models: by rule.
        fits: how each was trained, by rule; its `held_out` figures are those of held-out labels.
        output_dir: where they are kept.

    Example:
        >>> sorted(rules_fit.models), rules_fit.accuracy["polite"].num_draws > 0
        (['polite'], True)
    """

    models: Mapping[str, RuleModel]
    fits: Mapping[str, RewardFit]
    output_dir: Path | None = None

    def __repr__(self) -> str:
        parts = [f"{rule}: held-out accuracy {each}" for rule, each in self.accuracy.items()]
        return f"RulesFit({', '.join(parts)})"

    @property
    def accuracy(self) -> dict[str, Estimate]:
        """Held-out labels that each model says rightly, by rule."""
        return {rule: fit.held_out.accuracy for rule, fit in self.fits.items()}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What there is to say of the runs."""
        return tuple(found for fit in self.fits.values() for found in fit.findings)


@named_arguments
def fit_rules(
    model: str | Path | Any,
    labels: Any,
    *,
    tokenizer: Any = None,
    device: str | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[Record], None] | None = None,
    config: FitRewardConfig | None = None,
    **settings: Unpack[FitRewardKeywords],
) -> RulesFit:
    """Train a rule model per rule, from labelled violations.

        P(kept | c, y) = sigmoid(r(c, y) - r(c, reference)),
        loss = binary cross-entropy of the labels, nats per label

    One reward model per rule, with everything that `fit_reward` has: the threshold is the reward
    of one fixed text, so that labels are pairs of a completion and it. Rule by rule, because a
    target that is their product can then say which rule it rests on (Sparrow: Glaese et al. 2022,
    arXiv 2209.14375, section 2.5).

    Args:
        model: as of `fit_reward`; each rule trains its own from it.
        labels: rows of prompt, completion, rule, violated (true, false or a probability): a file,
            a data set or a list.
        tokenizer: of a model that was given as an object.
        device: where they are trained.
        output_dir: new or empty; keeps a folder per rule, and `posteriori.Rules(path)` loads it.
        resume: go on from what a stopped run left in `output_dir`: rules that are trained stay.
        on_step: sees each step's record, with the rule that it is of.
        config: the settings, as one `FitRewardConfig`.
        settings: or its fields, as keywords.

    Returns:
        A `RulesFit`: the models by rule, with held-out metrics.

    Raises:
        DataError: with the row, for what is no label, or a rule that none of its labels breaks.
        ModelError: for a model that cannot be loaded.
        CheckpointError: for an output_dir in use, or begun with other labels or settings.

    Example:
        >>> rows = [
        ...     {"prompt": f"Dish {n} is", "completion": [" good", " rubbish"][n % 2],
        ...      "rule": "polite", "violated": n % 2 == 1}
        ...     for n in range(40)
        ... ]
        >>> sorted(po.fit_rules("tiny", rows, tuning="head", epochs=1, seed=0).models)
        ['polite']
    """
    checked = combined(FitRewardConfig, config, settings, "config", "fit_rules")
    refuse_idle(checked)
    by_rule = read_rule_labels(labels)
    pairs = {rule: [_pair(label) for label in its] for rule, its in by_rule.items()}
    place = None if output_dir is None else Path(output_dir)
    if resume and place is None:
        raise ConfigError("resume=True needs the run's output_dir", where="fit_rules")
    folders = _folders(by_rule)
    if place is not None:
        named = str(model) if isinstance(model, str | Path) else type(model).__name__
        begin(place, [named, pairs, checked.own()], resume=resume)
    fits: dict[str, RewardFit] = {}
    for rule, its in pairs.items():
        folder = None if place is None else place / folders[rule]
        done = None if folder is None else finished(folder)
        fits[rule] = done or fit_reward(
            model,
            its,
            tokenizer=tokenizer,
            device=device,
            output_dir=folder,
            resume=folder is not None and folder.is_dir(),
            on_step=None if on_step is None else _named(on_step, rule),
            config=checked,
        )
    if place is not None:
        end(place, {"rules": folders, "reference": REFERENCE})
    models = {rule: RuleModel(fit.model) for rule, fit in fits.items()}
    return RulesFit(models, fits, place)


def _named(on_step: Callable[[Record], None], rule: str) -> Callable[[Record], None]:
    return lambda record: on_step({**record, "rule": rule})


def load_rules(directory: str | Path) -> dict[str, RuleModel]:
    """The rule models that `fit_rules` wrote to a directory. Raises `ModelError`."""
    place = Path(directory)
    if not (place / ABOUT).is_file():
        raise ModelError(
            f"there are no rules at '{directory}': it has no {ABOUT}",
            hint="give the output_dir of posteriori.fit_rules",
        )
    about = read_object(place / ABOUT)
    if about.get("reference") != REFERENCE or not isinstance(about.get("rules"), dict):
        raise ModelError(
            f"the rules at '{directory}' are damaged, or of another version",
            hint="train them again with posteriori.fit_rules",
        )
    return {
        str(rule): RuleModel(RewardModel.load(place / str(folder)))
        for rule, folder in about["rules"].items()
    }


def _pair(label: RuleLabel) -> dict[str, Any]:
    if label.completion == REFERENCE:
        raise DataError(
            f"'completion' is {REFERENCE!r}, which all completions are compared with",
            where=label.where,
            hint="remove the row",
        )
    return {
        "prompt": label.prompt,
        "chosen": label.completion,
        "rejected": REFERENCE,
        "label": 1.0 - label.violated,
    }


def _folders(rules: Mapping[str, Any]) -> dict[str, str]:
    """A folder's name for each rule: its letters and digits, numbered where two are the same."""
    found: dict[str, str] = {}
    for rule in rules:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", rule).strip("-").lower()[:40] or "rule"
        taken = set(found.values())
        name = plain
        number = 2
        while name in taken:
            name, number = f"{plain}-{number}", number + 1
        found[rule] = name
    return found

"""Policies that do not start as the prior: which model it is, and that it may be one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel

from posteriori.core.prompted import Prompted
from posteriori.core.protocols import LanguageModel, TrainableLM
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.settings.training import LoraSettings
from posteriori.core.target import Target
from posteriori.errors import ConfigError, ModelError
from posteriori.models.as_language_model import as_language_model
from posteriori.models.causal import CausalLM
from posteriori.models.run_policy import policy_of_run
from posteriori.models.tabular import TabularLM
from posteriori.models.weights.state import same_base


def without_start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The settings of a run without the model that its policy starts as, and that model (None: the
    prior), where it was given as an object: as `start`, or as `policy` itself.

    Raises `ConfigError` where it is given twice.
    """
    left, policy = dict(settings), settings.get("policy")
    start = left.pop("start", None)
    if _is_model(policy):
        if start is not None:
            raise ConfigError(
                "both policy and start are models", where="fit", hint="remove one of them"
            )
        left.pop("policy")
        start = policy
    if isinstance(start, str | Path):
        return {**left, "start": str(start)}, None
    return left, start


def _is_model(policy: Any) -> bool:
    if policy is None or isinstance(policy, str):
        return False
    held = isinstance(getattr(policy, "policy", None), LanguageModel)
    return held or isinstance(policy, LanguageModel | torch.nn.Module)


def starting_model(given: Any, path: str | None, target: Target) -> TrainableLM | None:
    """What the policy starts as; None for the prior.

    Raises `ModelError` for a model that cannot be trained, that has other outcomes than the prior,
    or with a prefix.
    """
    if given is None and path is None:
        return None
    if given is None:
        place = policy_of_run(Path(str(path))) or Path(str(path))
        is_table = (place / "table.json").is_file()
        given = TabularLM.from_pretrained(place) if is_table else place
    lm: Any = given if isinstance(given, LanguageModel) else None
    lm = as_language_model(given, "start", target.prior) if lm is None else lm
    if isinstance(lm, Prompted):
        raise ModelError(
            "the policy is to start as a model with a prefix, which its weights do not have",
            where="start",
            hint="give the model without the prefix",
        )
    if not isinstance(lm, TrainableLM):
        raise ModelError(
            f"the policy is to start as a {type(lm).__name__}, which cannot be trained",
            where="start",
            hint="use a CausalLM (posteriori.load) or a TabularLM",
        )
    check_same_outcomes(target.prior, lm, target.prompts, "start")
    return lm


def new_policy(
    prior: LanguageModel,
    start: TrainableLM | None,
    kind: Literal["full", "lora"],
    lora: LoraSettings,
    seed: int,
) -> TrainableLM:
    """A policy that starts as `start`, or as the prior.

    An adapter goes on as one where the policy is one: it is put on the prior's weights,
    which are its own base, and so in memory once.
    """
    if start is None or kind == "full" or not _is_adapter(start):
        begins = prior if start is None else start
        assert isinstance(begins, TrainableLM), "`fit` has checked it"
        return begins.as_policy(kind, lora, seed)
    own: Any = start
    bare: Any = prior.lm if isinstance(prior, Prompted) else prior
    if not (isinstance(bare, CausalLM) and same_base(bare.model, own.model)):
        raise ModelError(
            "the adapter that the policy is to start as stands on other weights than the prior's",
            where="start",
            hint='train all weights (policy="full"), or load it with merge_adapter=True and put a '
            "new adapter on it",
        )
    config = own.model.peft_config[own.adapter]
    stated = {"rank": int(config.r), "alpha": float(config.lora_alpha)}
    if stated != {"rank": lora.rank, "alpha": lora.alpha}:
        raise ConfigError(
            f"the adapter that the policy is to start as has {stated}, and lora is another",
            where="fit",
            hint=f"write lora={stated}",
        )
    assert isinstance(prior, TrainableLM), "it is a CausalLM, or one with a prefix"
    policy = prior.as_policy(kind, lora, seed)
    try:
        policy.load_trained_state(start.trained_state())
    except ModelError as error:
        raise ConfigError(
            f"the adapter that the policy is to start as has other layers than lora: {error.what}",
            where="fit",
            hint="write the target_modules that it was made with into lora",
        ) from error
    return policy


def _is_adapter(start: TrainableLM) -> bool:
    return (
        isinstance(start, CausalLM)
        and start.adapter is not None
        and isinstance(start.model, PeftModel)
    )


def in_words(given: Any, path: str | None) -> str | None:
    """What the record says that the policy started as; None for the prior."""
    if path is not None or given is None:
        return path
    lm = getattr(given, "policy", given)
    name = getattr(getattr(getattr(lm, "model", lm), "config", None), "_name_or_path", "")
    return str(name) or type(lm).__name__

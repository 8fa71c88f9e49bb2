"""`policy=peft.LoraConfig(...)`: what it says, in the settings of a run."""

from __future__ import annotations

from typing import Any

from posteriori.core.hooks import HasEnvironment
from posteriori.core.prompted import Prompted
from posteriori.errors import ConfigError
from posteriori.models.causal import CausalLM

_KNOWN = {"r": "rank", "lora_alpha": "alpha", "target_modules": "target_modules"}

_SAYS_NOTHING = ("task_type", "peft_type", "inference_mode", "base_model_name_or_path", "revision")
"""Settings of a LoraConfig that change no adapter."""


def with_lora_config(settings: dict[str, Any], prior: Any) -> dict[str, Any]:
    """`settings` of `fit` with a PEFT config as `policy` written as policy="lora" and lora={...}.

    `target_modules` that are left out are those that PEFT has for the prior's architecture. Raises
    `ConfigError` for another kind of PEFT config, and for settings of it that nothing here does.
    """
    given = settings.get("policy")
    if given is None or isinstance(given, str):
        return settings
    name = type(given).__name__
    if not hasattr(given, "peft_type"):
        raise ConfigError(
            f"policy is a {name}",
            where="fit",
            hint='write policy="full" or "lora", or give a peft.LoraConfig',
        )
    if name != "LoraConfig":
        raise ConfigError(
            f"policy is a {name}", where="fit", hint="adapters here are LoRA: use a LoraConfig"
        )
    if "lora" in settings:
        raise ConfigError(
            "both policy=LoraConfig(...) and lora are given", where="fit", hint="remove lora"
        )
    stated, default = given.to_dict(), type(given)().to_dict()
    for key, value in stated.items():
        if key not in _KNOWN and key not in _SAYS_NOTHING and value != default.get(key):
            raise ConfigError(
                f"the LoraConfig has {key}={value!r}, which is not for a policy here",
                where="fit",
                hint=f"leave it out; used are {', '.join(_KNOWN)}",
            )
    modules = given.target_modules
    if modules is None:
        modules = _of_architecture(prior)
    lora = {
        "rank": int(given.r),
        "alpha": float(given.lora_alpha),
        "target_modules": modules if isinstance(modules, str) else tuple(sorted(modules)),
    }
    return {**settings, "policy": "lora", "lora": lora}


def _of_architecture(prior: Any) -> Any:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as MAPPING

    bare = prior.lm if isinstance(prior, Prompted | HasEnvironment) else prior
    kind = str(bare.model.config.model_type) if isinstance(bare, CausalLM) else ""
    return MAPPING.get(kind, "all-linear")

"""The models that a plan names, loaded the way that its prior is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posteriori.core.prompted import Prompted
from posteriori.core.protocols import LanguageModel
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.errors import ModelError
from posteriori.models.causal import CausalLM
from posteriori.models.load import base_of_adapter, is_gone, load

from .check import Plan
from .choice import Choice


def load_model(plan: Plan, path: str, on_note: Callable[[str], None] | None = None) -> CausalLM:
    """A model that computes the way the config says of its prior.

    Of an adapter whose base model has been moved, the prior is taken for it if it has its name, and
    `on_note` receives that.
    """
    settings = plan.config.prior
    moved = _moved_base(Path(path), plan.prior)
    if moved is not None and on_note is not None:
        on_note(f"'{path}' stands on '{moved}', which is gone; '{plan.prior}' is taken for it")
    return load(
        path,
        base=None if moved is None else plan.prior,
        device=settings.device,
        dtype=settings.dtype,
        # An adapter says itself how its base was quantised.
        quantization=settings.quantization if path == plan.prior else None,
        device_map=settings.device_map,
        merge_adapter=settings.merge_adapter,
        memory_gib=settings.memory_gib,
        # What the config says is of the prior's own code.
        trust_remote_code=path == plan.prior and settings.trust_remote_code,
        revision=settings.revision if path == plan.prior else None,
    )


def _moved_base(adapter: Path, prior: str) -> str | None:
    """The base model that an adapter names, where it is gone and the prior has its name."""
    if not (adapter / "adapter_config.json").is_file():
        return None
    base = base_of_adapter(adapter)
    return base if is_gone(base) and Path(base).name == Path(prior).name else None


def load_prior(plan: Plan, on_note: Callable[[str], None] | None = None) -> Any:
    """The prior, with its prefix where it has one."""
    prefix = plan.config.prior.prompt_prefix
    bare = load_model(plan, plan.prior, on_note) if plan.loader is None else _loaded(plan.loader)
    return bare if prefix is None else Prompted(bare, prefix)


def _loaded(loader: Choice) -> LanguageModel:
    """What a plugin's loader has loaded."""
    found = loader.make()
    if not isinstance(found, LanguageModel):
        raise ModelError(
            f"the loader '{loader.name}' gave a {type(found).__name__}, which is no language model",
            where=loader.site.where,
            hint="it has to have the methods of posteriori.LanguageModel",
        )
    return found


def load_policy(
    plan: Plan, path: str, prior: Any, on_note: Callable[[str], None] | None = None
) -> CausalLM:
    """A policy to be judged. Raises `ModelError` where its tokens are not those of the prior: its
    log-probs would then be of other texts."""
    policy = load_model(plan, path, on_note)
    bare: Any = prior.lm if isinstance(prior, Prompted) else prior
    if plan.loader is not None:
        check_same_outcomes(bare, policy, plan.data.prompts, f"policy '{path}'")
        return policy
    same = (
        policy.eos_token_ids == bare.eos_token_ids
        and policy.tokenizer.get_vocab() == bare.tokenizer.get_vocab()
    )
    if not same:
        raise ModelError(
            f"the tokens of '{path}' are not those of the prior '{plan.prior}'",
            hint="compare models that share the prior's tokenizer and end-of-sequence tokens",
        )
    return policy

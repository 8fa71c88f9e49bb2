"""The prompts that training is judged on."""

from __future__ import annotations

from posteriori.core.target import PromptSource, Target
from posteriori.data.prompts import prompts
from posteriori.errors import ConfigError


def held_out_target(target: Target, held_out: Target | PromptSource | None) -> Target:
    """The target over held-out prompts; the training target itself where there are none.

    Raises `ConfigError` for columns that a list of prompts cannot have, and for a target with
    another prior or length: it would be judged on another outcome space.
    """
    if held_out is None:
        return target
    if not isinstance(held_out, Target):
        data = prompts(held_out)
        missing = [name for name in target.columns if name not in data.columns]
        if missing:
            lacking = f"no '{missing[0]}'" if data.columns else "none"
            raise ConfigError(
                f"the target has columns ({', '.join(target.columns)}), and held_out has {lacking}",
                where="fit",
                hint="write held_out=target.with_prompts(prompts, columns)",
            )
        return target.with_prompts(data)
    if held_out.prior is not target.prior or held_out.max_new_tokens != target.max_new_tokens:
        raise ConfigError(
            "held_out has another prior or another max_new_tokens than the target",
            where="fit",
            hint="write held_out=target.with_prompts(prompts, columns)",
        )
    return held_out

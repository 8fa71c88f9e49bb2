"""Results as the tables of other packages: pandas and ArviZ, where they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from posteriori.core.rows_of_prompts import rows_of_prompts, shares_of_prompts
from posteriori.core.tensors import bools, distinct, floats, ints
from posteriori.errors import ConfigError

if TYPE_CHECKING:
    from posteriori.core.types import Draws, Estimate


def needed(names: tuple[str, ...], doing: str) -> Any:
    """The first of the packages that is installed. Raises `ConfigError` without any."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ConfigError(f"{doing} needs the package '{names[-1]}'", hint=f"pip install {names[-1]}")


def frame_of_figures(figures: dict[str, Estimate]) -> Any:
    """A row per figure and prompt; the mean over prompts has no prompt (<NA>)."""
    pandas = needed(("pandas",), "a DataFrame")
    rows: list[dict[str, Any]] = []
    for name, mean in figures.items():
        several = mean.per_prompt if len(mean.per_prompt) > 1 else ()
        for prompt, each in [(None, mean), *enumerate(several)]:
            rows.append(
                {
                    "figure": name,
                    "prompt": prompt,
                    "value": each.value,
                    "standard_error": each.standard_error,
                    "standard_error_new_prompts": each.standard_error_new_prompts,
                    "kind": each.kind,
                    "num_draws": each.num_draws,
                }
            )
    return pandas.DataFrame(rows).astype({"prompt": "Int64"})


def frame_of_draws(draws: Draws) -> Any:
    """A row per draw; `weight` is its share of its prompt's weight, logs are in nats."""
    pandas = needed(("pandas",), "a DataFrame")
    completions = draws.completions
    share_N = shares_of_prompts(completions, draws.log_weight)
    columns: dict[str, list[Any]] = {
        "prompt_index": ints(completions.prompt_index_N),
        "prompt": draws.prompts,
        "completion": draws.texts,
        "ended": bools(completions.ended_N),
        "reward": floats(draws.reward_N),
        "weight": floats(share_N),
        "log_weight": floats(draws.log_weight),
        "log_prior": floats(draws.log_prior_N),
        "log_evidence": floats(draws.log_evidence_N),
        "log_proposal": floats(draws.log_proposal_N),
    }
    if draws.group_N is not None:
        columns["group"] = ints(draws.group_N)
    return pandas.DataFrame(columns)


def _are_chains(draws: Draws, rows: Sequence[Tensor], chains: int) -> bool:
    """Whether the rows of each prompt are as many groups, of as many draws each."""
    if draws.group_N is None:
        return True
    groups = [draws.group_N[each].reshape(chains, -1) for each in rows]
    return all(
        bool((group_CD == group_CD[:, :1]).all()) and len(distinct(group_CD[:, 0])) == chains
        for group_CD in groups
    )


def inference_data_of_draws(draws: Draws) -> Any:
    """ArviZ's InferenceData: posterior (reward, log_prior, log_evidence) and sample_stats
    (log_weight, log_proposal), with the dimensions chain, draw and prompt.

    A group of dependent draws (a chain, a population) is a chain. Weighted draws stay weighted:
    plots of ArviZ see them as if all weighed the same, so resample them first. Raises
    `ConfigError` without ArviZ, and where groups or prompts have different numbers of draws.
    """
    arviz = needed(("arviz_base", "arviz"), "InferenceData")
    rows: Sequence[Tensor] = rows_of_prompts(draws.completions)
    chains = 1
    if draws.group_N is not None and len(rows):
        chains = len(distinct(draws.group_N[rows[0]]))
        # Chains take their steps side by side: a chain's draws are not neighbours.
        rows = [each[draws.group_N[each].argsort(stable=True)] for each in rows]
    sizes = {len(each) for each in rows}
    if len(sizes) != 1 or (size := sizes.pop()) % chains or not _are_chains(draws, rows, chains):
        raise ConfigError(
            "prompts or groups have different numbers of draws, so they are no table",
            where="to_inference_data",
            hint="take to_dataframe()",
        )

    def table(values_N: Any) -> Any:
        by_prompt = [values_N[each].cpu().numpy().reshape(chains, size // chains) for each in rows]
        return np.stack(by_prompt, -1)

    groups = {
        "posterior": {
            "reward": table(draws.reward_N),
            "log_prior": table(draws.log_prior_N),
            "log_evidence": table(draws.log_evidence_N),
        },
        "sample_stats": {
            "log_weight": table(draws.log_weight),
            "log_proposal": table(draws.log_proposal_N),
        },
    }
    dims = {name: ["prompt"] for group in groups.values() for name in group}
    if arviz.__name__ == "arviz_base" or not hasattr(arviz, "InferenceData"):
        return arviz.from_dict(groups, dims=dims)
    return arviz.from_dict(**groups, dims=dims)

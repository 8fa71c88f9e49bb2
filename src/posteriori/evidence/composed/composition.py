"""A reward that is a weighted sum of readable features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posteriori.core.occurrence import Prompt
from posteriori.core.run.call_context import current_calls
from posteriori.core.types import Estimate, Finding
from posteriori.data.completion_text import own_text
from posteriori.data.given_numbers import finite, in_short
from posteriori.errors import EvidenceError
from posteriori.evidence.calls.call import ask
from posteriori.reward_models.calibration import HeldOut
from posteriori.reward_models.head_posterior import HeadPosterior

Feature = Callable[..., Any]


class Composition:
    """A compositional preference model, which `posteriori.fit_composition` makes.

        r(c, y) = sum_k w_k (f_k(c, y) - mean_k) / sd_k

    mean and sd are those of the training pairs' texts, so that weights can be compared: w_k is by
    how many nats of log-odds a standard deviation of the feature moves a preference. It is a reward
    function as it is, `po.Reward(composition, beta)`; `po.Preferences(composition, beta, "lower")`
    takes what is not known of the weights into account.

    Args:
        fns: the features' functions, by name.
        centre_K: their means.
        scale_K: their standard deviations.
        posterior: what is known of the weights.
        held_out: its figures on held-out pairs.
        findings: what there is to say of the fit.

    Example:
        >>> composition.weights["cheerful"].value > 0
        True
        >>> len(composition(["The food is"], [" good"]))
        1
    """

    def __init__(
        self,
        fns: Mapping[str, Feature],
        centre_K: Tensor,
        scale_K: Tensor,
        posterior: HeadPosterior,
        held_out: HeldOut,
        findings: Sequence[Finding] = (),
    ) -> None:
        self.fns = dict(fns)
        self.centre_K, self.scale_K = centre_K, scale_K
        self.posterior, self.held_out = posterior, held_out
        self.temperature = held_out.temperature
        self.findings = tuple(findings)

    def __repr__(self) -> str:
        parts = [f"{name} {each.value:+.3g}" for name, each in self.weights.items()]
        return f"Composition({', '.join(parts)}; held-out accuracy {self.held_out.accuracy})"

    @property
    def weights(self) -> dict[str, Estimate]:
        """w_k by feature: nats of log-odds per standard deviation of the feature, with its error
        in the posterior."""
        root_KK = self.posterior.root_DD
        assert root_KK is not None, "fit_composition makes a Gaussian"
        error_K = root_KK.square().sum(1).sqrt()
        both = zip(self.posterior.mean_D.tolist(), error_K.tolist(), strict=True)
        return {
            name: Estimate(value, error, "consistent", self.held_out.num_pairs)
            for name, (value, error) in zip(self.fns, both, strict=True)
        }

    def features(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        batch_size: int = 32,  # noqa: ARG002 - for models
    ) -> Tensor:
        """The features in standard deviations from their means, float64 [N, K]."""
        raw_NK = raw_features(self.fns, prompts, completions)
        return (raw_NK - self.centre_K) / self.scale_K

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Any], **_: Any
    ) -> list[float]:
        """r of each completion, as TRL's trainers call reward functions."""
        texts = [own_text(each) for each in completions]
        return self.posterior.mean(self.features(prompts, texts)).tolist()


def raw_features(
    fns: Mapping[str, Feature], prompts: Sequence[Prompt], completions: Sequence[str]
) -> Tensor:
    """f_k(c, y), float64 [N, K]; functions are called like reward functions, without columns.

    Raises `EvidenceError` for what is not finite.
    """
    arguments = {
        "prompts": list(prompts),
        "completions": [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ],
    }
    columns = []
    for name, fn in fns.items():
        where = f"feature '{name}'"
        answers = ask(fn, arguments, current_calls(), name=where) if len(completions) else []
        values = [float(a) if isinstance(a, bool) else finite(a) for a in answers]
        for row, (value, answer) in enumerate(zip(values, answers, strict=True)):
            if value is None:
                raise EvidenceError(
                    f"it returned {in_short(answer)} for {completions[row][:60]!r}",
                    where=where,
                    hint="a feature has a finite value for every completion",
                )
        columns.append(torch.tensor(values, dtype=torch.float64))
    return torch.stack(columns, dim=1)

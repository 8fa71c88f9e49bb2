"""Features phi(c, y) of completions, and evidence that is exponential in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt, prompt_key
from posteriori.core.protocols import Columns, Scores
from posteriori.data.given_numbers import in_short
from posteriori.errors import EvidenceError
from posteriori.evidence.calls.call import call_user_function, numbers

Features = Mapping[str, Callable[..., Any]]


def feature_values(features: Features, completions: Completions, columns: Columns) -> Tensor:
    """phi(c, y), float64 [N, K] on the completions' device. Functions are called like reward
    functions; true and false count 1 and 0. Raises `EvidenceError` for anything not finite."""
    columns_of_phi = []
    for name, fn in features.items():
        where = f"feature '{name}'"
        answers = call_user_function(fn, completions, columns, name=where)
        value_N = numbers(answers, completions, name=where, unit="number")
        if not bool(value_N.isfinite().all()):
            row = int((~value_N.isfinite()).nonzero()[0])
            raise EvidenceError(
                f"it returned {in_short(answers[row])} for completion {row} "
                f"({completions.texts[row][:60]!r})",
                where=where,
                hint="a feature has a finite value for every completion; to forbid one, put a "
                "Constraint beside the moments",
            )
        columns_of_phi.append(value_N)
    return torch.stack(columns_of_phi, dim=1).to(completions.tokens_NL.device)


class Tilt:
    """log e(c, y) = lambda . phi(c, y) with lambda given: [1, K], or [P, K] with one per prompt.

    The reward that is reported is phi itself where there is one feature, and lambda . phi where
    there are several. Raises `EvidenceError` for a prompt that has no lambda.
    """

    def __init__(
        self, features: Features, lambda_PK: Tensor, prompts: Sequence[Prompt] | None = None
    ) -> None:
        self.features, self.lambda_PK = features, lambda_PK
        self.prompts = None if prompts is None else tuple(prompts)
        self._row = {prompt_key(prompt): row for row, prompt in enumerate(prompts or ())}
        self.name = f"moments of {', '.join(features)}"

    def score(self, completions: Completions, columns: Columns) -> Scores:
        phi_NK = feature_values(self.features, completions, columns)
        lambda_NK = self.lambda_PK.to(phi_NK.device)[self._rows(completions)]
        log_evidence_N = (lambda_NK * phi_NK).sum(-1)
        return Scores(log_evidence_N, phi_NK[:, 0] if len(self.features) == 1 else log_evidence_N)

    def _rows(self, completions: Completions) -> Tensor:
        """Which lambda each completion's prompt has, [N]."""
        if self.prompts is None:
            return torch.zeros_like(completions.prompt_index_N)
        rows = []
        for prompt in completions.prompt_set:
            if prompt_key(prompt) not in self._row:
                raise EvidenceError(
                    f"the prompt {str(prompt)[:60]!r} has no lambda of its own",
                    where=self.name,
                    hint="score completions of the prompts it was fitted to, or fit one lambda for "
                    "all prompts (per_prompt=False)",
                )
            rows.append(self._row[prompt_key(prompt)])
        index_N = completions.prompt_index_N
        return torch.tensor(rows, device=index_N.device)[index_N]

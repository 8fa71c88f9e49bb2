"""`fit_moments`: lambda of the moments among a target's evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.run.progress import Progress
from posteriori.core.target import Target
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping
from posteriori.samplers.base import Sampler

from .fit import fitted
from .fitted_moments import FittedMoments
from .moments import Moments


@named_arguments
@explained("fitting the moments", "set a lower num_samples, max_new_tokens or memory_gib")
def fit_moments(
    target: Target,
    *,
    sampler: str | Sampler | None = None,
    proposal: LanguageModel | None = None,
    on_progress: Progress | None = None,
    journal: Path | str | None = None,
    resume: bool = False,
) -> FittedMoments:
    """Fit the `Moments` of a target: the lambda with which it has the wanted means.

        lambda = argmin (1/P) sum_c log E_c[exp(lambda . phi)] - lambda . wanted

    E_c is over the rest of the target, prior x other evidence. It happens by itself where lambda is
    first needed; call it for another sampler, or a proposal that is nearer to the target. By
    enumeration lambda is exact; by draws it is consistent, and its standard error is the sandwich
    estimate over independent draws or groups. Where the weights of a prompt cannot be trusted at
    lambda (fewer than a tenth effective, Pareto k-hat, the rule of three), lambda goes only as far
    as all prompts reach, the sampler draws from the target at that lambda, and so on, ten rounds at
    most.

    Args:
        target: a target with `Moments`.
        sampler: the sampler of later rounds; default: SMC that judges each prefix by the features
            it has so far, or "annealed" for models that cannot be run token by token.
        proposal: what makes the first draws; default: the prior.
        on_progress: counts passes over the first draws, and begins again with each round.
        journal: a folder that keeps what is finished until all is.
        resume: go on from the journal of a run that was stopped, and end with the same bits.

    Returns:
        A `FittedMoments`: lambda with its errors, effective draws, findings.

    Raises:
        ConfigError: for a target without moments.
        EvidenceError: for features that are constant among the draws, collinear, or cannot have the
            wanted means.

    Example:
        >>> def has_a(completions, **_):
        ...     return ["a" in text for text in completions]
        >>> wanted = po.Target(prior, po.Moments({"has_a": (has_a, 0.5)}), ["x", "y"], 3)
        >>> po.fit_moments(wanted).method
        'enumerate'
    """

    def about() -> dict[str, Any]:
        return {
            "the work": "fit_moments",
            "sampler": digest(sampler),
            "proposal": digest(None if proposal is target.prior else proposal),
        }

    for each in target.evidence:
        if isinstance(each, Moments):
            with keeping(target, journal, about, resume=resume, fits_moments=False):
                return each.fit_with(
                    lambda moments: fitted(moments, sampler, proposal, on_progress)
                )
    raise ConfigError("the target has no Moments", hint="put one among its evidence")

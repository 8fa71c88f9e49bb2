"""`fit_moments`: lambda of the moments among a target's evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posteriori.core.progress import Progress
from posteriori.core.protocols import LanguageModel
from posteriori.core.run.out_of_memory import explained
from posteriori.core.target import Target
from posteriori.errors import ConfigError
from posteriori.runs.target_fingerprint import digest
from posteriori.runs.target_journal import keeping
from posteriori.samplers.base import Sampler

from .fit import fitted
from .fitted_moments import FittedMoments
from .moments import Moments


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
    """lambda = argmin (1/P) sum_c log E_c[exp(lambda . phi)] - lambda . wanted, for the `Moments`
    of this target, from now on; E_c is over the rest of it, prior x other evidence.

    It happens by itself where lambda is first needed; call it for another `sampler`, or a
    `proposal` that is nearer to the target than the prior. The first draws are the proposal's,
    weighted. Each prompt is judged alone. Where fewer than a tenth of its draws are effective at
    lambda, or Pareto k-hat (of independent draws) says that its weights are not to be trusted, or
    its draws may have missed what lambda favours (the rule of three), lambda goes only as far as
    all reach, `sampler` draws from the target at that lambda, and so on: ten rounds at most, three
    of them all the way, then a finding says what is left. The sampler is SMC that judges each
    prefix by the features it has so far; for models that cannot be run token by token it is
    "annealed". `on_progress` counts passes over the first draws, and begins again with each round.

    `journal` is a folder that has what is finished until all is: with `resume=True` a run that was
    killed goes on from there, and ends with the same bits. The folder stays, to be removed when
    it is of no use any more.

    Guarantee: by enumeration lambda is exact; by draws it is consistent, and its standard error is
    the sandwich estimate over independent draws (or the sampler's groups of dependent ones).
    Raises `ConfigError` for a target without moments, `EvidenceError` for features that are
    constant among the draws, collinear, or cannot have the wanted means.
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

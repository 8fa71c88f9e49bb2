"""Sequential Monte Carlo over tokens, steered by twists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import those
from posteriori.core.journal.journal import once
from posteriori.core.protocols import TokenConstraint, TrainableLM
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.tensors import distinct_places, ints, split_evenly
from posteriori.core.types import Draws, Guarantee
from posteriori.errors import ConfigError
from posteriori.samplers.base import Job, Sampler
from posteriori.samplers.weight_findings import log_z_of_populations

from .lookahead import next_tokens_checked
from .make_twist import make_twist
from .particles import stepping
from .populations import Plan, Populations
from .resampling import Choices, Scheme
from .turns import Turns
from .twists import Twist

_REPLICATES = 4
_ROWS = 4096
"""Particles at once: a run that stops keeps those that were finished."""


_AUTO: Literal["auto"] = "auto"


def _twist(given: Any) -> Any:
    return given if given == _AUTO else make_twist(given)


def twist_for(target: Target) -> Twist:
    """ "prefix" where a constraint of the target can judge the beginning of a text, else "none"."""
    judges = any(each.judges_prefixes for each in those(target.evidence, TokenConstraint))
    return make_twist("prefix" if judges else "none")


class SMCConfig(Strict, arbitrary_types_allowed=True):
    """Settings of the sampler "smc", sequential Monte Carlo.

    Args:
        replicates: independent populations per prompt; left out, 4 unless there are fewer draws.
        ess_threshold: a population is resampled where fewer than this share of its particles is
            effective, between 0 and 1; left out, 0.5, and 0 under a learned twist that steers.
        resampling: "systematic", "stratified" or "multinomial".
        guidance: how far the proposal follows a twist that knows all next tokens, between 0 and 1.
        twist: the guess of the evidence to come: a name (`posteriori ls twists`), a table with its
            settings, a `Twist`, or a file; "auto" is "prefix" where a constraint can judge
            prefixes.
        lookahead: next tokens that constraints check before one is drawn; 0: none; "auto": 64 where
            all constraints are quick and the prior proposes.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> po.SMCConfig(replicates=8).resampling
        'systematic'
    """

    replicates: int | None = Field(default=None, ge=1)
    ess_threshold: float | None = Field(default=None, ge=0, le=1)
    resampling: Scheme = "systematic"
    guidance: float = Field(default=0.9, ge=0, le=1)
    twist: Annotated[Any, AfterValidator(_twist)] = _AUTO
    lookahead: Literal["auto"] | Annotated[int, Field(ge=0)] = _AUTO


class SMC(Sampler[SMCConfig]):
    """K particles per population, t = 1 .. T, psi_0 = 1, psi_T = e(c, y):

        y_t ~ q(.|c, y_<t),   w *= prior(y_t|c, y_<t) psi_t(y_<=t) / (psi_t-1(y_<t) q(y_t|c, y_<t))
        ESS = (sum w)^2 / sum w^2 < ess_threshold K:  Z-hat *= mean w, resample in proportion to w,
                                                      w = 1
        at the end:  Z-hat *= mean w;  a draw weighs w times the Z-hat before.

    Properly weighted for every twist that is positive wherever evidence may come, every proposal
    that can draw whatever the prior can, and each resampling, adaptive or (`ess_threshold` 1) at
    every step: E[mean over a prompt's draws of w f(y)] = sum_y p~(y) f(y), so Z-hat is unbiased,
    and log Z-hat, in nats, is below log Z in expectation. Draws of a population depend on each
    other; `num_samples` are split among `replicates` populations, whose Z-hat are independent: the
    standard error of log_z is theirs. `log_proposal` is log q of a draw's own tokens.

    `twist`: "auto" (the default: "prefix" where a constraint of the target has a prefix check, else
    "none"); "none"; "evidence", of the text so far; "prefix", what a constraint can rule out;
    "rollouts"; a `TwistHead` that `fit_twist` has trained, or its file; each but the last also as
    {"name": "evidence", "temper": 0.5}, with settings. `guidance`: where a learned twist
    meets the prior as proposal it steers that too, q = prior (1 - guidance + guidance psi_t /
    E_prior[psi_t]); 0 leaves the prior as it is. `ess_threshold` is 0.5 unless it is
    given, and 0 (never) under a twist that steers: half-way its weights mostly show how
    much the twist contradicts itself from token to token, and resampling copies few by that.

    `lookahead`: how many next tokens of a prefix the constraints are asked about before one is
    drawn from the prior, so that particles do not die where another token was right (`Lookahead`;
    `log_proposal` is log p - log w then). "auto" is 64 where every constraint with a prefix check
    is quick, as the ready-made ones are, and 0, never, elsewhere.

    Raises `ConfigError` for more replicates than draws, and `SamplingError` for language models
    over other tokens, or such that cannot be run token by token.
    Source: Zhao et al. 2024 (arXiv 2404.17546, sections 2 and 3), Lew et al. 2023 (2306.03081).
    """

    name = "smc"
    guarantee: ClassVar[Guarantee] = "properly_weighted"
    Settings = SMCConfig
    paths: ClassVar[tuple[str, ...]] = ("twist",)

    def run(self, job: Job) -> Draws:
        settings = self.settings
        plan = Plan(
            job.target,
            job.proposal,
            twist_for(job.target) if settings.twist == _AUTO else settings.twist,
            settings.resampling,
            settings.ess_threshold,
            settings.guidance,
            next_tokens_checked(job.target, job.proposal, settings.lookahead, self.name),
        )
        replicates = self._replicates(job.num_samples)
        whole, rest = divmod(job.num_samples, replicates)
        size_C = torch.tensor([whole + (at < rest) for at in range(replicates)])
        num_prompts = len(job.target.prompts)
        prompt_G = torch.arange(num_prompts).repeat_interleave(replicates)
        log_z: list[Tensor] = []
        for draws, log_z_g in in_parts(job, plan, prompt_G, size_C.repeat(num_prompts)):
            job.keep(draws)
            log_z.append(log_z_g)
        # Populations of unequal size count by their size, as their draws do.
        share_C = (size_C.double() * replicates / job.num_samples).log()
        log_z_PC = torch.cat(log_z).view(-1, replicates) + share_C
        draws = Draws.concat(job.kept)
        return replace(draws, log_z=log_z_of_populations(job.target, draws, log_z_PC))

    def _replicates(self, num_samples: int) -> int:
        wanted = self.settings.replicates
        if wanted is None:
            return min(_REPLICATES, num_samples)
        if wanted > num_samples:
            raise ConfigError(
                f"replicates={wanted} populations cannot be made of num_samples={num_samples}",
                where="sampler 'smc'",
                hint="draw more, or set fewer replicates",
            )
        return wanted


def in_parts(
    job: Job, plan: Plan, prompt_G: Tensor, size_G: Tensor, pinned: Completions | None = None
) -> Iterator[tuple[Draws, Tensor]]:
    """Draws and log Z-hat of populations, as many at a time as fit; group g is population g."""
    target = plan.target
    prior, proposal = stepping(target.prior), stepping(plan.proposal)
    fit = min(lm.rows_at_once(target.prompts, target.max_new_tokens) for lm in (prior, proposal))
    each = max(1, min(fit, _ROWS) // int(size_G.max()))
    parts = split_evenly(torch.arange(len(size_G)), each)
    total = len(parts) * target.max_new_tokens
    device = prior.device if isinstance(prior, TrainableLM) else torch.device("cpu")

    def part(number: int, at: Tensor) -> tuple[Draws, Tensor]:
        used, parent_g = distinct_places(prompt_G[at])
        populations = Populations(
            plan,
            [target.prompts[i] for i in ints(used)],
            parent_g.to(device),
            size_G[at].to(device),
            Choices(job.generator("smc", number)),
            None if pinned is None else pinned.select(at),
        )
        done = number * target.max_new_tokens

        draws = populations.run(on_step=lambda t: job.progress(done + t, total))
        return draws, populations.log_z().cpu()

    works = [partial(part, number, at) for number, at in enumerate(parts)]
    turns = Turns(works, target.prior.decode)
    for number, at in enumerate(parts):
        draws, log_z_g = once(partial(turns.__getitem__, number))
        assert draws.group_N is not None
        yield replace(draws, group_N=draws.group_N + int(at[0])), log_z_g
    job.progress(total, total)

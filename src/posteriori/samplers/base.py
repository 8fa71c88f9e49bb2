"""What a sampler is, and what it is given to work with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self

import torch
from typing_extensions import TypeVar

from posteriori.core.protocols import LanguageModel
from posteriori.core.run.progress import Progress
from posteriori.core.seeds import generator
from posteriori.core.settings.combined import combined
from posteriori.core.settings.configured import Configured
from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Draws, Guarantee

SettingsT = TypeVar("SettingsT", bound=Strict, default=Any)


@dataclass
class Job:
    """One call of `posteriori.sample`: what is to be drawn, and what has been so far.

    `num_samples` draws per prompt from `target`, by means of `proposal`. `generator(*key)` makes
    independent streams of random numbers, so that what one part of an algorithm consumes does not
    shift what another part draws. A sampler hands finished draws to `keep` as it goes: they are
    what is left of a run that stops, and `on_keep` sees each.
    """

    target: Target
    proposal: LanguageModel
    num_samples: int
    seed: int
    on_progress: Progress | None = None
    kept: list[Draws] = field(default_factory=list[Draws])
    on_keep: Callable[[Draws], None] | None = None
    started: float = field(default_factory=time.perf_counter)

    def generator(self, *key: int | str) -> torch.Generator:
        return generator(self.seed, "sample", *key)

    def keep(self, draws: Draws) -> None:
        self.kept.append(draws)
        if self.on_keep:
            self.on_keep(draws)

    def progress(self, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress(done, total)


class Sampler(Configured, Generic[SettingsT]):
    """The base class of sampling-time inference: (target, proposal, num_samples) -> `Draws`.

    `guarantee` says what the draws are: "exact", independent draws of p*; "properly_weighted", E[w
    f(y)] = sum_y p~(y) f(y) for every f; "asymptotic", p* in the limit of a long run; "heuristic".

    Args:
        config: the algorithm's settings, one `Settings`.
        settings: or the fields of `Settings`, as keywords.

    Raises:
        ConfigError: for a setting that is unknown, wrong, or given twice.

    Example:
        >>> from posteriori.samplers.smc.smc import SMC
        >>> SMC(replicates=8).guarantee
        'properly_weighted'
    """

    name: ClassVar[str]
    guarantee: ClassVar[Guarantee]
    of_target: ClassVar[bool] = True
    """False where the draws follow another law than p* whatever the guarantee. Of such draws, and
    of heuristic ones, `figures["kl_to_prior"]` is KL(law, prior), where the sampler knows it."""
    settings: SettingsT
    """The algorithm's own settings, a `Settings`."""

    def __init__(self, *, config: SettingsT | None = None, **settings: Any) -> None:
        """`settings` are the fields of `Settings`, and `config` is one of these."""
        where = f"sampler '{self.name}'"
        model: Any = self.Settings
        self.settings = combined(model, config, settings, "config", where)

    @classmethod
    def from_settings(cls, settings: Any, site: Site) -> Self:
        del site
        return cls(config=settings)

    def run(self, job: Job) -> Draws:
        """`job.num_samples` draws per prompt (fewer where the algorithm's own budget ends first),
        with weights, an estimate of log Z where there is one, and the cost."""
        raise NotImplementedError

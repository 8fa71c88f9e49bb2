"""All that can be wrong with a run before anything is loaded: a config becomes a `Plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posteriori.core.settings.training import PtxSettings, budget_of
from posteriori.data.demonstrations import read_demonstrations
from posteriori.data.formats.files import is_hub_id
from posteriori.data.home import expanded
from posteriori.data.prompts import PromptData, prompts
from posteriori.errors import CheckpointError, ConfigError, DataError
from posteriori.models.engines.settings import check_settings
from posteriori.models.run_policy import policy_of_run

from .choice import Choice
from .find_model import find_model
from .places import check_place
from .prompt_settings import PromptSettings
from .read_config import read_config
from .run_config import PriorSettings, RunConfig
from .site import ConfigSite

if TYPE_CHECKING:
    from posteriori.core.protocols import LanguageModel


@dataclass(frozen=True)
class Plan:
    """A config whose names, files and prompts have all been found. Paths are resolved."""

    config: RunConfig
    file: Path
    data: PromptData
    prior: str
    output_dir: Path | None
    sampler: Choice
    objective: Choice | None = None
    """None where there is no `fit`, or the default objective is to be found."""
    loader: Choice | None = None
    """What loads the prior, where that is a plugin's."""
    held_out: PromptData | None = None
    start: str | None = None
    """What the policy starts as, where it is not the prior."""
    ptx: PtxSettings | None = None
    """The pretraining mix, its path made absolute."""

    @property
    def budget(self) -> str | None:
        """The setting of `fit` that replaces the evidence's beta, if one does."""
        return (
            None
            if self.config.fit is None
            else budget_of(self.config.fit.kl_budget, self.config.fit.reward_target)
        )

    @property
    def folder(self) -> Path:
        return self.file.parent

    def site(self, index: int, load: Callable[[str], LanguageModel] | None = None) -> ConfigSite:
        """The place of a piece of evidence, for building it."""
        return ConfigSite(self.folder, f"{self.file}: evidence.{index}", self.budget, load)

    @property
    def policy(self) -> Path:
        """Where `fit` leaves the policy."""
        if self.output_dir is None:
            raise ConfigError(
                "'output_dir' is missing",
                where=str(self.file),
                hint='write output_dir = "runs/name", or name the policies on the command line',
            )
        return self.output_dir / "policy"


def make_plan(path: Path, overrides: list[str]) -> Plan:
    """Read and check a config. Raises a `PosterioriError` about the first thing that is wrong."""
    config = read_config(path, overrides)
    folder = path.parent
    objective = None
    if config.fit is not None:
        objective = _objective(config.fit.objective, config.fit.objective_settings, path)
    sampler = Choice(
        "sampler",
        config.sample.sampler,
        config.sample.settings,
        ConfigSite(folder, f"{path}: sample.settings"),
    )
    # A twist, say, is learned by another command than the one that samples with it.
    sampler.check(f"{path}: sample.sampler", waits=True)
    budget = (
        None if config.fit is None else budget_of(config.fit.kl_budget, config.fit.reward_target)
    )
    sites = [
        ConfigSite(folder, f"{path}: evidence.{index}", budget)
        for index in range(len(config.evidence))
    ]
    for evidence, site in zip(config.evidence, sites, strict=True):
        evidence.check(site)
    if config.prior.trust_remote_code and config.prior.revision is None:
        raise ConfigError(
            "trust_remote_code runs the checkpoint's own code, and no revision says which",
            where=f"{path}: prior",
            hint='write the commit whose code you have read, such as revision = "4f2a9c1"',
        )
    if config.engine is not None:
        check_settings(config.engine, f"{path}: engine")
    loader = _loader(config.prior, path)
    prior = find_model(config.prior.path, folder, f"{path}: prior.path")
    if loader is not None:
        prior = loader.name
    start = None
    if config.fit is not None and config.fit.start is not None:
        place = policy_of_run((folder / expanded(config.fit.start)).absolute())
        given = config.fit.start if place is None else str(place)
        start = find_model(given, folder, f"{path}: fit.start")
    ptx = None if config.fit is None else _ptx(config.fit.ptx, folder)
    data = _read_data(config.prompts, folder)
    held_out = None
    if config.fit is not None and config.fit.held_out is not None:
        held_out = _read_data(config.fit.held_out, folder)
        if held_out.columns.keys() != data.columns.keys():
            raise DataError(
                "the held-out prompts have other columns than the prompts",
                where=f"{path}: fit.held_out",
                hint=f"give them: {', '.join(data.columns) or 'none'}",
            )
    for site in sites:
        site.check_columns(list(data.columns))
    output_dir = None if config.output_dir is None else folder / config.output_dir
    return Plan(
        config, path, data, prior, output_dir, sampler, objective, loader, held_out, start, ptx
    )


def _ptx(given: PtxSettings | None, folder: Path) -> PtxSettings | None:
    """The pretraining mix, whose rows can be read."""
    if given is None or not isinstance(given.data, str):
        return given
    place = (folder / expanded(given.data)).absolute()
    read_demonstrations(place, completion_only=given.completion_only)
    return given.model_copy(update={"data": str(place)})


def _objective(name: str, settings: dict[str, Any], path: Path) -> Choice | None:
    site = ConfigSite(path.parent, f"{path}: fit.objective_settings")
    if name == "auto":
        if settings:
            raise site.error(
                "objective_settings go with an objective, and none is named",
                'write objective = "soft_q", or another',
            )
        return None
    choice = Choice("objective", name, settings, site)
    choice.check(f"{path}: fit.objective")
    return choice


def _loader(prior: PriorSettings, path: Path) -> Choice | None:
    site = ConfigSite(path.parent, f"{path}: prior.settings")
    if prior.loader is None:
        if prior.settings:
            raise site.error(
                "settings go with a loader, and none is named", "write loader = ..., or remove them"
            )
        return None
    idle = sorted(prior.model_fields_set - {"loader", "settings", "prompt_prefix"})
    if idle:
        raise ConfigError(
            f"'{idle[0]}' does nothing beside a loader",
            where=f"{path}: prior",
            hint=f"remove it, or put it into settings if '{prior.loader}' has it",
        )
    choice = Choice("model", prior.loader, prior.settings, site)
    choice.check(f"{path}: prior.loader", making=False)
    return choice


def _read_data(given: Any, folder: Path) -> PromptData:
    """The prompts of a config, a list or a source; paths count from the config's folder."""
    if isinstance(given, list):
        return prompts(given)
    settings = PromptSettings.model_validate({"path": given} if isinstance(given, str) else given)
    place = folder / expanded(settings.path)
    if not place.exists() and is_hub_id(settings.path) and not place.parent.is_dir():
        place = Path(settings.path)
    return prompts(place, **settings.model_dump(exclude={"path"}))


def check_fit(plan: Plan, *, resume: bool, overwrite: bool = False) -> None:
    """What only `fit` needs: its settings, and a directory that holds no other run, unless that is
    to go on or to be overwritten."""
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other", hint="leave out one of them"
        )
    if plan.config.fit is None:
        raise ConfigError(
            "'fit' is missing", where=str(plan.file), hint="write a table [fit] with steps = 200"
        )
    from posteriori.train.preparation.settings_checks import check_idle, check_trackers

    check_idle(plan.config.fit, held_out=plan.held_out is not None, keeps=True)
    check_trackers(plan.config.fit.tracker, plan.output_dir)
    run = plan.policy.parent
    check_place(run, str(plan.file))
    if run.exists() and not run.is_dir():
        raise ConfigError(f"output_dir '{run}' is a file", where=str(plan.file), hint="rename it")
    if (run / "config.json").exists() and not (resume or overwrite):
        raise CheckpointError(
            f"'{run}' already holds a run",
            hint="go on with it by --resume, remove it by --overwrite, or choose another "
            "output_dir (--set output_dir=runs/other)",
        )

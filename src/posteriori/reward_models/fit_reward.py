"""`fit_reward`: a reward model from preference pairs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from posteriori.core.display.shown import counted
from posteriori.core.journal.journal import Journal, once
from posteriori.core.occurrence import prompt_key
from posteriori.core.processes.together import on_one_process
from posteriori.core.run.out_of_memory import explained
from posteriori.core.seeds import derive
from posteriori.core.settings.combined import combined
from posteriori.core.settings.keywords import FitRewardKeywords
from posteriori.core.settings.training import FitRewardConfig
from posteriori.core.types import Finding
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, ModelError
from posteriori.models.load import BUNDLED
from posteriori.models.weights.adapters import drawing_adapters, lora_config
from posteriori.models.weights.shared_copy import shared_copy
from posteriori.runs.directory import jsonable, versions
from posteriori.runs.target_fingerprint import digest

from .backbone import Backbone, load_backbone, with_device
from .calibration import HeldOut, held_out_figures
from .ensemble import solved, widened
from .head_posterior import HeadPosterior
from .labelled_pairs import LabelledPair, PairSource, read_labelled_pairs, split_by_prompt
from .laplace import PairFeatures, integrated, laplace
from .reward_model import RewardModel
from .reward_trainer import Record, RewardTrainer, TokenPairs, initial_heads
from .writer import JOURNAL, Writer, new_directory


@dataclass(repr=False)
class RewardFit:
    """What `posteriori.fit_reward` returns: the reward model, and how it was trained.

    Args:
        model: the reward model.
        history: a record per step.
        held_out: its metrics on pairs that it was not trained on.
        train_loss: mean loss of the training pairs, in nats.
        num_train: how many these are.
        settings: the `FitRewardConfig` it was trained with.
        prior_precision: that of the head's Gaussian prior, where there is one.
        findings: what is to be known of the run.
        output_dir: where it is kept.

    Example:
        >>> reward_fit.num_train > 0, reward_fit.held_out.num_pairs > 0
        (True, True)
    """

    model: RewardModel
    history: list[Record]
    held_out: HeldOut
    train_loss: float
    num_train: int
    settings: FitRewardConfig
    prior_precision: float | None = None
    findings: list[Finding] = field(default_factory=list)
    output_dir: Path | None = None

    def __repr__(self) -> str:
        parts = [f"held-out accuracy {self.held_out.accuracy}, log loss {self.held_out.log_loss}"]
        parts += [counted(len(self.findings), "finding")] if self.findings else []
        parts += [f"in '{self.output_dir}'"] if self.output_dir else []
        return f"RewardFit({', '.join(parts)})"

    def about(self) -> dict[str, Any]:
        """All figures and settings, ready for JSON."""
        return jsonable(
            {
                "held_out": asdict(self.held_out),
                "train_loss": self.train_loss,
                "num_train": self.num_train,
                "prior_precision": self.prior_precision,
                "findings": [asdict(each) for each in self.findings],
                "settings": self.settings.recorded(),
                "versions": versions(),
                "finished": True,
            }
        )


@named_arguments
@explained("training the reward model", "set a lower batch_size")
@on_one_process
def fit_reward(
    model: str | Path | Any,
    pairs: PairSource,
    *,
    held_out_pairs: PairSource | None = None,
    tokenizer: Any = None,
    device: str | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[Record], None] | None = None,
    config: FitRewardConfig | None = None,
    **settings: Unpack[FitRewardKeywords],
) -> RewardFit:
    """Train a Bradley-Terry reward model from preference pairs.

        P(chosen preferred to rejected | c) = sigmoid(r(c, chosen) - r(c, rejected)),
        loss = -log sigmoid(r(c, chosen) - r(c, rejected) - margin), nats per pair

    Reproducible from `seed`, bit for bit on the CPU. Dropout is off. Source: Ouyang et al. 2022,
    arXiv 2203.02155, section 3.5.

    Args:
        model: "tiny", a directory, a hub id, or a sequence-classification model, which is left as
            it is.
        pairs: rows of prompt, chosen, rejected, as text or conversations: a .jsonl or .parquet
            file, a folder of `datasets`, or a list. Optional columns: `label`, P(chosen is
            preferred), 0.5 for a tie; `margin`.
        held_out_pairs: pairs that judge the model; default: those of a share of the prompts.
        tokenizer: of a model that was given as an object.
        device: where it is trained.
        output_dir: new or empty; keeps the metrics, the best model so far, and the model, which
            `AutoModelForSequenceClassification` and `po.Reward(path, beta)` load.
        resume: go on from what a stopped run left in `output_dir`, and end with the same bits.
        on_step: sees each step's record.
        config: the settings, as one `FitRewardConfig`.
        settings: or its fields, as keywords.

    Returns:
        A `RewardFit`: the model, a record per step, held-out metrics.

    Raises:
        DataError: with the line, for what is no pair, or for a single prompt without
            held_out_pairs.
        ModelError: for a model that cannot be loaded.
        PromptError: for a text beyond the context.
        CheckpointError: for an output_dir in use.
        NonFiniteError: before an update that is not finite.

    Example:
        >>> pairs = [
        ...     {"prompt": f"Dish {n} is", "chosen": " good", "rejected": " bad"} for n in range(20)
        ... ]
        >>> po.fit_reward("tiny", pairs, tuning="head", epochs=1, seed=0).num_train
        18
    """
    checked = combined(FitRewardConfig, config, settings, "config", "fit_reward")
    refuse_idle(checked)
    train, held_out = _pairs(pairs, held_out_pairs, checked)
    if resume and output_dir is None:
        raise ConfigError("resume=True needs the run's output_dir", where="fit_reward")
    place = None if output_dir is None else new_directory(output_dir, resume=resume)
    backbone = with_device(_backbone(model, tokenizer, checked.tuning, checked.seed), device)
    train_data, held_out_data = TokenPairs(backbone, train), TokenPairs(backbone, held_out)
    about = {
        **{name: digest(value) for name, value in checked.own().items()},
        "the model": digest([backbone.model, backbone.tokenizer.get_vocab()]),
        "the pairs": digest([list(map(list, train)), list(map(list, held_out))]),
    }
    _prepare(backbone, checked)
    writer = Writer(place, backbone, checked, on_step)
    if place is None:
        return _fit(backbone, train_data, held_out_data, checked, writer)
    journal = Journal(place / JOURNAL, about, resume=resume)
    try:
        if resume:
            # Those that the journal has are put back by it.
            writer.resume([])
        with journal.keeping():
            result = _fit(backbone, train_data, held_out_data, checked, writer)
        journal.remove()
    finally:
        journal.close()
        for note in journal.notes:
            warnings.warn(note, stacklevel=2)
    return result


def _fit(
    backbone: Backbone,
    train_data: TokenPairs,
    held_out_data: TokenPairs,
    checked: FitRewardConfig,
    writer: Writer,
) -> RewardFit:
    history: list[Record] = []
    members = checked.members if checked.uncertainty == "ensemble" else 1
    heads_KD = initial_heads(backbone, members, checked.seed)
    if checked.tuning != "head":
        trainer = RewardTrainer(
            backbone,
            heads_KD,
            train_data,
            held_out_data,
            checked,
            writer.step,
            writer.best,
            writer.resume,
        )
        heads_KD, history = trainer.run(), trainer.history
    backbone.requires_grad_(False)
    chosen_ND, rejected_ND = once(lambda: train_data.features(backbone, checked.batch_size))
    reference_D = 0.5 * (chosen_ND + rejected_ND).mean(0)
    seen = PairFeatures(
        chosen_ND - rejected_ND, train_data.margin_N, train_data.label_N, checked.label_noise
    )
    posterior, precision, findings = _posterior(seen, heads_KD, reference_D, checked)
    chosen_ND, rejected_ND = once(lambda: held_out_data.features(backbone, checked.batch_size))
    figures = held_out_figures(
        posterior.mean(chosen_ND - rejected_ND),
        held_out_data.label_N,
        [prompt_key(pair.prompt) for pair in held_out_data.pairs],
        checked.label_noise,
    )
    made = RewardModel(backbone, posterior, figures.temperature)
    result = RewardFit(
        model=made,
        history=history,
        held_out=figures,
        train_loss=float(seen.loss(posterior.mean_D).mean()),
        num_train=len(train_data),
        settings=checked,
        prior_precision=precision,
        findings=findings + figures.findings,
        output_dir=writer.place,
    )
    writer.finish(made, result.about())
    return result


def _posterior(
    seen: PairFeatures, heads_KD: Tensor, reference_D: Tensor, settings: FitRewardConfig
) -> tuple[HeadPosterior, float | None, list[Finding]]:
    """Of the head: the trained heads themselves, or what the pairs' features say; with the prior
    precision that this took."""
    if settings.uncertainty == "laplace":
        given = settings.prior_precision
        found = integrated(seen) if given is None else laplace(seen, given)
        gaussian = HeadPosterior.gaussian(found.mean_D, found.covariance_DD, reference_D)
        return gaussian, found.precision, [_AT_BOUND] if found.at_bound else []
    if settings.tuning != "head":
        members_KD = widened(heads_KD, seen)
        return HeadPosterior.from_members(members_KD, reference_D), None, []
    members_KD, found = solved(seen, len(heads_KD), settings.seed, settings.prior_precision)
    members_KD = widened(members_KD, seen)
    findings = [_AT_BOUND] if found.at_bound else []
    return HeadPosterior.from_members(members_KD, reference_D), found.precision, findings


_AT_BOUND = Finding(
    "warn",
    "prior_precision_at_bound",
    "the marginal likelihood of the pairs has no maximum among the prior precisions tried.",
    "The uncertainty is not to be trusted: give prior_precision, or more pairs.",
)


def refuse_idle(settings: FitRewardConfig) -> None:
    """Raises `ConfigError` for a setting that was given and does nothing beside the others."""
    given = settings.model_fields_set
    solves = settings.uncertainty == "laplace" or settings.tuning == "head"
    idle = {
        "members": settings.uncertainty == "ensemble",
        "prior_precision": solves,
        "lora": settings.tuning == "lora",
        "merge": settings.tuning == "lora",
    }
    for name, used in idle.items():
        if name in given and not used:
            raise ConfigError(
                f"'{name}' has no effect with tuning='{settings.tuning}' and "
                f"uncertainty='{settings.uncertainty}'",
                where="fit_reward",
                hint=f"remove '{name}', or change those",
            )


def _pairs(
    source: PairSource, held_out: PairSource | None, settings: FitRewardConfig
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    pairs = read_labelled_pairs(source)
    if held_out is not None:
        if "held_out" in settings.model_fields_set:
            raise ConfigError(
                "both a share to hold out and held_out_pairs are given",
                where="fit_reward",
                hint="remove 'held_out'",
            )
        return pairs, read_labelled_pairs(held_out)
    return split_by_prompt(pairs, settings.held_out, settings.seed)


def _backbone(model: Any, tokenizer: Any, tuning: str, seed: int) -> Backbone:
    if isinstance(model, str | Path):
        return load_backbone(BUNDLED.get(str(model), model), tokenizer, seed)
    if tokenizer is None:
        raise ModelError(
            f"a {type(model).__name__} is given without its tokenizer",
            where="fit_reward",
            hint="pass tokenizer=",
        )
    # Its head is taken out and its weights are trained in place: the user keeps the model.
    own = copy.deepcopy(model) if tuning == "full" else shared_copy(model, frozen=True)
    return Backbone(own, tokenizer)


def _prepare(backbone: Backbone, settings: FitRewardConfig) -> None:
    """Which of the backbone's parameters are trained."""
    backbone.requires_grad_(settings.tuning == "full")
    if settings.tuning != "lora":
        return
    from peft import get_peft_model

    config = lora_config(settings.lora, "SEQ_CLS", backbone.model)
    with drawing_adapters(derive(settings.seed, "reward adapter")):
        backbone.model = get_peft_model(backbone.model, config).eval()

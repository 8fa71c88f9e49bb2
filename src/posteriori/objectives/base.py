"""What an objective is: where its draws come from, what it makes of them, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self

import torch
from torch import Tensor
from typing_extensions import TypeVar

from posteriori.core.completions import Completions
from posteriori.core.draw import draw, lm_tokens
from posteriori.core.elsewhere import standing_for
from posteriori.core.hooks import DrawsElsewhere
from posteriori.core.numerics import num_distinct
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel, NextTokenLM, TrainableLM
from posteriori.core.settings.combined import combined
from posteriori.core.settings.configured import Configured
from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict
from posteriori.core.target import Target
from posteriori.core.types import Cost, Draws
from posteriori.models.execution.vocabulary import every_token

SettingsT = TypeVar("SettingsT", bound=Strict, default=Any)

Constants = Mapping[str, Tensor]
"""What an objective knows of each draw before the gradient: tensors [N, ...], by name."""


OF_MODEL = "of_model_NL"
"""Of draws by an engine: log-probs of their tokens under the model that it draws for, [N, L]."""


def token_log_policy(draws: Draws) -> Tensor:
    """log-probs of the tokens of the policy's draws under the policy that made them, [N, L]: where
    an engine drew for it, the policy's own, and not the engine's."""
    found = draws.attached.get(OF_MODEL, draws.completions.token_log_prob_NL)
    assert found is not None, "the policy has drawn them"
    return found


def engine_ratio(draws: Draws) -> Tensor:
    """What each draw counts, [N], where an engine made it: pi/q, so that draws count as those of
    the model that it drew for. 1 for all other draws."""
    found = draws.attached.get(OF_MODEL)
    if found is None:
        return torch.ones_like(draws.log_prior_N)
    return (found.sum(-1) - draws.log_proposal_N).exp()


class Objective(torch.nn.Module, Configured, Generic[SettingsT]):
    """The base class of fine-tuning algorithms: how one step's draws move the policy.

    A step is draw, `weigh`, `loss`, update, `observe`. `weigh` sees all draws at once and without
    gradient; `loss` then sees any part of them, so that the loop may split a step into
    micro-batches without changing its gradient. The step's loss is the mean of `loss`. Parameters
    of the module (a learned log Z, a value head) are trained with the policy; its buffers are kept
    in checkpoints.

    Args:
        config: the algorithm's settings, one `Settings`.
        settings: or the fields of `Settings`, as keywords.

    Raises:
        ConfigError: for a setting that is unknown, wrong, or given twice.

    Example:
        >>> from posteriori.objectives.policy_gradient.rloo import RLOO
        >>> RLOO().divergence, RLOO().fixed_point
        ('KL(policy, target)', 'the target')
    """

    name: ClassVar[str]
    divergence: str | None = None
    """What the expected gradient descends, as a formula; None if that is no divergence."""
    fixed_point: str = "the target"
    """The policy at which the expected gradient vanishes, in words."""
    replays: ClassVar[bool] = False
    """Whether draws of earlier steps may join a step (their ratios to the policy are known)."""
    needs_log_prob: ClassVar[bool] = True
    """Whether `weigh` reads log pi of draws that the policy of this very step did not make."""
    reads_choices: bool = False
    """Whether `loss` gets log pi of constants["choice_NLK"], [n, L, K], in place of the drawn
    tokens' log-probs: of the drawn token and the whole vocabulary where there are no such
    constants. The drawn token is the first choice."""
    rows_together: ClassVar[int] = 1
    """So many neighbouring draws (a pair: 2) have one loss, and stay in one micro-batch."""
    first_change: ClassVar[float] = 1e-2
    """With learning_rate "auto": half the mean squared change of log pi, in nats, by a run's first
    update. What has less noise may begin with more."""
    epochs: int = 1
    """Updates that are made from one step's draws."""
    engine: DrawsElsewhere | None = None
    """What draws in place of the proposal itself; `fit` puts its `sampler` here."""

    settings: SettingsT
    """The algorithm's own settings, a `Settings`."""

    def __init__(self, *, config: SettingsT | None = None, **settings: Any) -> None:
        """`settings` are the fields of `Settings`, and `config` is one of these."""
        super().__init__()
        where = f"objective '{self.name}'"
        model: Any = self.Settings
        self.settings = combined(model, config, settings, "config", where)

    @classmethod
    def from_settings(cls, settings: Any, site: Site) -> Self:
        del site
        return cls(config=settings)

    @property
    def aims_at_target(self) -> bool:
        """Whether its fixed point is the target, as far as something learned beside is exact."""
        return self.fixed_point.startswith("the target")

    @property
    def on_policy(self) -> bool:
        """Whether `draw` draws from the policy as it stands; if not, from the prior or what
        `proposal` says."""
        return True

    @property
    def draws_nothing(self) -> bool:
        """Whether it learns from data alone, so that no engine has anything to draw."""
        return False

    def proposal(self, target: Target, policy: TrainableLM) -> LanguageModel:
        """The language model that makes this step's draws."""
        return policy if self.on_policy else target.prior

    def prepare(self, target: Target, new_policy: Callable[[], TrainableLM], seed: int) -> None:
        """Called once before the first step (and before a checkpoint is loaded): makes parameters.

        `new_policy` makes one more policy that starts as the prior, for a proposal of one's own.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of this module's own parameters for the optimiser: {"params": [...], "lr": x}."""
        return []

    def default_replay(self, draws_per_step: int) -> int:  # noqa: ARG002 - for those that replay
        """How many earlier steps' draws join each step where the user does not say; called after
        `prepare`."""
        return 0

    def batches(self, draws: Draws) -> list[Tensor]:
        """Which draws each of a step's updates is made of; called after `weigh`. All of them,
        `epochs` times."""
        return [torch.arange(len(draws))] * self.epochs

    def draw(
        self,
        target: Target,
        policy: TrainableLM,
        prompts: Sequence[Prompt],
        num_samples: int,
        generator: torch.Generator,
    ) -> Draws:
        """One step's fresh draws; of an engine, with log pi of the model that it draws for."""
        proposal = self.proposal(target, policy)
        if self.engine is None:
            return self.complete(target, draw(target, proposal, num_samples, generator, prompts))
        standing = standing_for(self.engine, proposal)
        drawn = draw(target, standing.lm, num_samples, generator, prompts)
        known_NL = drawn.token_log_prior_NL if proposal is target.prior else None
        own_NL = standing.scored(drawn.completions, known_NL)
        cost = drawn.cost
        if known_NL is None:
            cost += Cost(lm_tokens=lm_tokens(drawn.completions))
        attached = {**drawn.attached, OF_MODEL: own_NL}
        return self.complete(target, replace(drawn, attached=attached, cost=cost))

    def complete(self, target: Target, draws: Draws) -> Draws:  # noqa: ARG002 - for those that add
        """Fresh draws with what the objective adds to them: tensors in `attached`, the cost of
        passes of its own."""
        return draws

    def weigh(self, draws: Draws, log_prob_N: Tensor) -> Constants:
        """Constants of each draw, from all draws of the step and log pi of each.

        `log_prob_N` is under the policy before the update; without `needs_log_prob` it is NaN for
        draws that this policy did not make.
        """
        raise NotImplementedError

    def loss(self, token_log_prob_nL: Tensor, constants: Constants) -> Tensor:
        """The loss of each draw, [n] (of each group of `rows_together`), in nats.

        `token_log_prob_nL` is log pi(y_t|c, y_<t), with gradient, zero beyond a completion's end.
        """
        raise NotImplementedError

    def observe(self, draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
        """Called after the update with log pi from before it; returns figures for the record.

        `unique_fraction`, where the policy drew, is the share of distinct completions among a
        prompt's draws.
        """
        figures = policy_figures(draws, log_prob_N)
        if self.on_policy:
            figures["unique_fraction"] = _unique_fraction(draws.completions)
        return figures


def policy_log_prob(
    objective: Objective, policy: LanguageModel, completions: Completions, constants: Constants
) -> tuple[Tensor, Tensor]:
    """What `loss` reads of the policy, with gradient, and log pi of each token [n, L] without."""
    if not objective.reads_choices:
        token_log_prob_nL = policy.token_log_prob(completions)
        return token_log_prob_nL, token_log_prob_nL.detach()
    assert isinstance(policy, NextTokenLM), "`prepare` has checked it"
    choice_nLK = constants.get("choice_NLK")
    if choice_nLK is None:
        choice_nLK = every_token(completions, policy.vocab_size)
    log_prob_nLK = policy.choice_log_prob(completions, choice_nLK)
    return log_prob_nLK, log_prob_nLK.detach()[..., 0] * completions.mask_NL


def policy_figures(draws: Draws, log_prob_N: Tensor) -> dict[str, float]:
    """Estimates over draws from the policy, nats per completion (reward in its own units).

    Draws from elsewhere count with their ratio pi/q, normalised by its sum within each prompt
    (consistent, biased at few draws); `ratio_variance` is the variance of pi/q, which is 0 where
    the policy itself drew. `effective_draws` is the effective number of a prompt's draws as draws
    of the target, by their weights p~/q, in the mean over prompts: of draws by something that
    covers the target. (The trainer puts one in its place that sees what the policy misses, where
    the policy itself draws.)
    """
    log_ratio_N = log_prob_N - draws.log_proposal_N
    prompt_N = draws.completions.prompt_index_N
    share_N = (log_ratio_N - log_sum_by(log_ratio_N, prompt_N)[prompt_N]).exp()
    share_N = share_N / int((count_by(prompt_N) > 0).sum())
    log_weight_N = draws.log_prior_N + draws.log_evidence_N - log_prob_N
    figures = {
        "elbo": _mean(share_N, log_weight_N),
        "mean_reward": _mean(share_N, draws.reward_N),
        "kl_to_prior": _mean(share_N, log_prob_N - draws.log_prior_N),
        "entropy": _mean(share_N, -log_prob_N),
        "effective_draws": _effective_draws(draws.log_weight, prompt_N),
    }
    if bool((log_ratio_N != 0).any()):
        figures["ratio_variance"] = float(log_ratio_N.exp().var(unbiased=False))
    return figures


def _mean(share_N: Tensor, values_N: Tensor) -> float:
    return float((share_N * values_N).sum())


def _unique_fraction(completions: Completions) -> float:
    tokens_NL = completions.tokens_NL.masked_fill(~completions.mask_NL, -1)
    key_NK = torch.cat([completions.prompt_index_N[:, None], tokens_NL], dim=1)
    return num_distinct(key_NK) / len(completions)


def _effective_draws(log_w_N: Tensor, prompt_N: Tensor) -> float:
    """(sum w)^2 / sum w^2 of each prompt that has draws, 0 where no weight is above zero; the
    mean."""
    log_w_N = log_w_N.double()
    log_ess_P = 2 * log_sum_by(log_w_N, prompt_N) - log_sum_by(2 * log_w_N, prompt_N)
    has_P = count_by(prompt_N) > 0
    return float(log_ess_P[has_P].exp().nan_to_num(nan=0.0).mean())


def log_sum_by(log_w_N: Tensor, index_N: Tensor, size: int | None = None) -> Tensor:
    """log sum exp over the draws of each index; [size], -inf where there is none."""
    size = int(index_N.max()) + 1 if size is None else size
    top_P = log_w_N.new_full((size,), -torch.inf).scatter_reduce(0, index_N, log_w_N, "amax")
    shift_P = top_P.where(top_P.isfinite(), 0.0)
    sum_P = log_w_N.new_zeros(size).index_add(0, index_N, (log_w_N - shift_P[index_N]).exp())
    return sum_P.log() + shift_P


def count_by(index_N: Tensor, size: int | None = None) -> Tensor:
    """How many draws each index has, float64; [size]."""
    return torch.bincount(index_N, minlength=size or 0).double()

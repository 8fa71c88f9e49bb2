"""`InEnvironment`: a language model that is answered, as a distribution over whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import LanguageModel
from posteriori.core.wrapped import WrappedTrainable
from posteriori.data.given_arguments import named_arguments
from posteriori.data.given_numbers import count
from posteriori.errors import ConfigError, ModelError
from posteriori.models.tabular import TabularLM

from .episode import Environment
from .rollout import Rules, play

if TYPE_CHECKING:
    from posteriori.core.settings.training import LoraSettings


class InEnvironment(WrappedTrainable):
    """A language model and an environment that answers its turns: a distribution over episodes.

        pi(tau|c) = prod_k pi(turn_k | c, turns and replies before) P(reply_k | the same, turn_k)

    A turn ends with an end of sequence, and the environment (a user, a tool, a game) replies or
    ends the episode. An outcome is the whole episode, cut at `max_new_tokens`, replies included.
    `log_prob` is of the model's own tokens alone: P is the same for prior, proposal and policy, so
    it cancels in every ratio, weight, KL and log Z of this library, and need not be known.

    What the target then is. p*(tau|c) = prior(tau|c) e(tau) / Z(c) is the posterior over episodes;
    samplers draw from it, and `evaluate` measures distances to it. Where replies are random, no
    policy reaches it: the posterior also tilts what the environment says (it hopes for lucky
    replies), which a policy cannot. With V* the largest ELBO of any policy,

        max_pi E_pi[log e] - KL(pi, prior) = V*  <=  log Z,  and  log Z - V* = min_pi KL(pi, p*).

    Objectives of reverse KL (`rloo`, `grpo`, `ppo`) aim at V*, the policy that is best on average
    over replies; `dpg` at p*'s own turns, which seek risk. So `elbo` of a fitted policy estimates
    V* from below and `log_z` the other, and where replies are a function of what was said
    (`deterministic`) the two are one. Source: Levine 2018, arXiv 1805.00909, sections 2.4 and 3.2.

    Needs no gradient through the environment. Objectives and samplers that read next tokens
    (`soft_q`, `subtb`, `smc`) and enumeration (`exact`) refuse it; moves of suffixes (`mh`,
    `annealed`) need a deterministic one.

    Args:
        lm: the language model.
        environment: answers turns; see `posteriori.Environment`.
        max_turns: turns of the model after which an episode is over, at least 1.
        deterministic: whether a reply is a function of the prompt, turns and replies before it.

    Raises:
        ConfigError: for an environment that cannot be called, or fewer than 1 turn.
        ModelError: for a `TabularLM`, which knows nothing behind an end of sequence.

    Example:
        >>> def once(episodes):
        ...     return [[1, 1] if len(e.turns) == 1 else None for e in episodes]
        >>> import torch
        >>> lm = po.InEnvironment(po.load("tiny"), once, max_turns=2)
        >>> drawn = lm.sample(["Hi"], 2, 12, torch.Generator().manual_seed(0))
        >>> lm.log_prob(drawn).shape
        torch.Size([2])
    """

    @named_arguments
    def __init__(
        self,
        lm: LanguageModel,
        environment: Environment,
        *,
        max_turns: int = 8,
        deterministic: bool = False,
    ) -> None:
        if not callable(environment):
            raise ConfigError(
                f"environment={environment!r:.60} cannot be called",
                where="InEnvironment",
                hint="give a function from a list of episodes to a list of replies",
            )
        if isinstance(lm, TabularLM):
            raise ModelError(
                "a table has no rows behind an end of sequence, where replies would go",
                where="InEnvironment",
                hint="use a CausalLM (posteriori.load)",
            )
        self.lm, self.environment = lm, environment
        self.rules = Rules(environment, count(max_turns, "max_turns"), deterministic)

    def __repr__(self) -> str:
        name = getattr(self.environment, "__name__", type(self.environment).__name__)
        return f"InEnvironment({self.lm!r}, {name}, max_turns={self.rules.max_turns})"

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """Whole episodes. Raises `EnvironmentCallError` where the environment fails."""
        first = self.lm.sample(prompts, num_samples, max_new_tokens, generator)
        return play(self.lm, self.rules, first, generator)

    def resample_suffix(
        self, completions: Completions, start_N: Tensor, generator: torch.Generator | None = None
    ) -> Completions:
        """Of a deterministic environment alone. A start inside a reply means the reply's end: what
        the environment says there is certain. Raises `ModelError` for another."""
        if not self.rules.deterministic:
            raise ModelError(
                "an episode cannot be drawn anew from its middle where replies are random",
                where="InEnvironment",
                hint="use rejection, importance, best_of_n or imh; or deterministic=True, if a "
                "reply is a function of what was said before",
            )
        whole = self._played(completions)
        assert whole.own_NL is not None
        assert whole.replies is not None
        width = whole.tokens_NL.shape[1]
        at_L = torch.arange(width, device=whole.tokens_NL.device)
        ahead_NL = at_L >= start_N[:, None]
        # The first own token from the start on, or the end of what there is.
        open_NL = ahead_NL & whole.own_mask_NL
        begin_N = torch.where(open_NL.any(-1), open_NL.int().argmax(-1), whole.lengths_N)
        kept = [_replies_before(whole.own_NL[row], int(begin_N[row])) for row in range(len(whole))]
        begun = replace(
            whole,
            replies=tuple(said[:n] for said, n in zip(whole.replies, kept, strict=True)),
        )
        full_N = begin_N >= whole.max_new_tokens
        again = (~full_N).nonzero()[:, 0]
        if not len(again):
            return whole
        some = begun.select(again)
        drawn = self.lm.resample_suffix(some, begin_N[again], generator)
        own_NL = torch.nn.functional.pad(whole.own_NL[again], (0, drawn.tokens_NL.shape[1] - width))
        at_L = torch.arange(drawn.tokens_NL.shape[1], device=own_NL.device)
        fresh_NL = at_L >= begin_N[again, None]
        drawn = replace(drawn, own_NL=torch.where(fresh_NL, drawn.mask_NL, own_NL))
        done = play(self.lm, self.rules, drawn, generator)
        rest = full_N.nonzero()[:, 0]
        order = torch.argsort(torch.cat([again, rest]))
        return Completions.concat([done, whole.select(rest)]).select(order) if len(rest) else done

    def token_power(self, alpha: float) -> InEnvironment:
        return self._around(self.lm.token_power(alpha))

    def log_prob(self, completions: Completions) -> Tensor:
        """Of the model's own tokens. Raises `ModelError` for completions of no environment."""
        return self.lm.log_prob(self._played(completions))

    def token_log_prob(self, completions: Completions) -> Tensor:
        """As `log_prob`; zero on what the environment said."""
        return self.lm.token_log_prob(self._played(completions))

    def completions(
        self,
        prompts: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
    ) -> Completions:
        """Episodes of a single turn."""
        made = self.lm.completions(prompts, completion_ids, max_new_tokens)
        return replace(made, own_NL=made.mask_NL, replies=((),) * len(made))

    def in_float64(self) -> InEnvironment:
        return self._around(self.lm.in_float64())

    def as_policy(
        self, kind: Literal["full", "lora"], lora: LoraSettings, seed: int
    ) -> InEnvironment:
        """The policy of the model, in the same environment."""
        return self._around(self._trainable.as_policy(kind, lora, seed))

    def _around(self, lm: LanguageModel) -> InEnvironment:
        rules = self.rules
        return InEnvironment(
            lm, self.environment, max_turns=rules.max_turns, deterministic=rules.deterministic
        )

    def _played(self, completions: Completions) -> Completions:
        if completions.own_NL is None:
            raise ModelError(
                "these completions do not say which of their tokens the environment put in",
                where="InEnvironment",
                hint="draw them with a model in the same environment",
            )
        return completions


def _replies_before(own_L: Tensor, begin: int) -> int:
    """How many replies begin before that place: an episode begins with a turn of the model."""
    before = own_L[:begin]
    return int((before[:-1] & ~before[1:]).sum())

"""Enumeration: on a tiny outcome space every figure is a sum, so every figure is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import HasEnvironment
from posteriori.core.protocols import LanguageModel
from posteriori.core.registry import language_model
from posteriori.core.run.out_of_memory import explained
from posteriori.core.same_outcomes import check_same_outcomes
from posteriori.core.target import Target
from posteriori.data.given_arguments import named_arguments
from posteriori.diagnostics.tilting import beta_of
from posteriori.errors import ModelError, SpaceTooLargeError

from .exact_metrics import nearest_posterior, of_policy, of_posterior

MAX_OUTCOMES = 1_000_000


@dataclass(frozen=True, repr=False)
class Exact:
    """A target whose outcomes are all listed, so that every number of it is exact.

        p*(y|c) = p~(y|c) / Z(c)

    `posteriori.exact` makes one. The tuples have one tensor per prompt, float64 over its outcomes.

    Attributes:
        target: the target.
        outcomes: all completions of each prompt.
        log_prior: log prior(y|c), nats.
        log_evidence: log e(c, y), nats.
        reward: in its own units.
        log_z: log Z(c), an array with one number per prompt.
        log_posterior: log p*(y|c), nats.

    Raises:
        ModelError: where the enumerated prior does not sum to one.

    Example:
        >>> exact = po.exact(target)
        >>> [len(outcomes) for outcomes in exact.outcomes]
        [15, 15]
        >>> exact.evaluate(prior)["kl_to_prior"].tolist()
        [0.0, 0.0]
    """

    target: Target
    outcomes: tuple[Completions, ...]
    log_prior: tuple[Tensor, ...]
    log_evidence: tuple[Tensor, ...]
    reward: tuple[Tensor, ...]

    def __repr__(self) -> str:
        number = sum(map(len, self.outcomes))
        return f"Exact({number:,} outcomes of {len(self.outcomes)} prompts)"

    @cached_property
    def log_z(self) -> np.ndarray:
        """log Z(c) = log sum_y prior(y|c) e(c, y), one per prompt, in the order of its prompts."""
        return np.array([float(log_p.logsumexp(0)) for log_p in self._log_unnormalised])

    @cached_property
    def log_posterior(self) -> tuple[Tensor, ...]:
        """log p*(y|c) over the outcomes of each prompt."""
        return tuple(
            log_p - log_z for log_p, log_z in zip(self._log_unnormalised, self.log_z, strict=True)
        )

    def log_prob(self, lm: LanguageModel) -> tuple[Tensor, ...]:
        """log pi(y|c) of any language model over the same outcomes."""
        lm = language_model(lm, "policy", self.target.prior)
        if lm is self.target.prior:
            return self.log_prior
        check_same_outcomes(self.target.prior, lm, self.target.prompts, "policy")
        return tuple(_scored(lm.in_float64(), outcomes) for outcomes in self.outcomes)

    def evaluate(self, lm: LanguageModel, num_samples: int = 2000) -> dict[str, np.ndarray]:
        """The figures of `posteriori.evaluate`, exact: an array per figure, one value per prompt.

        log_z; elbo = E_pi[log p~ - log pi]; eubo = E_p*[log p~ - log pi]; kl_to_target =
        KL(pi, p*); kl_from_target = KL(p*, pi); kl_to_prior = KL(pi, prior); entropy of pi;
        mean_reward = E_pi[r]; tv, the total variation; js, the Jensen-Shannon divergence; ess =
        num_samples / (1 + chi^2(p*, pi)), what so many draws of pi are worth; target_entropy of
        p*; wasted_nats = KL(pi, p*_t) at the t >= 0, shared by all prompts, where its mean over
        them is least, p*_t ~ prior e^t, and effective_beta = beta / t, the same for each (see
        `posteriori.evaluate`); perplexity, truncated and the quantiles reward_q05 .. reward_q95.
        (Figures that describe a set of draws, such as distinct_2, have no exact value.)
        """
        return self._evaluate(self.log_prob(lm), num_samples)

    def evaluate_target(self, num_samples: int = 2000) -> dict[str, np.ndarray]:
        """The same figures of the target itself: where every algorithm should arrive."""
        return self._evaluate(self.log_posterior, num_samples)

    def _evaluate(self, log_pi: tuple[Tensor, ...], num_samples: int) -> dict[str, np.ndarray]:
        rows = [
            {
                **of_posterior(log_pi[i], self.log_posterior[i], float(self.log_z[i]), num_samples),
                **of_policy(log_pi[i], self.log_prior[i], self.reward[i], self.outcomes[i]),
            }
            for i in range(len(self.outcomes))
        ]
        t, nats = nearest_posterior(log_pi, self.log_prior, self.log_evidence)
        beta = beta_of(self.target) / t if t else math.inf
        return {
            **{name: np.array([row[name] for row in rows]) for name in rows[0]},
            "wasted_nats": np.array(nats),
            "effective_beta": np.full(len(nats), beta),
        }

    @cached_property
    def _log_unnormalised(self) -> tuple[Tensor, ...]:
        return tuple(a + b for a, b in zip(self.log_prior, self.log_evidence, strict=True))


@named_arguments
@explained("enumerating", "set a lower max_new_tokens or memory_gib, or give fewer prompts")
def exact(target: Target) -> Exact:
    """Every outcome of every prompt, listed; a float32 model is run in float64.

    Args:
        target: a target of at most a million outcomes per prompt.

    Returns:
        An `Exact`: log Z, the posterior, and the metrics of any language model, without error.

    Raises:
        SpaceTooLargeError: for more outcomes than that.
        ModelError: where the enumerated prior does not sum to one.

    Example:
        >>> po.exact(target).log_z.shape
        (2,)
    """
    outcomes = tuple(enumerate_outcomes(target, prompt) for prompt in target.prompts)
    precise = target.in_float64()
    log_prior = tuple(_scored(precise.prior, each) for each in outcomes)
    scores = [
        precise.score(each, log_p.to(each.tokens_NL.device))
        for each, log_p in zip(outcomes, log_prior, strict=True)
    ]
    return Exact(
        target,
        outcomes,
        log_prior,
        tuple(s.log_evidence.cpu() for s in scores),
        tuple(s.reward.cpu() for s in scores),
    )


def count_outcomes(vocab_size: int, num_eos: int, max_new_tokens: int) -> int:
    """sum_{t<T} K^t E + K^T for K tokens that go on and E that end."""
    going_on = vocab_size - num_eos
    ended = sum(going_on**t for t in range(max_new_tokens)) * num_eos
    return ended + going_on**max_new_tokens


def enumerate_outcomes(target: Target, prompt) -> Completions:
    """Every outcome of one prompt: shortest first, the truncated ones last."""
    lm, depth = target.prior, target.max_new_tokens
    if isinstance(lm, HasEnvironment):
        raise SpaceTooLargeError(
            "episodes cannot be enumerated: what the environment may say is not known",
            where="exact",
            hint="use posteriori.evaluate, which estimates the same figures with error bars",
        )
    count = count_outcomes(lm.vocab_size, len(lm.eos_token_ids), depth)
    if count > MAX_OUTCOMES:
        raise SpaceTooLargeError(
            f"{lm.vocab_size} tokens and max_new_tokens={depth} make {count:.3g} outcomes per "
            f"prompt, and enumeration stops at {MAX_OUTCOMES:,}",
            where="exact",
            hint="use posteriori.evaluate, which estimates the same figures with error bars",
        )
    eos = torch.tensor(lm.eos_token_ids)
    others = torch.tensor([t for t in range(lm.vocab_size) if t not in lm.eos_token_ids])
    prefix = torch.zeros(1, 0, dtype=torch.long)
    tokens, lengths, ended = [], [], []
    for t in range(depth):
        finished = _extended(prefix, eos)
        tokens.append(torch.nn.functional.pad(finished, (0, depth - t - 1)))
        lengths.append(torch.full((len(finished),), t + 1))
        ended.append(torch.ones(len(finished), dtype=torch.bool))
        prefix = _extended(prefix, others)
    tokens.append(prefix)
    lengths.append(torch.full((len(prefix),), depth))
    ended.append(torch.zeros(len(prefix), dtype=torch.bool))
    template = lm.completions([prompt], [[int(eos[0])]], depth)
    device = template.tokens_NL.device
    return Completions(
        prompt_set=template.prompt_set,
        prompt_ids=template.prompt_ids,
        prompt_index_N=torch.zeros(count, dtype=torch.long, device=device),
        tokens_NL=torch.cat(tokens).to(device),
        lengths_N=torch.cat(lengths).to(device),
        ended_N=torch.cat(ended).to(device),
        max_new_tokens=depth,
        decode=template.decode,
    )


def _extended(prefix: Tensor, tokens: Tensor) -> Tensor:
    """Every prefix followed by every token."""
    left = prefix.repeat_interleave(len(tokens), 0)
    return torch.cat([left, tokens.repeat(len(prefix))[:, None]], dim=1)


def _scored(lm: LanguageModel, outcomes: Completions) -> Tensor:
    with torch.no_grad():
        log_prob = lm.log_prob(outcomes).double().cpu()
    total = float(log_prob.logsumexp(0).exp())
    if not abs(total - 1.0) < 1e-3:
        raise ModelError(
            f"the probabilities of all outcomes sum to {total:.6g}, not 1",
            where=f"prompt {str(outcomes.prompt_set[0])[:60]!r}",
            hint="its log_prob is not that of a distribution over outcomes: "
            "check its EOS ids and its vocabulary",
        )
    return log_prob

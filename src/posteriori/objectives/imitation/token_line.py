"""What a target says of the next token where teachers are its evidence, and ratios by the token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.hooks import TokenTeacher
from posteriori.core.protocols import NextTokenLM
from posteriori.core.target import Target
from posteriori.core.types import Draws
from posteriori.errors import ObjectiveError
from posteriori.models.execution.vocabulary import vocabulary_log_prob


@dataclass(frozen=True)
class TokenLine:
    """b(v|s) = prior(v|s)^(1 - sum of weights) x the product of teacher_k(v|s)^weight_k: not
    normalised where the weights do not sum to 1 with one teacher, which a KL does not need."""

    prior: NextTokenLM
    teachers: tuple[TokenTeacher, ...]
    alone: bool
    """Whether the target has no other evidence."""

    @classmethod
    def of(cls, target: Target, prior: NextTokenLM, objective: str) -> TokenLine:
        """Raises `ObjectiveError` for a teacher with another vocabulary."""
        teachers = tuple(each for each in target.evidence if isinstance(each, TokenTeacher))
        for each in teachers:
            if each.lm.vocab_size != prior.vocab_size:
                raise ObjectiveError(
                    f"the teacher has rows for {each.lm.vocab_size} tokens and the prior for "
                    f"{prior.vocab_size}",
                    where=f"objective '{objective}'",
                    hint="use rloo, which compares completions alone",
                )
        return cls(prior, teachers, len(teachers) == len(target.evidence))

    @property
    def weight_of_prior(self) -> float:
        left = 1.0 - math.fsum(each.weight for each in self.teachers)
        return 0.0 if abs(left) < 1e-12 else left

    @property
    def is_a_teacher(self) -> bool:
        """Whether the target is one teacher, and nothing else."""
        return self.alone and len(self.teachers) == 1 and self.weight_of_prior == 0.0

    @property
    def teacher(self) -> TokenTeacher:
        (one,) = self.teachers
        return one

    def log_prob(self, completions: Completions) -> Tensor:
        """log b of every token after every prefix, float64 [N, L, V]."""
        parts = [each.weight * each.next_token_log_prob(completions) for each in self.teachers]
        if self.weight_of_prior:
            parts.append(self.weight_of_prior * vocabulary_log_prob(self.prior, completions))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def rest(self, draws: Draws, base_NL: Tensor) -> Tensor:
        """The evidence that is no teacher's, [N]: what log p~ has beyond the tokens' log b."""
        if self.alone:
            return torch.zeros_like(draws.log_prior_N)
        of_tokens_N = base_NL.where(draws.completions.mask_NL, 0.0).sum(-1)
        return draws.log_prior_N + draws.log_evidence_N - of_tokens_N


def prefix_ratio(
    log_p_NL: Tensor, log_q_NL: Tensor, mask_NL: Tensor, by_token: bool
) -> tuple[Tensor, Tensor]:
    """p/q of the tokens before each token, and of those up to it, [N, L] each; `by_token`, each
    prefix counts as 1, and so the second is of the token alone."""
    log_ratio_NL = (log_p_NL - log_q_NL).where(mask_NL, 0.0)
    if by_token:
        return torch.ones_like(log_ratio_NL), log_ratio_NL.exp()
    up_to_NL = log_ratio_NL.cumsum(-1)
    return (up_to_NL - log_ratio_NL).exp(), up_to_NL.exp()


def over_others(values_NL: Tensor, mask_NL: Tensor, completions: Completions) -> Tensor:
    """At each place the mean over the prompt's other draws that come so far, [N, L]; 0 where there
    is none."""
    prompt_N = completions.prompt_index_N
    size = int(prompt_N.max()) + 1
    there_NL = mask_NL.to(values_NL)
    kept_NL = values_NL * there_NL
    total_PL = kept_NL.new_zeros(size, kept_NL.shape[1]).index_add(0, prompt_N, kept_NL)
    count_PL = kept_NL.new_zeros(size, kept_NL.shape[1]).index_add(0, prompt_N, there_NL)
    count_NL = count_PL[prompt_N] - there_NL
    return (total_PL[prompt_N] - kept_NL) / count_NL.clamp(min=1.0)

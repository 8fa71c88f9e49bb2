"""Distillation as inference: what a teacher thinks more likely than the prior does, as evidence."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import spend
from posteriori.core.draw import lm_tokens
from posteriori.core.prompted import Prefix, Prompted
from posteriori.core.protocols import Columns, LanguageModel, NextTokenLM, Scores
from posteriori.core.target import Target
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, EvidenceError
from posteriori.evidence.shown import ShownEvidence
from posteriori.models.execution.vocabulary import vocabulary_log_prob

from .expert import Expert, on_device_of


class Teacher(ShownEvidence):
    """A teacher as evidence: the target lies on the line from the prior through the teacher.

        log e(c, y) = weight (log pi_teacher(y|c) - log prior(y|c))

    prior x e = prior (pi_teacher / prior)^weight (2602.12125): for weight 1 the target is the
    teacher itself, whatever the prior, and log Z = 0 exactly; below 1 it is between the two, above
    1 beyond the teacher. On-policy distillation is `fit` for this target with any objective on the
    policy's own draws, and `kl_to_target` is the distance to the teacher in nats. Several teachers
    multiply: prior^(1 - sum of weights) x the product of pi_k^weight_k. With `Reward(r, beta)`
    beside it the target is the teacher's (or the line's) posterior. The reward that is reported is
    log pi_teacher - log prior, in nats.

    Args:
        lm: a language model, or what `posteriori.load` takes. It must have the target's tokens;
            `Expert(lm, over_text=True)` reads those of another tokenizer.
        weight: lambda, not zero.
        prompt_prefix: put before every prompt, as `posteriori.Prompted` does: the teacher may be
            the prior itself with a prefix (context distillation).

    Raises:
        ConfigError: for a weight that is zero or not finite.
        ModelError: for a teacher with other tokens, when the target is made.
        EvidenceError: when scoring, where a teacher of negative weight rules a completion out.

    Example:
        >>> import numpy as np
        >>> teacher = po.TabularLM.random(["<eos>", "a", "b"], 3, ["x", "y"], seed=1)
        >>> exact = po.exact(po.Target(prior, po.Teacher(teacher), ["x", "y"], 3))
        >>> bool(np.all(abs(exact.log_z) < 1e-12))
        True
        >>> bool(np.all(abs(exact.evaluate(teacher)["kl_to_target"]) < 1e-12))
        True
    """

    needs_log_prior = True
    max_log_evidence = None

    @named_arguments
    def __init__(
        self,
        lm: LanguageModel | str | Path,
        weight: float = 1.0,
        prompt_prefix: Prefix | None = None,
    ) -> None:
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(
                f"weight={weight} must be a number other than zero",
                where="Teacher",
                hint="1 is the teacher itself, 0.5 halfway to it, 1.5 beyond it",
            )
        self.expert = Expert(lm, 1.0, prompt_prefix)
        self.weight = float(weight)
        self.name = f"teacher '{lm}'" if isinstance(lm, str | Path) else "teacher"

    @property
    def lm(self) -> LanguageModel:
        """The teacher."""
        return self.expert.lm

    @property
    def drawing(self) -> LanguageModel:
        """The teacher as a model to draw by: with its prefix, where it has one."""
        prefix = self.expert.prompt_prefix
        return self.lm if prefix is None else Prompted(self.lm, prefix)

    def next_token_log_prob(self, completions: Completions) -> Tensor:
        """log pi_teacher(v|c, y_<t) of every token of its vocabulary, float64 [N, L, V], without
        gradient. Raises `EvidenceError` where the teacher does not say it."""
        lm = self.drawing
        if not isinstance(lm, NextTokenLM) or not isinstance(self.lm, NextTokenLM):
            raise EvidenceError(
                f"a {type(self.lm).__name__} does not say what tokens may come next",
                where=self.name,
                hint="use a CausalLM (posteriori.load)",
            )
        read = on_device_of(self.lm, completions)
        spend(lm_tokens=lm_tokens(read))
        return vocabulary_log_prob(lm, read).to(completions.tokens_NL.device)

    def bind(self, target: Target) -> None:
        """Refuses a target whose tokens the teacher does not know."""
        self.expert.bind(target)

    def in_float64(self) -> Teacher:
        return Teacher(self.lm.in_float64(), self.weight, self.expert.prompt_prefix)

    def score(self, completions: Completions, columns: Columns, log_prior_N: Tensor) -> Scores:  # noqa: ARG002 - the text says it all
        log_prob_N = self.expert.log_prob(completions)
        gain_N = (log_prob_N - log_prior_N.to(log_prob_N)).masked_fill(
            log_prior_N.to(log_prob_N).isneginf(), -math.inf
        )
        if self.weight < 0 and bool(log_prob_N.isneginf().any()):
            row = int(log_prob_N.argmin())
            raise EvidenceError(
                f"it finds {completions.texts[row][:60]!r} impossible, which a negative weight "
                "makes infinitely good",
                where=self.name,
                hint="use a teacher without top_k and top_p",
            )
        log_evidence_N = (self.weight * gain_N).masked_fill(gain_N.isneginf(), -math.inf)
        return Scores(log_evidence_N, gain_N)

    def prefix_log_evidence(
        self, completions: Completions, columns: Columns, log_prior_N: Tensor
    ) -> Tensor:
        """The same number of a completion that has not ended yet."""
        return self.score(completions, columns, log_prior_N).log_evidence

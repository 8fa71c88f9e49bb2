"""Another language model's log-prob as evidence: products of experts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from posteriori.core.completions import Completions
from posteriori.core.cost import spend
from posteriori.core.draw import lm_tokens
from posteriori.core.hooks import HasTokenizer, OnDevice
from posteriori.core.prompted import Prefix, asked_of
from posteriori.core.protocols import Columns, LanguageModel, Scores
from posteriori.core.registry import language_model
from posteriori.core.same_outcomes import difference_in_tokens
from posteriori.core.target import Target
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, EvidenceError, ModelError
from posteriori.evidence.shown import ShownEvidence

from .expert_text import retokenised


class Expert(ShownEvidence):
    """Another language model's log-prob as evidence: the target is a product of experts.

        log e(c, y) = weight x log pi_expert(y | prefix + c)

    prior x pi_expert^weight / Z (Hinton 2002); a negative weight is an anti-expert. The reward that
    is reported is log pi_expert, in nats. For weight > 0 the evidence is at most 1, so rejection
    from the prior is exact.

    Args:
        lm: a language model, or what `posteriori.load` takes. It must have the target's tokens: the
            same vocabulary and end-of-sequence ids.
        weight: the power of the expert, not zero.
        prompt_prefix: put before every prompt, as `posteriori.Prompted` does; the expert may then
            be the prior itself.
        over_text: the expert reads the completion's text in tokens of its own, and need not have
            the target's. The number is its log-prob of the one tokenisation that its tokenizer
            gives (and of its end of sequence, if the completion has ended): at most that of the
            text, and not normalised over the target's outcomes.

    Raises:
        ConfigError: for a weight that is zero or not finite.
        ModelError: for an expert with other tokens, when the target is made.
        EvidenceError: when scoring, where an anti-expert rules a completion out.

    Example:
        >>> other = po.TabularLM.random(["<eos>", "a", "b"], 3, ["x", "y"], seed=1)
        >>> po.Target(prior, po.Expert(other, weight=0.5), ["x", "y"], 3).max_log_evidence
        0.0
    """

    @named_arguments
    def __init__(
        self,
        lm: LanguageModel | str | Path,
        weight: float = 1.0,
        prompt_prefix: Prefix | None = None,
        *,
        over_text: bool = False,
    ) -> None:
        if not math.isfinite(weight) or weight == 0:
            raise ConfigError(
                f"weight={weight} must be a number other than zero",
                where="Expert",
                hint="1 multiplies the expert in as it is",
            )
        self.name = f"expert '{lm}'" if isinstance(lm, str | Path) else "expert"
        self.lm: LanguageModel = language_model(lm, "expert")
        self.weight, self.prompt_prefix, self.over_text = float(weight), prompt_prefix, over_text
        self.max_log_evidence = 0.0 if weight > 0 else None
        if over_text and not isinstance(self.lm, HasTokenizer):
            raise ModelError(
                f"a {type(self.lm).__name__} has no tokenizer to read a text with",
                where="Expert(over_text=True)",
                hint="use a CausalLM, or leave over_text out",
            )

    def bind(self, target: Target) -> None:
        """Refuses a target whose tokens the expert does not know."""
        if self.over_text:
            return
        difference = difference_in_tokens(target.prior, self.lm)
        if difference is None and self.lm.vocab_size < target.prior.vocab_size:
            difference = f"rows for {target.prior.vocab_size} and for {self.lm.vocab_size} tokens"
        if difference is not None:
            raise ModelError(
                f"prior and expert do not share their tokens: {difference}",
                where="Expert",
                hint="use an expert with the prior's tokenizer and end-of-sequence tokens, or "
                "over_text=True to score the text in the expert's own tokens",
            )

    def in_float64(self) -> Expert:
        return Expert(
            self.lm.in_float64(), self.weight, self.prompt_prefix, over_text=self.over_text
        )

    def score(self, completions: Completions, columns: Columns) -> Scores:  # noqa: ARG002 - the text says it all
        log_prob_N = self.log_prob(completions)
        log_evidence_N = self.weight * log_prob_N
        if bool((log_evidence_N == math.inf).any()):
            row = int(log_evidence_N.argmax())
            raise EvidenceError(
                f"it finds {completions.texts[row][:60]!r} impossible, which a negative weight "
                "makes infinitely good",
                where=self.name,
                hint="use an anti-expert without top_k and top_p",
            )
        return Scores(log_evidence_N, log_prob_N)

    def prefix_log_evidence(self, completions: Completions, columns: Columns) -> Tensor:
        """The same number of a completion that has not ended yet."""
        return self.score(completions, columns).log_evidence

    def log_prob(self, completions: Completions) -> Tensor:
        """log pi_expert of each completion, float64 [N] on the completions' device, no gradient."""
        device = completions.tokens_NL.device
        with torch.no_grad():
            if self.over_text:
                return retokenised(self.lm, completions, self.prompt_prefix).to(device)
            read = on_device_of(self.lm, asked_of(self.lm, completions, self.prompt_prefix))
            spend(lm_tokens=lm_tokens(read))
            return self.lm.log_prob(read).double().to(device)


def on_device_of(lm: LanguageModel, completions: Completions) -> Completions:
    """The completions on the device of a model."""
    device = lm.device if isinstance(lm, OnDevice) else completions.tokens_NL.device
    return replace(
        completions,
        prompt_index_N=completions.prompt_index_N.to(device),
        tokens_NL=completions.tokens_NL.to(device),
        lengths_N=completions.lengths_N.to(device),
        ended_N=completions.ended_N.to(device),
        token_log_prob_NL=None,
    )

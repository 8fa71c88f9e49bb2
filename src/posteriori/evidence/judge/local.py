"""A local language model as a judge."""

from __future__ import annotations

from typing import Any

import torch

from posteriori.core.cost import spend
from posteriori.core.draw import lm_tokens
from posteriori.core.hooks import tokenizer_of
from posteriori.core.occurrence import Message
from posteriori.core.run.progress import counted_by
from posteriori.core.types import Finding
from posteriori.errors import ConfigError


class LocalAnswers:
    """log p(yes) - log (p(yes) + p(no)) under a `CausalLM`, by one pass over each text."""

    findings: tuple[Finding, ...] = ()

    def __init__(self, lm: Any, yes: list[str], no: list[str]) -> None:
        tokenizer = tokenizer_of(lm)
        if tokenizer is None:
            raise ConfigError(
                f"a {type(lm).__name__} has no tokenizer to ask a question with",
                where="Judge",
                hint="give a CausalLM, or the path of one",
            )
        self.lm = lm
        self.name = getattr(lm.model.config, "name_or_path", "") or type(lm.model).__name__
        self.chat = getattr(tokenizer, "chat_template", None) is not None
        yes_ids, no_ids = _first_tokens(tokenizer, yes), _first_tokens(tokenizer, no)
        self.yes, self.no = sorted(yes_ids - no_ids), sorted(no_ids - yes_ids)
        if not (self.yes and self.no):
            raise ConfigError(
                f"the judge's tokenizer begins {yes} and {no} with the same token, or does not "
                "know them",
                where="Judge",
                hint="choose answers that differ in their first token",
            )

    def log_yes(self, texts: list[str]) -> list[float]:
        answers = self.yes + self.no
        asked = [self._prompt(text) for text in texts for _ in answers]
        completions = self.lm.completions(asked, [[token] for token in answers] * len(texts), 1)
        # One pass over a text serves all its answers.
        spend(lm_tokens=lm_tokens(completions.select(slice(None, None, len(answers)))))
        with torch.no_grad(), counted_by(1 / len(answers)):
            log_p_NA = self.lm.log_prob(completions).view(len(texts), len(answers)).double()
        log_yes_N = log_p_NA[:, : len(self.yes)].logsumexp(-1)
        return (log_yes_N - log_p_NA.logsumexp(-1)).tolist()

    def _prompt(self, text: str) -> str | list[Message]:
        return [{"role": "user", "content": text}] if self.chat else f"{text}\nAnswer:"


def _first_tokens(tokenizer: Any, spellings: list[str]) -> set[int]:
    """Of each spelling with and without a space before it; unknown ones are left out."""
    first = set()
    for spelling in spellings:
        for variant in (spelling, f" {spelling}"):
            ids = tokenizer(variant, add_special_tokens=False)["input_ids"]
            if ids and ids[0] != tokenizer.unk_token_id:
                first.add(ids[0])
    return first

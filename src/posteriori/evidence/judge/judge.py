"""A language model's answer to a question about the completion, as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from typing_extensions import Unpack

from posteriori.core.completions import Completions
from posteriori.core.occurrence import Prompt
from posteriori.core.protocols import Columns, Scores
from posteriori.core.types import Finding
from posteriori.data.completion_text import own_text
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError
from posteriori.evidence.calls.answer_cache import Cache
from posteriori.evidence.calls.caller import CallCounts
from posteriori.evidence.judge.settings import EndpointKeywords
from posteriori.evidence.shown import ShownEvidence

from .settings import EndpointSettings

TEMPLATE = "Text: {prompt}{completion}\n\nQuestion: {question} Answer with {yes} or {no}."
"""The judge's prompt. A model without a chat template gets "Answer:" after it."""


class Answers(Protocol):
    """What answers: a local model, or a server."""

    name: str

    def log_yes(self, texts: list[str]) -> list[float]:
        """log p(yes) - log (p(yes) + p(no)) for each text, nats."""
        ...

    @property
    def findings(self) -> tuple[Finding, ...]: ...


class Judge(ShownEvidence):
    """A language model's answer to a question about the completion, as evidence.

        log e(c, y) = log p(yes | q(c, y)) - log (p(yes | q(c, y)) + p(no | q(c, y)))

    p(yes) is the probability of the answer's first token, summed over its spellings, each with and
    without a space before it; a token that both answers share counts for neither. The evidence is
    at most 1, so rejection from the prior is exact. `Judge.endpoint` asks a server.

    Args:
        lm: a `CausalLM`, or what `posteriori.load` takes.
        question: what is asked about the completion.
        yes: the answer that is wanted, in one spelling or several.
        no: the other answer.
        template: the judge's prompt, with {prompt}, {completion} (needed), {question}, {yes}, {no};
            it goes through the tokenizer's chat template where there is one.
        cache_size: how many answers are kept.

    Raises:
        ConfigError: for a template without {completion}, or answers that begin with the same token.
        PromptError: when scoring, for a text that does not fit into the judge's context.

    Example:
        >>> judge = po.Judge("tiny", "Is it polite?", yes=["Yes", "yes"], no=["No", "no"])
        >>> judge.max_log_evidence
        0.0
    """

    max_log_evidence = 0.0

    @named_arguments
    def __init__(
        self,
        lm: Any,
        question: str,
        yes: str | Sequence[str] = "Yes",
        no: str | Sequence[str] = "No",
        template: str | None = None,
        *,
        cache_size: int = 100_000,
    ) -> None:
        spellings = _spellings("yes", yes), _spellings("no", no)
        self.question = question
        self.template = _checked_template(template or TEMPLATE)
        self._first = {"question": question, "yes": spellings[0][0], "no": spellings[1][0]}
        if isinstance(lm, str | Path):
            # Only a path wants the loader, and with it all of transformers.
            from posteriori.models.load import load

            lm = load(lm)
        self._answers: Answers = _answers_of(lm, *spellings)
        self.name = f"judge '{self._answers.name}'"
        self.counts = CallCounts()
        self._cache = Cache(cache_size)

    @classmethod
    def endpoint(
        cls,
        url: str,
        model: str,
        question: str,
        yes: str | Sequence[str] = "Yes",
        no: str | Sequence[str] = "No",
        template: str | None = None,
        *,
        cache_size: int = 100_000,
        server: EndpointSettings | None = None,
        **settings: Unpack[EndpointKeywords],
    ) -> Judge:
        """A judge behind an OpenAI-compatible server at `url` ("http://localhost:8000/v1"), which
        has to return log-probs; `settings` are the fields of `EndpointSettings`, and
        `server` is one of these.

        The server returns the `top_logprobs` most likely tokens alone. Where one answer is not
        among them, its probability counts at the most that it can be; where neither is, that is an
        error.
        """
        from .endpoint import Endpoint

        endpoint = Endpoint(url, model, server, **settings)
        return cls(endpoint, question, yes, no, template, cache_size=cache_size)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._answers.findings

    def score(self, completions: Completions, columns: Columns) -> Scores:  # noqa: ARG002
        log_e_N = self._log_yes(completions.prompts, completions.texts)
        return Scores(log_e_N, log_e_N.exp())

    def as_feature(
        self, prompts: Sequence[Prompt], completions: Sequence[Any], **_: Any
    ) -> list[float]:
        """P(yes) of each completion, called as TRL calls reward functions: for
        `fit_composition`, or `Moments`."""
        texts = [own_text(each) for each in completions]
        return self._log_yes(prompts, texts).exp().tolist()

    def _log_yes(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> torch.Tensor:
        texts = [self.text(*both) for both in zip(prompts, completions, strict=True)]
        self.counts.completions += len(texts)
        log_p = self._cache.answers(texts, lambda rows: self._ask([texts[row] for row in rows]))
        self.counts.cache_hits = self._cache.hits
        return torch.tensor(log_p, dtype=torch.float64)

    def text(self, prompt: Prompt, completion: str) -> str:
        """The judge's prompt for a completion."""
        if not isinstance(prompt, str):
            said = "".join(f"{each['role']}: {each['content']}\n" for each in prompt)
            prompt = f"{said}assistant: "
        return self.template.format(prompt=prompt, completion=completion, **self._first)

    def _ask(self, texts: list[str]) -> list[float]:
        self.counts.calls += 1
        return self._answers.log_yes(texts)


def _answers_of(lm: Any, yes: list[str], no: list[str]) -> Answers:
    from .endpoint import Endpoint, EndpointAnswers
    from .local import LocalAnswers

    return EndpointAnswers(lm, yes, no) if isinstance(lm, Endpoint) else LocalAnswers(lm, yes, no)


def _spellings(name: str, answer: str | Sequence[str]) -> list[str]:
    spellings = [answer] if isinstance(answer, str) else list(answer)
    if not spellings or not all(isinstance(each, str) and each.strip() for each in spellings):
        raise ConfigError(f"{name}={answer!r} is no answer", where="Judge", hint=f'{name}="..."')
    return [each.strip() for each in spellings]


def _checked_template(template: str) -> str:
    try:
        filled = template.format(prompt="", completion="\0", question="", yes="", no="")
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"the template cannot be filled in: {type(error).__name__} {error}",
            where="Judge",
            hint="it knows {prompt}, {completion}, {question}, {yes}, {no}; write {{ for a brace",
        ) from error
    if "\0" not in filled:
        raise ConfigError("the template has no {completion}", where="Judge", hint="add it")
    return template

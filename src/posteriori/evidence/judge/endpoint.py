"""A judge behind an OpenAI-compatible server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from posteriori.core.http.post import Caller, Post
from posteriori.core.run.progress import advance
from posteriori.core.settings.combined import combined
from posteriori.core.types import Finding
from posteriori.errors import EvidenceCallError, EvidenceError

from .settings import EndpointSettings

_SPACES = str.maketrans("\u0120\u2581", "  ")
"""How byte-level and sentencepiece vocabularies write a space."""


# An answer's log-probs of one token take a few thousand bytes.
_JUDGE = Caller("Judge.endpoint", "the judge", EvidenceError, EvidenceCallError, 16 * 2**20)


class Endpoint:
    """The most probable first tokens of a server's answers. Raises `ConfigError` for settings that
    make no sense, and `EvidenceError` where the server does not answer with log-probs."""

    def __init__(
        self, url: str, model: str, server: EndpointSettings | None = None, **settings: Any
    ) -> None:
        self.settings = combined(EndpointSettings, server, settings, "server", "Judge.endpoint")
        route = "chat/completions" if self.settings.api == "chat" else "completions"
        self.url, self.model = f"{url.rstrip('/')}/{route}", model
        self.post = Post(
            self.url,
            caller=_JUDGE,
            api_key_env=self.settings.api_key_env,
            timeout=self.settings.timeout,
            retries=self.settings.retries,
            backoff=self.settings.backoff,
        )

    def first_tokens(self, texts: list[str]) -> list[dict[str, float]]:
        """Of each text's answer: the most probable first tokens and their log-probs, nats."""
        with ThreadPoolExecutor(min(self.settings.workers, len(texts))) as pool:
            found = []
            for tokens in pool.map(self._first_tokens, texts):
                found.append(tokens)
                advance(1)
            return found

    def _first_tokens(self, text: str) -> dict[str, float]:
        # At temperature 1 the log-probs are the model's own, also where a server tempers them.
        body: dict[str, Any] = {"model": self.model, "max_tokens": 1, "temperature": 1.0}
        if self.settings.api == "chat":
            body |= {"messages": [{"role": "user", "content": text}], "logprobs": True}
            body |= {"top_logprobs": self.settings.top_logprobs}
        else:
            body |= {"prompt": f"{text}\nAnswer:", "logprobs": self.settings.top_logprobs}
        answer = self.post(body)
        try:
            return _parsed(answer["choices"][0]["logprobs"])
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise EvidenceError(
                f"the answer of {self.url} has no log-probs ({self.post.shown(str(answer), 200)})",
                where="Judge.endpoint",
                hint="the server has to support logprobs (llama-cpp-python: logits_all=True); "
                "try api='completions' or 'chat'",
            ) from error


class EndpointAnswers:
    """log p(yes) - log (p(yes) + p(no)) from the tokens that a server returns."""

    def __init__(self, server: Endpoint, yes: list[str], no: list[str]) -> None:
        self.server, self.yes, self.no = server, yes, no
        self.name = server.model
        self.asked = self.bounded = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """That the server left out one of the two answers, if that happened."""
        if not self.bounded:
            return ()
        return (
            Finding(
                "warn",
                "judge_bounded",
                f"For {self.bounded} of {self.asked} completions the judge '{self.name}' returned "
                "the probability of one answer alone; the other counts at the most that it can be.",
                "Raise top_logprobs, or give more spellings.",
            ),
        )

    def log_yes(self, texts: list[str]) -> list[float]:
        return [self._of(tokens) for tokens in self.server.first_tokens(texts)]

    def _of(self, tokens: dict[str, float]) -> float:
        yes, no = _begun(tokens, self.yes), _begun(tokens, self.no)
        log_yes, log_no = _log_sum(tokens, yes - no), _log_sum(tokens, no - yes)
        self.asked += 1
        if all(returned in (None, -math.inf) for returned in (log_yes, log_no)):
            first = sorted(tokens, key=lambda token: -tokens[token])[:5]
            raise EvidenceError(
                f"neither {self.yes} nor {self.no} is among the judge's {len(tokens)} most "
                f"probable tokens, the first {first}",
                where=f"judge '{self.name}'",
                hint="say in the question how to answer, give the spellings it uses, or raise "
                "top_logprobs",
            )
        if log_yes is None or log_no is None:
            self.bounded += 1
        most = _most_of_others(tokens)
        log_yes = most if log_yes is None else log_yes
        log_no = most if log_no is None else log_no
        return log_yes - _log_add(log_yes, log_no)


def _parsed(logprobs: Any) -> dict[str, float]:
    """Either form, whichever the route: llama.cpp's own server answers both as chats."""
    if "content" in logprobs:
        rows = [(each["token"], each["logprob"]) for each in logprobs["content"][0]["top_logprobs"]]
    else:
        rows = list(logprobs["top_logprobs"][0].items())
    found: dict[str, float] = {}
    for token, log_p in rows:
        if not isinstance(token, str) or math.isnan(float(log_p)):
            raise ValueError("a token is no text, or its log-prob is NaN")
        # Two ids may be written alike, such as two halves of characters.
        found[token] = _log_add(found.get(token, -math.inf), float(log_p))
    # Rounding may make a certain token's log-prob a little more than 0.
    if not found or not all(log_p <= 1e-3 for log_p in found.values()):
        raise ValueError("no log-probs")
    return found


def _begun(tokens: Mapping[str, float], spellings: list[str]) -> set[str]:
    """The tokens that begin an answer, without spaces: of each spelling the longest there is."""
    returned = {_plain(token) for token in tokens} - {""}
    begun = set()
    for spelling in spellings:
        fitting = [each for each in returned if spelling.startswith(each)]
        if fitting:
            begun.add(max(fitting, key=len))
    return begun


def _plain(token: str) -> str:
    return token.translate(_SPACES).strip()


def _log_sum(tokens: Mapping[str, float], chosen: set[str]) -> float | None:
    found = [log_p for token, log_p in tokens.items() if _plain(token) in chosen]
    total = -math.inf
    for log_p in found:
        total = _log_add(total, log_p)
    return total if found else None


def _most_of_others(tokens: Mapping[str, float]) -> float:
    """log of the largest probability of a token that was not returned: at most the least returned
    one, and at most what is left of 1."""
    least = min(tokens.values())
    left = 1.0 - math.fsum(math.exp(log_p) for log_p in tokens.values())
    return min(least, math.log(left)) if left > 0 else least


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

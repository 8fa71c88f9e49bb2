"""An OpenAI-compatible server that draws: `vllm serve`, and others that score prompts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from posteriori.core.http.post import Caller, Post
from posteriori.core.protocols import LanguageModel
from posteriori.errors import EngineError
from posteriori.models.causal import CausalLM
from posteriori.models.engines.backend import Drawn, Request
from posteriori.models.engines.settings import EngineConfig
from posteriori.models.engines.signature import Signature, signature_of

from .adapter_files import save_adapter
from .answers import Answers
from .concurrent import beside

_CALLER = Caller("Engine", "the engine's server", EngineError, EngineError, 2**30)

_SCORED_AT_ONCE = 16
"""Prompts of one request."""

_ADAPTER = "posteriori"
"""What the server calls the policy's adapter."""

_TOLERANCE = 0.25


class HttpBackend:
    """Draws by `POST {url}/completions` with prompts as token ids.

    A LoRA policy is left in a folder that the server can read, and loaded in place by vLLM's
    `load_lora_adapter` (the server needs `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1).
    Whole weights are not sent: for those use vLLM in this process.
    """

    def __init__(self, config: EngineConfig, lm: LanguageModel) -> None:
        assert config.url is not None, "`check_settings` has seen it"
        self.url, self.config = config.url.rstrip("/"), config
        self.tolerance = _TOLERANCE
        self._post = partial(
            Post,
            caller=_CALLER,
            api_key_env=config.api_key_env,
            timeout=config.timeout,
            retries=config.retries,
            backoff=1.0,
        )
        self._completions = self._post(f"{self.url}/completions")
        self.base_name = config.model or self._only_model()
        self.name = self.base_name
        self.answers = Answers(self.url, lm)
        self._base: Signature | None = None
        self._folder: Path | None = None
        self._echoes: bool | None = None
        self._hides_ends = False

    def load(self, lm: LanguageModel) -> None:
        if isinstance(lm, CausalLM) and lm.adapter is not None:
            self._load_adapter(lm)
            return
        # By what the tensors hold: a policy that is still its prior has the server's weights.
        found = signature_of(lm)[1:]
        if self._base not in (None, found):
            raise EngineError(
                f"the model's weights have changed, and {self.url} takes LoRA adapters alone",
                where="Engine",
                hint='train an adapter (policy="lora"), or use the backend "vllm" in this process',
            )
        self._base, self.name = found, self.base_name

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        found = [
            each for some in beside(self._drawn, requests, self.config.workers) for each in some
        ]
        return self._with_ends(requests, found)

    def score(
        self, prompt_ids: Sequence[tuple[int, ...]], completion_ids: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        pairs = list(zip(prompt_ids, completion_ids, strict=True))
        if self._echoes is None and pairs:
            self._echoes = self._finds_out(pairs[0])
        parts = [pairs[at : at + _SCORED_AT_ONCE] for at in range(0, len(pairs), _SCORED_AT_ONCE)]
        return [each for some in beside(self._scored, parts, self.config.workers) for each in some]

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _only_model(self) -> str:
        answer = self._post(f"{self.url}/models")(None)
        names = [each["id"] for each in answer.get("data", [])] if isinstance(answer, dict) else []
        if not names:
            raise EngineError(
                f"{self.url}/models names no model", where="Engine", hint='give model="..."'
            )
        return names[0]

    def _load_adapter(self, lm: CausalLM) -> None:
        if self._folder is None:
            place = self.config.adapter_dir
            self._folder = Path(tempfile.mkdtemp(prefix="posteriori-adapter-", dir=place))
            self._folder.chmod(0o755)  # the server may run as another user
        save_adapter(lm, self._folder)
        body = {"lora_name": _ADAPTER, "lora_path": str(self._folder), "load_inplace": True}
        # It answers with a sentence, which is no JSON.
        self._post(f"{self.url}/load_lora_adapter").text(body)
        self.name = _ADAPTER

    def _drawn(self, request: Request) -> list[Drawn]:
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": list(request.prompt_ids),
            "n": request.num_samples,
            "max_tokens": request.max_new_tokens,
            "seed": request.seed,
            "logprobs": max(1, request.top),
            **_BARE,
            "stop_token_ids": list(self.answers.eos),
            # Token ids in place of texts, which several tokens may share.
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        found = self.answers.choices(self._completions(body), request.num_samples)
        return [self.answers.drawn(each, request.top) for each in found]

    def _with_ends(self, requests: Sequence[Request], found: list[Drawn]) -> list[Drawn]:
        """Completions that the server ended without showing the end of sequence: it is put behind
        them, with the log-prob that it has as a prompt's last token."""
        prompts = [each.prompt_ids for each in requests for _ in range(each.num_samples)]
        at = [row for row, each in enumerate(found) if len(each.log_probs) < len(each.token_ids)]
        # Without their ends, tokens are not drawn as often as their log-probs say.
        self._hides_ends |= bool(at)
        if self._hides_ends:
            found = [each._replace(top=[]) for each in found]
        scores = self.score([prompts[row] for row in at], [found[row].token_ids for row in at])
        for row, log_probs in zip(at, scores, strict=True):
            whole = [*found[row].log_probs, log_probs[-1]]
            found[row] = found[row]._replace(log_probs=whole)
        return found

    def _scored(self, pairs: Sequence[tuple[tuple[int, ...], Sequence[int]]]) -> list[list[float]]:
        body = self._score_body(pairs, echo=bool(self._echoes))
        choices = self.answers.choices(self._completions(body), len(pairs))
        return [
            self.answers.of_prompt(choice, prompt, ids)
            for choice, (prompt, ids) in zip(choices, pairs, strict=True)
        ]

    def _finds_out(self, pair: tuple[tuple[int, ...], Sequence[int]]) -> bool:
        """Whether the server scores prompts by `echo`; false for vLLM's `prompt_logprobs`. Raises
        `EngineError` where it does neither."""
        reasons = []
        for echo in (False, True):
            try:
                answer = self._completions(self._score_body([pair], echo=echo))
                self.answers.of_prompt(self.answers.choices(answer, 1)[0], *pair)
            except EngineError as error:
                reasons.append(error.what)
            else:
                return echo
        raise EngineError(
            f"{self.url} returns no log-probs of prompts, neither by prompt_logprobs nor by echo "
            f"({reasons[-1]})",
            where="Engine",
            hint="a server without them cannot say how probable a text is to its model: use one "
            "that does, such as `vllm serve`",
        )

    def _score_body(
        self, pairs: Sequence[tuple[tuple[int, ...], Sequence[int]]], *, echo: bool
    ) -> dict[str, Any]:
        how = {"echo": True, "logprobs": 1} if echo else {"prompt_logprobs": 0}
        prompts = [[*prompt, *ids] for prompt, ids in pairs]
        return {
            "model": self.name,
            "prompt": prompts,
            "max_tokens": 1,
            **_BARE,
            **how,
            "return_tokens_as_token_ids": True,
        }


_BARE = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""No change of the model's own distribution, whatever the server's defaults are."""

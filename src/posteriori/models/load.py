"""`load`: a language model by name, path, hub id, GGUF file or adapter directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ..errors import ConfigError, ModelError, did_you_mean
from .causal import CausalLM
from .warp import Warp

BUNDLED = {"tiny": Path(__file__).parent / "tiny"}
"""Models that the package carries, by name."""

DTypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]

_LARGE = 50_000_000
"""Parameters above which reduced precision pays: below, a step is overhead and not arithmetic."""


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: DTypeName = "auto",
    merge_adapter: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    memory_gib: float = 1.0,
) -> CausalLM:
    """The language model at `path`, ready to be a prior, a proposal or a policy.

    `path` is the name of a bundled model ("tiny"), a directory or hub id of a transformers causal
    model, a GGUF file, or a directory with a PEFT adapter (its base model is found from its config;
    `merge_adapter` folds it into the weights).

    `dtype="auto"` computes in bfloat16 where the device multiplies it natively and the model has
    more than 50 million parameters, and in float32 otherwise. `temperature`, `top_k`, `top_p` and
    `min_new_tokens` change the distribution itself: draws and log-probs alike.

    Raises `ModelError` when nothing can be loaded from `path`, and says why.
    """
    where = BUNDLED.get(str(path), Path(path))
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    warp = Warp(temperature, top_k, top_p, min_new_tokens)
    adapter_config = where / "adapter_config.json"
    if adapter_config.is_file():
        base = _base_of_adapter(adapter_config)
        plain, tokenizer = _load_plain(base, _tokenizer_place(where))
        model: PreTrainedModel | PeftModel = _cast(plain, dtype, target)
        model = PeftModel.from_pretrained(model, str(where), adapter_name="default")
        if merge_adapter:
            model = model.merge_and_unload()
    else:
        plain, tokenizer = _load_plain(str(where) if where.exists() else str(path), None)
        model = _cast(plain, dtype, target)
    model.requires_grad_(False)
    adapter = "default" if isinstance(model, PeftModel) else None
    return CausalLM(model, tokenizer, adapter=adapter, warp=warp, memory_gib=memory_gib)


def fast_dtype(num_parameters: int, device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively and the model is large enough to gain."""
    if num_parameters < _LARGE:
        return torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _cast(model: PreTrainedModel, dtype: DTypeName, device: torch.device) -> PreTrainedModel:
    if dtype == "auto":
        chosen = fast_dtype(model.num_parameters(), device)
    else:
        chosen = getattr(torch, dtype, None) if dtype in _DTYPES else None
        if chosen is None:
            raise ConfigError(f"unknown dtype '{dtype}'", hint=did_you_mean(dtype, _DTYPES))
    return model.to(device=device, dtype=chosen)  # type: ignore[return-value]


_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def _load_plain(
    path: str, tokenizer_path: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    place, gguf = path, {}
    if path.endswith(".gguf"):
        place, gguf = str(Path(path).parent), {"gguf_file": Path(path).name}
    if (gguf or Path(path).is_absolute() or path.startswith(".")) and not Path(path).exists():
        raise ModelError(f"there is no model at '{path}'", hint="check the path")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path or place, **gguf)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **gguf)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(
            f"cannot load a causal language model from '{path}': {first_line}",
            hint="give a directory with config.json, weights and a tokenizer, a hub id, "
            f"a .gguf file, an adapter directory, or one of: {', '.join(BUNDLED)}",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
    return drop_quantisation_state(model), tokenizer


def drop_quantisation_state(model: PreTrainedModel) -> PreTrainedModel:
    """A dequantised GGUF model is plain weights; what still says otherwise stops it being saved."""
    if getattr(model.config, "quantization_config", None) is None:
        return model
    if str(getattr(model.config.quantization_config, "quant_method", "")).endswith("gguf"):
        delattr(model.config, "quantization_config")
        for name in ("is_quantized", "hf_quantizer", "quantization_method"):
            model.__dict__.pop(name, None)
    return model


def _base_of_adapter(adapter_config: Path) -> str:
    base = json.loads(adapter_config.read_text()).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"'{adapter_config}' does not say which base model the adapter belongs to",
            hint="write its path as base_model_name_or_path",
        )
    return str(BUNDLED.get(base, base))


def _tokenizer_place(adapter: Path) -> str | None:
    return str(adapter) if (adapter / "tokenizer_config.json").is_file() else None

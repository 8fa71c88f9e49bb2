"""Plain weights that are quantised as they are loaded, by transformers' own means."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig
from transformers.quantizers.auto import AutoQuantizationConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from posteriori.data.formats.json_object import read_object
from posteriori.errors import ConfigError, ModelError, did_you_mean
from posteriori.models.weights.base_fingerprint import FILE

Bits = Literal["4bit", "8bit"]

_BITS = ("4bit", "8bit")


def quantisation_config(
    asked: Bits | QuantizationConfigMixin | None, dtype: str
) -> QuantizationConfigMixin | None:
    """What `from_pretrained` takes. "4bit" is NF4 of bitsandbytes (Dettmers et al. 2023), with its
    scales quantised too; "8bit" its LLM.int8, or without it int8 weights of torchao.

    Raises `ConfigError` for another word, and `ModelError` where the package is not installed.
    """
    if asked is None or isinstance(asked, QuantizationConfigMixin):
        return asked
    if asked not in _BITS:
        raise ConfigError(
            f"unknown quantization {asked!r}",
            where="load",
            hint=f"{did_you_mean(str(asked), _BITS)}; or give a config of transformers, such as "
            "BitsAndBytesConfig(...)",
        )
    if _is_there("bitsandbytes"):
        if asked == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_dtype_of(dtype, "bfloat16"),
        )
    if asked == "8bit" and _is_there("torchao"):
        quantization: Any = importlib.import_module("torchao.quantization")
        return TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    instead = "" if asked == "4bit" else " or torchao"
    raise ModelError(
        f'quantization="{asked}" needs bitsandbytes{instead}, which is not installed',
        where="load",
        hint="pip install 'posteriori[quantised]'",
    )


def quantised_dtype(config: QuantizationConfigMixin, dtype: str) -> torch.dtype:
    """In which a quantised model computes unless another is asked for: LLM.int8 in float16, which
    it would round to anyway, and all others in bfloat16.

    Raises `ConfigError` for "mixed", which is about plain weights.
    """
    return _dtype_of(dtype, "float16" if getattr(config, "load_in_8bit", False) else "bfloat16")


def _dtype_of(dtype: str, default: str) -> torch.dtype:
    if dtype == "mixed":
        raise ConfigError(
            'dtype="mixed" says how plain weights are kept, and these are quantised',
            where="load",
            hint='leave dtype out, or write "bfloat16" or "float32"',
        )
    found = getattr(torch, default if dtype == "auto" else dtype)
    assert isinstance(found, torch.dtype)
    return found


def of_adapter(adapter: Path) -> QuantizationConfigMixin | None:
    """How the base was quantised that the adapter in that folder was trained on; None where it was
    not, or its checkpoint says so itself. Raises `ModelError` where that cannot be read."""
    file = adapter / FILE
    if not file.is_file():
        return None
    try:
        told = read_object(file).get("quantization")
        return None if told is None else AutoQuantizationConfig.from_dict(told)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelError(
            f"the fingerprint of the adapter's base is damaged: {error}",
            where=str(file),
            hint="copy the adapter's directory again, whole",
        ) from error


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None

"""`load`: a language model by name, path, hub id, GGUF file or adapter directory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from posteriori.data.formats.json_object import read_object
from posteriori.data.given_arguments import named_arguments
from posteriori.errors import ConfigError, ModelError, did_you_mean
from posteriori.models.cpu.precision import gains_from_bfloat16, mixed_precision, with_output_head
from posteriori.models.passes.memory import check_memory, embedding_weight
from posteriori.models.weights.adapters import MISSED_PATTERN
from posteriori.models.weights.state import quantisation

from .causal import CausalLM
from .device import usable_device
from .hub import check_model_name
from .quantised_loading import Bits, of_adapter, quantisation_config, quantised_dtype
from .transformers_loading import UNREADABLE, first_line, loading, trusting
from .warp import Warp
from .weights import base_fingerprint

BUNDLED = {"tiny": Path(__file__).parent / "tiny"}
"""Models that the package carries, by name."""

DTypeName = Literal["auto", "mixed", "float32", "bfloat16", "float16", "float64"]


@named_arguments
def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: DTypeName = "auto",
    quantization: Bits | QuantizationConfigMixin | None = None,
    device_map: str | dict[str, Any] | None = None,
    merge_adapter: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    memory_gib: float | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> CausalLM:
    """The language model at a path, ready to be a prior, a proposal or a policy.

    "auto" is "mixed" where the device multiplies bfloat16 faster and the model has more than 50
    million parameters, and "float32" otherwise. "mixed" runs the layers' matrix products in
    bfloat16 and all else, the output head above all, in float32; "bfloat16" runs everything in it,
    faster still, at three times the rounding error in log-probs.

    Args:
        path: the name of a bundled model ("tiny"), a directory or hub id of a causal model of
            transformers, a GGUF file, or a directory with a PEFT adapter.
        base: where an adapter's base model is now, if it has been moved.
        device: "cpu", "cuda", ..; default: the fastest there is.
        dtype: "auto", "mixed", "float32", "bfloat16", "float16" or "float64".
        quantization: "4bit" (bitsandbytes' NF4), "8bit" (bitsandbytes, or torchao's int8 without
            it), or a config of transformers: weights are quantised as they are loaded, and stay so
            below a LoRA policy. An adapter knows how its base was.
        device_map: where the parts of a model go, as transformers takes it; "auto": over all GPUs.
        merge_adapter: fold the adapter into the weights.
        temperature: changes the distribution itself, draws and log-probs alike; so do the next
            three.
        top_k: next tokens that may be drawn; 0: all.
        top_p: mass of the next tokens that may be drawn.
        min_new_tokens: tokens before an end of sequence may be drawn.
        memory_gib: memory for logits and keys and values, in GiB, at a time; left out, 1.5 on the
            CPU, and 0.4 of what is free elsewhere.
        trust_remote_code: run Python code that comes with the checkpoint, with your rights. It
            needs `revision`.
        revision: the commit of a hub id; with trust_remote_code the one whose code you have read.

    Returns:
        A `CausalLM`.

    Raises:
        ModelError: where nothing can be loaded from `path`, and why.
        ConfigError: for settings that do not go together.

    Example:
        >>> lm = po.load("tiny", temperature=0.7)
        >>> lm.eos_token_ids, lm.vocab_size
        ((2,), 4096)
    """
    if not isinstance(path, str | Path):
        raise ConfigError(
            f"load reads a model by its name or path, and this is a {type(path).__name__}",
            where="load",
            hint="a transformers model is taken where a model is asked for, or as "
            "posteriori.CausalLM(model, tokenizer)",
        )
    where = BUNDLED.get(str(path), Path(path))
    target = usable_device(device)
    if memory_gib is not None:
        check_memory(memory_gib)
    trust = trusting(trust_remote_code, revision)
    warp = Warp(temperature, top_k, top_p, min_new_tokens)
    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'", hint=did_you_mean(dtype, _DTYPES))
    quantised = quantisation_config(quantization, dtype)
    place = _Place(target, device_map, device is not None)
    adapter_config = where / "adapter_config.json"
    if adapter_config.is_file():
        found = base_of_adapter(where) if base is None else str(BUNDLED.get(str(base), base))
        if is_gone(found):
            raise ModelError(
                f"the base model of the adapter '{where}' is not at '{found}' any more",
                hint="say where it is now: posteriori.load(adapter, base=...)",
            )
        quantised = quantised or of_adapter(where)
        options = place.options(quantised, dtype if quantised else "float32")
        options |= {} if quantised else {"dtype": torch.float32}
        plain, tokenizer = _load_plain(found, _tokenizer_place(where), trust | options)
        base_fingerprint.check(plain, where, found)
        placed, compute = _placed(plain, dtype, place, quantised is not None)
        model: PreTrainedModel | PeftModel = _with_adapter(placed, where)
        if merge_adapter:
            model = model.merge_and_unload()
    elif base is not None:
        raise ConfigError(f"'{path}' is no adapter, and has no base model", hint="leave base out")
    else:
        name = str(where) if where.exists() else str(path)
        options = place.options(quantised, dtype)
        plain, tokenizer = _load_plain(name, None, trust | options)
        model, compute = _placed(plain, dtype, place, quantised is not None)
    model.requires_grad_(False)
    adapter = "default" if isinstance(model, PeftModel) else None
    return CausalLM(
        model,
        tokenizer,
        compute_dtype=compute,
        adapter=adapter,
        warp=warp,
        memory_gib=memory_gib,
    )


class _Place(NamedTuple):
    """Where a model is to be: a device, or a map of transformers."""

    device: torch.device
    device_map: str | dict[str, Any] | None
    is_asked: bool

    def options(
        self, quantised: QuantizationConfigMixin | None, dtype: DTypeName
    ) -> dict[str, Any]:
        """Of `from_pretrained`: weights go straight to their device, in the dtype that they will
        have there. On the CPU, where they are read as float32, nothing is in between."""
        if self.device_map is not None and self.is_asked:
            raise ConfigError(
                "both device and device_map are given", where="load", hint="leave out one of them"
            )
        mapped = self.device_map
        if mapped is None and (quantised is not None or self.device.type != "cpu"):
            mapped = {"": self.device}
        given: dict[str, Any] = {} if mapped is None else {"device_map": mapped}
        if quantised is not None:
            return {
                **given,
                "quantization_config": quantised,
                "dtype": quantised_dtype(quantised, dtype),
            }
        if dtype in ("bfloat16", "float16"):
            return {**given, "dtype": getattr(torch, dtype)}
        # As the checkpoint has them, where they are widened on the device.
        return {**given, "dtype": "auto"} if mapped is not None else given


def _placed(
    model: PreTrainedModel, dtype: DTypeName, place: _Place, is_quantised: bool
) -> tuple[PreTrainedModel, torch.dtype]:
    """The model on its device in the precision asked for, and the dtype that it computes in."""
    device = model.device if place.device_map is not None else place.device
    if is_quantised:
        return model, embedding_weight(model).dtype
    method = quantisation(model)
    if method is not None:
        if dtype != "auto":
            raise ConfigError(
                f"the checkpoint is quantised ({method}), which fixes its precision",
                where=f"dtype={dtype!r}",
                hint='leave dtype at "auto"',
            )
        if model.device != device:
            model.to(device)  # pyright: ignore[reportArgumentType]
        return model, embedding_weight(model).dtype
    if dtype == "auto":
        dtype = "mixed" if gains_from_bfloat16(model.num_parameters(), device) else "float32"
    with_output_head(model)
    if place.device_map is None:
        model.to(device)  # pyright: ignore[reportArgumentType] - transformers decorates `to`
    if dtype == "mixed":
        return mixed_precision(model, torch.bfloat16), torch.bfloat16
    chosen = getattr(torch, dtype)
    model.to(chosen)  # pyright: ignore[reportArgumentType] - transformers decorates `to`
    return model, chosen


_DTYPES: tuple[str, ...] = get_args(DTypeName)

_OF_CODE = ("trust_remote_code", "revision", "code_revision")


def _load_plain(
    path: str, tokenizer_path: str | None, settings: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    place, gguf = path, {}
    if path.endswith(".gguf"):
        place, gguf = str(Path(path).parent), {"gguf_file": Path(path).name}
    if (gguf and not Path(path).exists()) or is_gone(path):
        raise ModelError(f"there is no model at '{path}'", hint="check the path")
    check_model_name(path, BUNDLED, kind="a causal language model")
    _check_generation_config(Path(place) / "generation_config.json")
    try:
        with loading() as options:
            own = {key: given for key, given in settings.items() if key in _OF_CODE}
            tokenizer_options = options | gguf | own
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_path or place, **tokenizer_options)
            options |= gguf | settings
            loaded: Any = class_at(place, tokenizer_options).from_pretrained(
                place, **{"dtype": torch.float32, "output_loading_info": True, **options}
            )
        model, info = loaded
    except UNREADABLE as error:
        raise ModelError(
            f"cannot load a causal language model from '{path}': {first_line(error)}",
            hint="give a directory with config.json, weights and a tokenizer, a hub id, "
            f"a .gguf file, an adapter directory, or one of: {', '.join(BUNDLED)}",
        ) from error
    if info["missing_keys"]:
        raise ModelError(
            f"'{path}' has no weights for {len(info['missing_keys'])} tensors of a causal language "
            f"model, such as '{min(info['missing_keys'])}': they would be random",
            hint="give a model with a language-modelling head",
        )
    return drop_quantisation_state(model), tokenizer


def _check_generation_config(file: Path) -> None:
    """It says which tokens end a completion. transformers passes by one that it cannot read."""
    try:
        if file.is_file():
            read_object(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no generation config can be read: {error}",
            where=str(file),
            hint="copy the model's directory again, whole",
        ) from error


def class_at(place: str, options: dict[str, Any]) -> Any:
    """The class that loads a causal model from `place`: the text half of a model that reads more
    than text has a config of its own, which `AutoModelForCausalLM` may not know; its class stands
    there, too."""
    if "gguf_file" in options:
        return AutoModelForCausalLM
    config = AutoConfig.from_pretrained(place, **options)
    named = (config.architectures or [""])[0]
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and named.endswith("ForCausalLM"):
        return getattr(transformers, named, AutoModelForCausalLM)
    return AutoModelForCausalLM


def drop_quantisation_state(model: PreTrainedModel) -> PreTrainedModel:
    """A dequantised GGUF model is plain weights; what still says otherwise stops it being saved."""
    if getattr(model.config, "quantization_config", None) is None:
        return model
    if getattr(model.config.quantization_config, "quant_method", None) == "gguf":
        delattr(model.config, "quantization_config")
        for name in ("is_quantized", "hf_quantizer", "quantization_method"):
            model.__dict__.pop(name, None)
    return model


def _with_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    try:
        with loading(), warnings.catch_warnings():
            # What is missing is an error below.
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            warnings.filterwarnings("ignore", MISSED_PATTERN, RuntimeWarning)
            # PEFT asks transformers by a name that transformers is about to drop.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = PeftModel.from_pretrained(model, str(directory), adapter_name="default")
            saved = load_peft_weights(str(directory), device="cpu")
    except UNREADABLE as error:
        raise ModelError(
            f"cannot load a PEFT adapter from '{directory}': {first_line(error)}",
            hint="its directory holds adapter_config.json and adapter_model.safetensors, and they "
            "belong to its base model",
        ) from error
    _check_adapter(adapted, saved, directory)
    _take(adapted, saved)
    return adapted


@torch.no_grad()
def _take(model: PeftModel, saved: dict[str, Tensor]) -> None:
    """The tensors of the file, where it names them as the model does. PEFT reads names as those of
    older checkpoints may be read, and some architectures' (shared experts) get lost on the way."""
    own = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    for name, tensor in own.items():
        if tensor.shape == saved[name].shape and not torch.equal(tensor, saved[name].to(tensor)):
            tensor.copy_(saved[name])


def _check_adapter(model: PeftModel, saved: dict[str, Tensor], directory: Path) -> None:
    """Raise `ModelError` where the adapter's file and the model have other tensors, or NaN."""
    own = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    strange = [name for name in saved if name not in own and "lora" in name]
    odd = sorted(own.keys() - saved.keys()) + strange
    if odd:
        raise ModelError(
            f"the adapter in '{directory}' does not fit its base model: '{odd[0]}' is "
            f"{'not in its file' if odd[0] in own else 'not in the model'}",
            hint="is this the base that it was trained on, and the adapter_config.json that it "
            "was saved with?",
        )
    damaged = [name for name, tensor in saved.items() if not bool(tensor.isfinite().all())]
    if damaged:
        raise ModelError(
            f"the adapter in '{directory}' has numbers that are not finite in '{damaged[0]}'",
            hint="take an earlier checkpoint",
        )


def is_gone(path: str) -> bool:
    """Whether this can be a path only, and nothing is there."""
    return (Path(path).is_absolute() or path.startswith(".")) and not Path(path).exists()


def base_of_adapter(directory: Path) -> str:
    """The base model that the adapter in `directory` names. A bundled one is this installation's,
    wherever that of the machine was on which the adapter was trained."""
    adapter_config = directory / "adapter_config.json"
    try:
        base = read_object(adapter_config).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ModelError(f"not JSON: {error}", where=str(adapter_config)) from error
    if not (isinstance(base, str) and base):
        raise ModelError(
            f"'{adapter_config}' does not say which base model the adapter belongs to",
            hint="write its path as base_model_name_or_path",
        )
    name = Path(base).name
    is_bundled = Path(base).parts[-3:] == ("posteriori", "models", name) and is_gone(base)
    return str(BUNDLED.get(name if is_bundled else base, base))


def _tokenizer_place(adapter: Path) -> str | None:
    return str(adapter) if (adapter / "tokenizer_config.json").is_file() else None

"""LoRA adapters: a policy is an adapter on the prior's weights, which are in memory once.

PEFT changes a model's modules in place. So every policy has modules of its own, around the tensors
of its prior (`shared_copy`), and neither the prior nor another policy meets its adapter.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from posteriori.core.seeds import drawing
from posteriori.errors import ModelError

from .shared_copy import shared_copy

if TYPE_CHECKING:
    from posteriori.core.settings.training import LoraSettings

Model = PreTrainedModel | PeftModel

ADAPTER = "policy"
"""What a policy's adapter is called in its model."""

MISSED_PATTERN = r"The following (rank|alpha)_pattern keys did not match|target_parameters=.* were"
"""What PEFT warns of at its own entries in a config."""


def switch_on(model: PeftModel, adapter: str) -> None:
    """Make `model`, whose modules no other model uses, compute with `adapter` alone.

    Raises `ModelError` where it has no such adapter, or cannot change its prompt.
    """
    if adapter not in model.peft_config:
        raise ModelError(
            f"the model has no adapter named '{adapter}'",
            hint=f"it has: {', '.join(model.peft_config)}",
        )
    if model.active_peft_config.is_prompt_learning:
        check_prompt(model, adapter)
        return
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            layer._disable_adapters = False
            layer._active_adapter = [adapter]
    cast(BaseTuner, model.base_model).active_adapter = adapter


@contextlib.contextmanager
def switched(model: Model, adapter: str | None) -> Iterator[None]:
    """As `switch_on` (None: all adapters off), with all of it put back at the end. A model that is
    no PEFT model stays as it is."""
    layers: list[Any] = [
        layer
        for layer in (model.modules() if isinstance(model, PeftModel) else ())
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    before = [(layer, layer._disable_adapters, layer._active_adapter) for layer in layers]
    for layer in layers:
        layer._disable_adapters = adapter is None
        layer._active_adapter = layer._active_adapter if adapter is None else [adapter]
    try:
        yield
    finally:
        for layer, off, active in before:
            layer._disable_adapters, layer._active_adapter = off, active


def check_prompt(model: PeftModel, adapter: str | None) -> None:
    """Raise `ModelError` for a prompt-tuned model that is to run without its prompt."""
    if model.active_peft_config.is_prompt_learning and adapter != model.active_adapter:
        raise ModelError(
            "a prompt-tuned or prefix-tuned model runs with its own prompt alone",
            where=f"adapter {adapter!r}",
            hint=f"write CausalLM(model, tokenizer, adapter={model.active_adapter!r})",
        )


def with_adapter(model: Model, settings: LoraSettings, seed: int) -> PeftModel:
    """A new LoRA adapter (float32, starting as the identity) on `model`'s weights.

    The PEFT model's modules are its own, and the memory of the weights is `model`'s, which stays as
    it is.
    """
    is_adapted = isinstance(model, PeftModel)
    base = model.get_base_model() if is_adapted else model
    own = shared_copy(cast(PreTrainedModel, base), bare=is_adapted, frozen=True)
    # A trainer's wrapper around it would go on calling the original, without the adapter; and what
    # says that there are others is not so any more.
    for name in ("forward", "peft_config"):
        vars(own).pop(name, None)
    config = lora_config(settings, "CAUSAL_LM", own)
    with drawing_adapters(seed):
        adapted = get_peft_model(own, config, adapter_name=ADAPTER)
    assert isinstance(adapted, PeftModel)
    for parameter in adapter_parameters(adapted, ADAPTER).values():
        parameter.data = parameter.data.float()
    return adapted.eval()


def lora_config(settings: LoraSettings, task_type: str, model: torch.nn.Module) -> LoraConfig:
    """The settings as PEFT takes them for `model`."""
    target = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=0.0,
        target_modules=target if isinstance(target, str) else list(target),
        exclude_modules=_no_plain_linears(model) if target == "all-linear" else None,
        task_type=task_type,
    )


_READ_BY_MAMBAS_KERNELS = ("out_proj", "conv1d")
"""Their weights are handed to kernels, which pass an adapter by: PEFT refuses them by name."""


def _no_plain_linears(model: torch.nn.Module) -> list[str] | None:
    """Of "all-linear" the layers that an adapter cannot be put on: those that compute something
    else than x W' + b (routers of experts, products by groups), and what kernels read."""
    found = [
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and type(module).forward is not torch.nn.Linear.forward
        and type(module).__module__.startswith("transformers.models.")
        and not _multiplies(module)
    ]
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind in ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"):
        names = {name.rsplit(".")[-1] for name, _ in model.named_modules()}
        found += [name for name in _READ_BY_MAMBAS_KERNELS if name in names]
    return found or None


@torch.no_grad()
def _multiplies(layer: torch.nn.Linear) -> bool:
    """Whether it is x W' + b, though its class says so in its own words (Falcon's)."""
    x_1I = torch.linspace(-1, 1, layer.in_features).to(layer.weight)[None]
    try:
        out = layer(x_1I)
    except Exception:  # its own code does not take one row of its input
        return False
    want_1O = torch.nn.functional.linear(x_1I, layer.weight, layer.bias)
    return isinstance(out, torch.Tensor) and out.shape == want_1O.shape and out.allclose(want_1O)


@contextlib.contextmanager
def drawing_adapters(seed: int) -> Iterator[None]:
    """Within it PEFT draws an adapter's weights by `seed`. Raises `ModelError` where it cannot."""
    with drawing(seed), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # PEFT corrects itself on GPT-2's transposed layers, and says so.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        # It writes down ranks for fused experts that not every such model has.
        warnings.filterwarnings("ignore", MISSED_PATTERN, RuntimeWarning)
        try:
            yield
        except ValueError as error:
            raise ModelError(
                f"LoRA cannot be added: {error}",
                hint="set lora.target_modules to names of this model's linear layers",
            ) from error


class OwnParameters(torch.nn.Module):
    """The parameters of one adapter alone: what an optimiser may touch."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)


def adapter_parameters(model: PeftModel, adapter: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of one adapter, by names that do not depend on what it is called here."""
    within = f".{adapter}."
    found = {n.replace(within, "."): p for n, p in model.named_parameters() if within in n}
    if not found:
        raise ModelError(f"the model has no adapter named '{adapter}'")
    return found

"""LoRA adapters on a shared model: the prior is the same weights with the adapter off.

PEFT changes a model in place, so after a policy's adapter has been added, the prior's `CausalLM`
and the policy's hold one and the same PEFT model. Each states which adapter it means (the prior:
none), and switches to it before every forward pass.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from typing import cast
from weakref import WeakValueDictionary

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from posteriori.core.seeds import drawing
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ModelError

Model = PreTrainedModel | PeftModel

_ACTIVE = "_posteriori_active_adapter"
_UNSET = "<unset>"

_WRAPPED = "_posteriori_peft_model"
"""Where a model keeps the PEFT model that was made of it: its modules have adapters from then on,
also for those who hold it without."""

MISSED_PATTERN = r"The following (rank|alpha)_pattern keys did not match|target_parameters=.* were"
"""What PEFT warns of at its own entries in a config."""

_HANDLES = "_posteriori_handles"
"""Where a PEFT model keeps the handles of its policies' adapters."""


class AdapterHandle:
    """Held by everyone who uses a policy's adapter; with the last of them the adapter goes."""


class Handles:
    """The handles that somebody holds, by the adapters' names, and names that are free again.

    A copy of the model, in this process or another, has none: its adapters stay.
    """

    def __init__(self) -> None:
        self.held: WeakValueDictionary[str, AdapterHandle] = WeakValueDictionary()
        self.unused: deque[str] = deque()

    def __reduce__(self) -> tuple[type[Handles], tuple[()]]:
        return Handles, ()


def owner(model: Model) -> Model:
    """The PEFT model that `model` is, or that was made of it; else `model` itself."""
    return model if isinstance(model, PeftModel) else vars(model).get(_WRAPPED, model)


def forget_owner(model: torch.nn.Module) -> None:
    """Its modules have no adapters any more."""
    vars(model).pop(_WRAPPED, None)


def activate(model: Model, adapter: str | None) -> None:
    """Make `model` compute with `adapter` (None: the bare weights); free when it already does.

    Which parameters require a gradient stays as it is: another thread may be between its forward
    and its backward pass.
    """
    model = owner(model)
    if not isinstance(model, PeftModel) or getattr(model, _ACTIVE, _UNSET) == adapter:
        return
    if model.active_peft_config.is_prompt_learning:
        _only_with_its_prompt(model, adapter)
        return
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [adapter]
    if adapter is not None:
        cast(BaseTuner, model.base_model).active_adapter = adapter
    setattr(model, _ACTIVE, adapter)


def _only_with_its_prompt(model: PeftModel, adapter: str | None) -> None:
    if adapter != model.active_adapter:
        raise ModelError(
            "a prompt-tuned or prefix-tuned model runs with its own prompt alone",
            where=f"adapter {adapter!r}",
            hint=f"write CausalLM(model, tokenizer, adapter={model.active_adapter!r})",
        )


def forget_active(model: torch.nn.Module) -> None:
    """Somebody else may switch adapters from here on, so the next `activate` is to be made."""
    setattr(model, _ACTIVE, _UNSET)


def handle_of(model: Model, adapter: str | None) -> AdapterHandle | None:
    """To be kept as long as the adapter is used; None for one that is not a policy's."""
    handles = vars(owner(model)).get(_HANDLES)
    return handles.held.get(adapter) if handles else None


def add_adapter(
    model: Model, settings: LoraSettings, seed: int
) -> tuple[PeftModel, str, AdapterHandle]:
    """A new LoRA adapter (float32, starting as the identity) on `model`: the PEFT model, its name,
    and the handle that keeps it there.

    Adapters of policies that are no longer in use are taken away first. To be called while the
    model's lock is held.
    """
    model = owner(model)
    config = lora_config(settings, "CAUSAL_LM", model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with drawing_adapters(seed):
        if isinstance(model, PeftModel):
            _delete_unused(model)
            name = _new_name(model)
            model.add_adapter(name, config)
            peft_model = model
        else:
            name = "policy"
            wrapped = get_peft_model(model, config, adapter_name=name)
            assert isinstance(wrapped, PeftModel)
            peft_model = wrapped
            vars(model)[_WRAPPED] = peft_model
            flags = []
    # PEFT sets these for all adapters, and another policy may be in training.
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    for parameter in adapter_parameters(peft_model, name).values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
    setattr(peft_model, _ACTIVE, _UNSET)
    activate(peft_model, name)
    return peft_model, name, _make_handle(peft_model, name)


def _make_handle(model: PeftModel, name: str) -> AdapterHandle:
    handle = AdapterHandle()
    handles: Handles = vars(model).setdefault(_HANDLES, Handles())
    handles.held[name] = handle
    weakref.finalize(handle, handles.unused.append, name).atexit = False
    return handle


def _delete_unused(model: PeftModel) -> None:
    """Garbage is collected at any moment and in any thread, so the adapters go now."""
    handles: Handles | None = vars(model).get(_HANDLES)
    unused = handles.unused if handles else ()
    while unused:
        name = unused.popleft()
        # The last adapter stays: a PEFT model has to have one.
        others = [other for other in model.peft_config if other != name]
        if others and name in model.peft_config:
            activate(model, others[0])
            model.delete_adapter(name)
    setattr(model, _ACTIVE, _UNSET)


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


def _new_name(model: PeftModel) -> str:
    number = 2
    while f"policy-{number}" in model.peft_config:
        number += 1
    return f"policy-{number}"

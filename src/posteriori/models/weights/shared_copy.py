"""A model's modules once more, around the same tensors.

Such a copy takes no memory to speak of, and its modules may be switched, wrapped and replaced while
the user's object stays as it is, its mode included. What the user does to the tensors is seen in
both.
"""

from __future__ import annotations

import operator
from functools import partial
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from posteriori.errors import ModelError

M = TypeVar("M", bound=nn.Module)

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks"),
)
_OF_THE_MODULE = {"_parameters", "_buffers", "_modules", *_HOOKS}


def shared_copy(model: M, *, bare: bool = False, frozen: bool = False) -> M:
    """`model` in eval mode, of modules of its own with the same parameters, buffers and hooks.

    `bare` leaves PEFT's layers out: what they wrap stands in their places. `frozen` makes it of
    parameters of its own that share the memory of the model's and need no gradient: so PEFT may put
    an adapter on it. Raises `ModelError` where an adapter that is to be left out is merged into the
    weights.
    """
    return _Copying(bare, frozen).all_of(model)


class _Copying:
    def __init__(self, bare: bool, frozen: bool) -> None:
        self.bare, self.frozen = bare, frozen
        self.copies: dict[nn.Module, Any] = {}
        self.parameters: dict[nn.Parameter, nn.Parameter] = {}

    def all_of(self, model: Any) -> Any:
        copied = self.module(model)
        # References past the tree of modules: lists of layers, bound methods.
        for each in self.copies.values():
            own = vars(each)
            for name in own.keys() - _OF_THE_MODULE:
                own[name] = self.moved(own[name])
        return copied

    def module(self, module: nn.Module) -> nn.Module:
        if self.bare:
            module = _under_adapters(module)
        if module in self.copies:
            return self.copies[module]
        if isinstance(module, torch.jit.ScriptModule):
            return self.copies.setdefault(module, module)
        copied = self.copies[module] = object.__new__(type(module))
        own = vars(copied)
        own.update(vars(module))
        own["training"] = False
        own["_buffers"] = dict(module._buffers)
        own.update({name: own[name].copy() for name in _HOOKS if name in own})
        own["_modules"] = {
            name: None if child is None else self.module(child)
            for name, child in module._modules.items()
        }
        if "_compiled_call_impl" in own:
            # It would go on calling what was compiled.
            own["_compiled_call_impl"] = None
        if self.frozen:
            own["_parameters"] = {
                name: None if each is None else self.parameter(each)
                for name, each in module._parameters.items()
            }
        return copied

    def parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        if type(parameter) is not nn.Parameter or not parameter.is_floating_point():
            # Quantised: what says how is part of it, and it needs no gradient.
            return parameter
        if parameter not in self.parameters:
            alias = nn.Parameter(parameter.detach(), requires_grad=False)
            self.parameters[parameter] = alias
        return self.parameters[parameter]

    def moved(self, value: Any) -> Any:
        """With the copies in the places of the modules that they are of."""
        kind = type(value)
        if isinstance(value, nn.Module):
            return self.copies.get(value, value)
        if kind is MethodType and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.moved(value.__self__))
        if kind is partial:
            args = tuple(self.moved(each) for each in value.args)
            return partial(self.moved(value.func), *args, **self.moved(value.keywords))
        if kind is list or kind is tuple:
            moved = [self.moved(each) for each in value]
            same = all(map(operator.is_, moved, value))
            return value if same else kind(moved)
        if kind is dict:
            moved = {key: self.moved(each) for key, each in value.items()}
            same = all(map(operator.is_, moved.values(), value.values()))
            return value if same else moved
        return value


def _under_adapters(module: nn.Module) -> nn.Module:
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        if isinstance(module, BaseTunerLayer):
            if module.merged:
                raise ModelError(
                    "an adapter is merged into the model's weights, so the bare weights are not "
                    "there",
                    hint="call model.unmerge_adapter(), or name the adapter: "
                    "CausalLM(model, tokenizer, adapter=...)",
                )
            module = cast(nn.Module, module.get_base_layer())
        else:
            module = module.original_module
    return module


class Snapshot:
    """What a model's modules are made of, to find out whether that has changed: all attributes and
    hooks of all modules, and which adapters are merged, but not their mode. (The numbers in their
    tensors may change.)"""

    def __init__(self, model: nn.Module) -> None:
        self._seen = [(module, _made_of(module)) for module in model.modules()]
        layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._merged = [(layer, layer.merged) for layer in layers]

    def is_current(self) -> bool:
        if any(layer.merged != before for layer, before in self._merged):
            return False
        return all(_is_same(module, before) for module, before in self._seen)


def _made_of(module: nn.Module) -> list[Any]:
    inside = (module._modules, module._buffers, module._forward_hooks, module._forward_pre_hooks)
    return [*vars(module).values(), *(each for one in inside for each in one.values())]


def _is_same(module: nn.Module, before: list[Any]) -> bool:
    now = _made_of(module)
    if len(now) != len(before):
        return False
    if all(map(operator.is_, now, before)):
        return True
    at = list(vars(module)).index("training")
    return all(map(operator.is_, now[:at] + now[at + 1 :], before[:at] + before[at + 1 :]))

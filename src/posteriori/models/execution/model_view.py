"""The modules of a model as one pass runs them, which no other pass uses meanwhile.

A pass switches adapters, leaves the head out and multiplies by packed layers. It does so on modules
of its own around the model's tensors, so passes of several threads run side by side, and the
model that the user holds is only read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from posteriori.models.cpu.activations import fused_activations
from posteriori.models.weights import adapters, state
from posteriori.models.weights.facts import facts_of
from posteriori.models.weights.shared_copy import Snapshot, shared_copy


class ModelView:
    """`model` is called, with the adapter that is meant and without dropout; `base` is what is
    under the adapters; `facts` are about the architecture. Where `is_own` is false, no module of it
    is to be changed."""

    def __init__(self, model: state.Model, facts: dict[Any, Any], *, is_own: bool) -> None:
        self.model, self.facts, self.is_own = model, facts, is_own

    @property
    def base(self) -> PreTrainedModel:
        return state.base_model(self.model)


class Views:
    """The views of one model: made when a pass needs one more than there are, and used again.

    What the user changes about the model's modules is seen by the next pass.
    """

    def __init__(self, given: state.Model, adapter: str | None) -> None:
        self.given, self.adapter = given, adapter
        if isinstance(given, PeftModel):
            adapters.check_prompt(given, adapter)
        self._free: list[tuple[ModelView, Snapshot]] = []
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"given": self.given, "adapter": self.adapter}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(**saved)

    @contextlib.contextmanager
    def one(self) -> Iterator[ModelView]:
        """A view for one pass."""
        facts = facts_of(state.base_model(self.given))
        view, snapshot = self._taken(facts)
        try:
            yield view
        finally:
            self._free.append((view, snapshot))

    @contextlib.contextmanager
    def running(self, view: ModelView) -> Iterator[None]:
        """To be entered around whatever runs `view`: one that is not the pass's own is run by one
        thread at a time, and has its mode back afterwards."""
        if view.is_own:
            yield
            return
        with self._lock:
            modes = [module for module in self.given.modules() if module.training]
            for module in modes:
                module.training = False
            try:
                with adapters.switched(self.given, self.adapter):
                    yield
            finally:
                for module in modes:
                    module.training = True

    def _taken(self, facts: dict[Any, Any]) -> tuple[ModelView, Snapshot]:
        with contextlib.suppress(IndexError):
            view, snapshot = self._free.pop()
            if snapshot.is_current():
                return view, snapshot
            # Those of the others that are as old are found out when their turn comes.
            facts.clear()
        snapshot = Snapshot(self.given)
        return self._new(facts), snapshot

    def _new(self, facts: dict[Any, Any]) -> ModelView:
        given: Any = self.given
        if _runs_as_it_is_alone(given):
            return ModelView(given, facts, is_own=False)
        is_bare = self.adapter is None and isinstance(given, PeftModel)
        model: Any = shared_copy(given.get_base_model() if is_bare else given, bare=is_bare)
        if self.adapter is not None:
            adapters.switch_on(model, self.adapter)
        for module, forward in fused_activations(model).items():
            vars(module)["forward"] = forward
        return ModelView(model, facts, is_own=True)


def _runs_as_it_is_alone(model: state.Model) -> bool:
    """Whether other code holds on to these very modules: a `forward` that was put on one with
    modules in it (a trainer's wrapper), sharded weights; or a quantised layer's state, which its
    first pass makes."""
    return (
        any("forward" in vars(module) and module._modules for module in model.modules())
        or any(_is_sharded(module) for module in model.modules())
        or state.quantisation(model) is not None
    )


def _is_sharded(module: nn.Module) -> bool:
    return any(each.__module__.startswith("torch.distributed.") for each in type(module).__mro__)


def unwrapped(model: nn.Module) -> Any:
    """The model that `torch.compile` was given: compiled, it would be compiled again for every
    number of rows and tokens."""
    return getattr(model, "_orig_mod", model)

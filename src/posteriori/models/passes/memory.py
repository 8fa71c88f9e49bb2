"""How many rows fit at once. On the CPU the answer depends on the model alone, never on the
machine's free memory, so that a run is split the same way every time."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from posteriori.core.settings.training import MOST_GIB
from posteriori.errors import ConfigError

_GIB = 2**30

ON_CPU_GIB = 1.5
_SHARE = 0.4
_LEAST_GIB = 0.25
_LOGIT_BYTES = 4

_STATM = Path("/proc/self/statm")
"""Where Linux says how much memory the process holds, in pages: in all, and resident."""


class Footprint:
    """What the process has grown by, which `memory_gib` bounds on the CPU.

    Groups of completions differ in size, and what one group has freed seldom fits the next one: the
    C allocator (glibc's) keeps it and asks for more, so that the process grows from step to step
    though the tensors do not. So it is made to give back what is free once the process has grown by
    more than the bound. Before that nothing is done: memory that is used again is faster than
    memory that is new to the process. On other systems than Linux with glibc nothing is done.
    """

    def __init__(self) -> None:
        self.start = resident_bytes()

    def keep_within(self, memory_gib: float) -> None:
        """To be called when the tensors of the last group are freed, before the next one's."""
        if resident_bytes() - self.start > max(memory_gib * _GIB, _WORTH_GIVING_BACK):
            _give_back_free_memory()


_WORTH_GIVING_BACK = 2**26
"""Bytes of growth below which the process is left alone, however small `memory_gib` is."""


def resident_bytes() -> int:
    """The memory of this process that is in RAM; 0 where the system does not report it."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def embedding_weight(model: PreTrainedModel) -> Tensor:
    """The input embeddings [V, D]: their size and dtype stand for the model's."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def num_tokens(model: PreTrainedModel) -> int:
    """How many tokens the model has logits for, V. Some have more embeddings, for what is never
    said: places of images, or padding."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    outputs = getattr(head, "out_features", None)
    return outputs if isinstance(outputs, int) else embedding_weight(model).shape[0]


def check_memory(memory_gib: float) -> None:
    """Raises `ConfigError` for what is no amount of memory."""
    if not 0 < memory_gib <= MOST_GIB:
        raise ConfigError(
            f"memory_gib={memory_gib} is no amount of memory",
            hint=f"give a number of GiB above 0, up to {MOST_GIB:,}",
        )


def memory_for(device: torch.device) -> float:
    """`memory_gib` where it is not set: a share of what the device has free now, once the model
    is on it. The rest is for a policy's weights, gradients and optimiser. The CPU's memory is that
    of other programs as well, and a fixed amount of it is taken."""
    if device.type == "cpu":
        return ON_CPU_GIB
    ask = getattr(torch.get_device_module(device), "mem_get_info", None)
    if ask is None:
        return ON_CPU_GIB
    free, _ = ask(device)
    return max(_LEAST_GIB, _SHARE * free / _GIB)


def rows_for_sampling(model: PreTrainedModel, length: int, memory_gib: float) -> int:
    """Rows whose key-value cache of `length` tokens and next-token logits fit in `memory_gib`."""
    # Logits, log-probs, probabilities and their padded copy.
    logits = 4 * embedding_weight(model).shape[0] * _LOGIT_BYTES
    return max(1, int(memory_gib * _GIB / (length * _cache_bytes(model) + logits)))


def cells_for_scoring(
    model: PreTrainedModel,
    memory_gib: float,
    with_gradient: bool,
    keeps_logits: bool,
    compute_bytes: int,
    recomputes: bool = False,
) -> int:
    """Tokens that are run at once: their logits (if kept) and activations fit in `memory_gib`.

    `compute_bytes` is the size of a number in the dtype of the matrix products. With `recomputes`
    one layer's activations are kept at a time, and every layer's input.
    """
    weight = embedding_weight(model)
    logits = 3 * weight.shape[0] * _LOGIT_BYTES if keeps_logits else 0
    # A layer keeps about 18 tensors of hidden size for the backward pass, half of them in the dtype
    # of the products; a third more for what the backward pass needs and the allocator cannot give
    # back. Without gradient there is one layer's at a time, and the cache.
    layers = _num_layers(model) if with_gradient and not recomputes else 1
    activations = layers * weight.shape[1] * 12 * (weight.element_size() + compute_bytes)
    if with_gradient and recomputes:
        activations += _num_layers(model) * weight.shape[1] * weight.element_size()
    return max(1, int(memory_gib * _GIB / (logits + activations + _cache_bytes(model))))


def _cache_bytes(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers; of a model without attention about as much."""
    config = model.config.get_text_config()
    weight = embedding_weight(model)
    heads = _largest(config, "num_attention_heads")
    fewer = _largest(config, "num_key_value_heads") or heads
    head_dim = _largest(config, "head_dim")
    width = fewer * (head_dim or weight.shape[1] // heads) if heads else weight.shape[1]
    return 2 * _num_layers(model) * width * weight.element_size()


def _num_layers(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return _largest(config, "num_hidden_layers") or 1


def _largest(config: PreTrainedConfig, name: str) -> int:
    """A config's number, the largest where it has one per layer, 0 where it has none."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        # Layers of several kinds: the config itself refuses to speak for all of them.
        value = [getattr(layer, name, None) or 0 for layer in config.per_layer_config]
    return max(value, default=0) if isinstance(value, list | tuple) else int(value or 0)

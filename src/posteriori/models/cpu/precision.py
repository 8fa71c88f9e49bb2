"""Reduced precision that keeps log-probs honest.

On the hardware that has it, bfloat16 multiplies several times faster than float32, and three
quarters of what it costs in accuracy can be had back for almost nothing: only the matrix products
of the layers run in it, while embeddings, norms, the residual stream and above all the output head
stay in float32. (Logits of size 20 rounded to bfloat16 are off by up to 0.06 each, and a
completion's log-prob adds up one such error a token.)
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .capabilities import has_amds_avx512
from .matmul import linear

LARGE = 50_000_000
"""Parameters below which a step is overhead more than arithmetic, however that is done."""


class OutputHead(nn.Linear):
    """An output layer that leaves autocast: its product is in its own weights' precision."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is nn.Linear's
        with torch.autocast(input.device.type, enabled=False):
            # A slice of the hidden states would be multiplied row by row, several times slower.
            return linear(input.to(self.weight.dtype).contiguous(), self.weight, self.bias)


def with_output_head(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its linear head made an `OutputHead`.

    The class is changed in place, so names, tied weights and copies of the model stay as they are.
    """
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        head.__class__ = OutputHead
    return model


def mixed_precision(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Store the layers' matrices of a model in `dtype`, and all else in float32.

    The model then has to run under autocast to `dtype`, as `CausalLM(compute_dtype=...)` does it.
    """
    head = model.get_output_embeddings()
    inside: set[int] = set()
    for module in model.modules():
        if module is not head and isinstance(module, nn.Linear | Conv1D):
            for each in (module.weight, module.bias):
                if each is not None:
                    each.data = each.data.to(dtype)
                    inside.add(id(each))
    # A checkpoint may have been read in less.
    for each in (*model.parameters(), *model.buffers()):
        if id(each) not in inside and each.dtype in (torch.bfloat16, torch.float16):
            each.data = each.data.float()
    return model


def gains_from_bfloat16(num_parameters: int, device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, by what it is and not by a
    measurement that could come out otherwise the next time; and the model is large enough to gain.
    """
    if num_parameters < LARGE:
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_gains_from_bfloat16()


def _cpu_gains_from_bfloat16() -> bool:
    """On x86 it takes the tiles of AMX, or AMD's AVX-512: Intel's instructions for bfloat16 without
    tiles multiply about half as fast as float32, AMD's twice as fast."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_amx_tile_supported() or (
            has_amds_avx512() and torch.cpu._is_avx512_bf16_supported()
        )
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@torch.no_grad()
def lost_in_padding(model: nn.Module, device: torch.device) -> bool:
    """Whether a prompt's logits become NaN where padding stands before it.

    So it is in float64 with attention whose softmax is float32 whatever comes in (Bloom's): the
    smallest float64, which masks padding, is -inf there, and padding attends to nothing else.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    padding = torch.tensor([[0, 1]], device=device)
    padded = model(input_ids=ids, attention_mask=padding, use_cache=False).logits[:, -1]
    bare = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return bool(padded.isnan().any()) and not bool(bare.isnan().any())


def runs(model: nn.Module, device: torch.device) -> bool:
    """Whether the model has code for the dtype of its weights: some kernels (products of many
    experts at once) have none for float64."""
    try:
        lost_in_padding(model, device)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False
    return True

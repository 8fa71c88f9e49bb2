"""Llama (Touvron et al. 2023) and its likes: RMS norms, rotary positions, gated MLPs.

Mistral and Qwen2 are the same arithmetic, as long as no layer attends to a window only; SmolLM2 is
a Llama.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from posteriori.models.cpu.linear_groups import MakeProducts
from posteriori.models.cpu.patched import is_patched
from posteriori.models.passes.memory import embedding_weight

from .decoder import Decoder

_MODELS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)
_RMS_NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)


_LENGTH_MATTERS = ("dynamic", "longrope")
"""Kinds of rotary positions whose angles depend on how long the longest row is."""

Turn = tuple[Tensor, Tensor]
"""cos and signed sin of the rotary angles, [M, 1, E] each."""


def llama(model: PreTrainedModel, products_of: MakeProducts) -> Decoder | None:
    """Llama, Mistral or Qwen2 where every layer attends to all that comes before, and a token's
    angles depend on its position alone."""
    if type(model) not in _MODELS:
        return None
    body, config = model.model, model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return None
    if body.rotary_emb.rope_type in _LENGTH_MATTERS:
        return None

    def embed(ids_M: Tensor, position_M: Tensor) -> tuple[Tensor, Turn]:
        x_MD = body.embed_tokens(ids_M)
        cos_ME, sin_ME = (each[0] for each in body.rotary_emb(x_MD, position_M[None]))
        low_ME, high_ME = sin_ME.chunk(2, dim=-1)
        return x_MD, (cos_ME[:, None], torch.cat([-low_ME, high_ME], dim=-1)[:, None])

    layers = [LlamaLayer(layer, products_of) for layer in body.layers]
    return Decoder(
        embed, layers, _rms_norm(body.norm), model.lm_head, embedding_weight(model).dtype
    )


class LlamaLayer:
    """A layer of Llama; see `decoder.Layer`."""

    def __init__(self, layer: LlamaDecoderLayer, products_of: MakeProducts) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.width = attention.head_dim
        self.norm_1 = _rms_norm(layer.input_layernorm)
        self.norm_2 = _rms_norm(layer.post_attention_layernorm)
        self.qkv = products_of(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = products_of(attention.o_proj)
        self.gate_up = products_of(mlp.gate_proj, mlp.up_proj)
        self.down = products_of(mlp.down_proj)
        self.activation = mlp.act_fn

    def before(self, x_MD: Tensor, place: Turn) -> tuple[Tensor, Tensor, Tensor]:
        q_MHE, k_MGE, v_MGE = (
            each.view(len(x_MD), -1, self.width) for each in self.qkv(self.norm_1(x_MD))
        )
        return _turned(q_MHE, place), _turned(k_MGE, place), v_MGE

    def after(self, x_MD: Tensor, attended_MA: Tensor) -> Tensor:
        (out_MD,) = self.out(attended_MA)
        x_MD = x_MD + out_MD
        gate_MF, up_MF = self.gate_up(self.norm_2(x_MD))
        (down_MD,) = self.down(self.activation(gate_MF) * up_MF)
        return x_MD + down_MD


def _turned(x_MHE: Tensor, turn: Turn) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) of each pair, whose halves lie E/2 apart."""
    cos_M1E, sin_M1E = turn
    return (x_MHE * cos_M1E).addcmul_(x_MHE.roll(x_MHE.shape[-1] // 2, dims=-1), sin_M1E)


def _rms_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """w x / sqrt(mean x^2 + eps) of float32; of float64 transformers' own, which rounds it."""
    if type(norm) not in _RMS_NORMS or is_patched(norm) or norm.weight.dtype != torch.float32:
        return norm
    assert isinstance(norm, _RMS_NORMS)
    weight, eps = norm.weight, norm.variance_epsilon
    return lambda x: nn.functional.rms_norm(x, weight.shape, weight, eps)

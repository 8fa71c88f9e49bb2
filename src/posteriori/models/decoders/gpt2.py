"""GPT-2 (Radford et al. 2019): x + attention(norm(x)), then x + MLP(norm(x))."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from posteriori.models.cpu.linear_groups import MakeProducts
from posteriori.models.passes.memory import embedding_weight

from .decoder import Decoder


def gpt2(model: PreTrainedModel, products_of: MakeProducts) -> Decoder | None:
    """GPT-2 in its usual form: no cross-attention, and scores divided by sqrt(E) alone."""
    config = model.config
    if type(model) is not GPT2LMHeadModel or config.add_cross_attention:
        return None
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        return None
    body = model.transformer

    def embed(ids_M: Tensor, position_M: Tensor) -> tuple[Tensor, None]:
        return body.wte(ids_M) + body.wpe(position_M), None

    layers = [Gpt2Layer(cast(GPT2Block, block), products_of) for block in body.h]
    return Decoder(embed, layers, body.ln_f, model.lm_head, embedding_weight(model).dtype)


class Gpt2Layer:
    """A block of GPT-2; see `decoder.Layer`."""

    def __init__(self, block: GPT2Block, products_of: MakeProducts) -> None:
        self.norm_1, self.norm_2 = block.ln_1, block.ln_2
        self.heads = block.attn.num_heads
        self.qkv, self.out = products_of(block.attn.c_attn), products_of(block.attn.c_proj)
        self.up, self.down = products_of(block.mlp.c_fc), products_of(block.mlp.c_proj)
        self.activation = block.mlp.act

    def before(self, x_MD: Tensor, place: None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002 - positions went into the embedding
        (qkv_M3D,) = self.qkv(self.norm_1(x_MD))
        # Autocast rounds the products, and attention is in the precision of the residual stream.
        qkv_M3D = qkv_M3D.to(x_MD.dtype)
        q_MHE, k_MHE, v_MHE = qkv_M3D.view(len(x_MD), 3, self.heads, -1).unbind(1)
        return q_MHE, k_MHE, v_MHE

    def after(self, x_MD: Tensor, attended_MA: Tensor) -> Tensor:
        (out_MD,) = self.out(attended_MA)
        x_MD = x_MD + out_MD
        (up_MF,) = self.up(self.norm_2(x_MD))
        (down_MD,) = self.down(self.activation(up_MF))
        return x_MD + down_MD

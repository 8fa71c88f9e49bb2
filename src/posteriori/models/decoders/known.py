"""Which models are known decoders: by their class, and by what they compute."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, LoraModel, PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from posteriori.models.cpu.linear_groups import MakeProducts, each_alone
from posteriori.models.cpu.patched import is_patched
from posteriori.models.passes.memory import embedding_weight
from posteriori.models.weights.state import Model, base_model

from .decoder import Decoder
from .decoder_forward import DecoderForward
from .gpt2 import gpt2
from .llama import llama

_KNOWN = (llama, gpt2)

_FAR, _FAR_IF_ROUNDED = 1e-3, 0.2
"""Shares of the largest logit by which two ways through one model never differ, in float32 and
where autocast rounds their products; two architectures differ by all of it."""

_TRIED = ((1, 2, 0), (2, 1))
"""Prompts with one more token each."""


def known_decoder(
    model: Model, facts: dict[Any, Any], products_of: MakeProducts = each_alone
) -> Decoder | None:
    """The arithmetic of `model` by its own layers, if it is a decoder that is known.

    None too where modules that would be bypassed are patched, where adapters do
    more than LoRA, off the CPU, and for weights that are all in reduced precision. The first time,
    decoder and model are both run on two small prompts and have to agree, because a release of
    transformers may change what a class computes; the answer is kept among the `facts` about it.
    """
    base = base_model(model)
    if is_patched(model) or not _is_plain(model, base):
        return None
    agrees = facts.get("known decoder")
    if agrees is None:
        plain = _written_out(base, each_alone)
        agrees = facts["known decoder"] = plain is not None and _agree(plain, model)
    return _written_out(base, products_of) if agrees else None


def _written_out(base: PreTrainedModel, products_of: MakeProducts) -> Decoder | None:
    decoders = (known(base, products_of) for known in _KNOWN)
    return next((decoder for decoder in decoders if decoder is not None), None)


def _is_plain(model: Model, base: PreTrainedModel) -> bool:
    if not _attends_by_itself(base):
        return False
    embeddings = embedding_weight(base)
    if embeddings.device.type != "cpu" or embeddings.dtype not in (torch.float32, torch.float64):
        return False
    if isinstance(model, PeftModel) and not _only_lora(model):
        return False
    return not any(is_patched(module) for module in base.modules() if _is_passed_by(module))


def _attends_by_itself(base: PreTrainedModel) -> bool:
    """Whether its attention is transformers' own. A registered one may be anything, and
    the decoders' attention would bypass it."""
    name = base.config._attn_implementation
    own = name == "eager" or ALL_ATTENTION_FUNCTIONS.get(name) is sdpa_attention_forward
    return own and ALL_MASK_ATTENTION_FUNCTIONS.get(name) in (eager_mask, sdpa_mask)


def _only_lora(model: PeftModel) -> bool:
    return type(model.base_model) is LoraModel and all(
        isinstance(config, LoraConfig) and config.alora_invocation_tokens is None
        for config in model.peft_config.values()
    )


def _is_passed_by(module: nn.Module) -> bool:
    """A module that holds others: those at the end of the tree are called, with their hooks."""
    return any(True for _ in module.children()) and not hasattr(module, "base_layer")


@torch.no_grad()
def _agree(decoder: Decoder, model: Model) -> bool:
    """Whether logits are the same after two prompts of different lengths and one more token."""
    base = base_model(model)
    rows = [[token % embedding_weight(base).shape[0] for token in row] for row in _TRIED]
    forward = DecoderForward(decoder, base.config, torch.device("cpu"))
    far = _FAR_IF_ROUNDED if torch.is_autocast_enabled("cpu") else _FAR
    last_N1 = torch.tensor([row[-1:] for row in rows])
    (ours_N2V,) = forward.continued([row[:-1] for row in rows], torch.arange(len(rows)), last_N1)
    for ours_2V, row in zip(ours_N2V, rows, strict=True):
        ids = torch.tensor([row])
        # Without a mask transformers warns of ids that could be padding.
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        theirs_2V = out.logits[0, -2:]
        if not bool((ours_2V - theirs_2V).abs().max() <= far * theirs_2V.abs().max()):
            return False
    return True

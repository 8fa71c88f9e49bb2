"""How many rows fit at once. The answer depends on the model alone, never on the machine's free
memory, so that a run is split the same way every time."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

_GIB = 2**30
_LOGIT_BYTES = 4


def embedding_weight(model: PreTrainedModel) -> Tensor:
    """The input embeddings [V, D]: their size and dtype stand for the model's."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def rows_for_sampling(model: PreTrainedModel, length: int, memory_gib: float) -> int:
    """Rows whose key-value cache of `length` tokens and next-token logits fit in `memory_gib`."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    weight = embedding_weight(model)
    cache = 2 * config.num_hidden_layers * heads * head_dim * length * weight.element_size()
    # Logits, log-probs, probabilities and their padded copy.
    logits = 4 * weight.shape[0] * _LOGIT_BYTES
    return max(1, int(memory_gib * _GIB / (cache + logits)))


def cells_for_scoring(model: PreTrainedModel, memory_gib: float, with_gradient: bool) -> int:
    """Tokens (rows times their padded length) whose logits and activations fit in `memory_gib`."""
    config = model.config.get_text_config()
    weight = embedding_weight(model)
    logits = 3 * weight.shape[0] * _LOGIT_BYTES
    # About 16 hidden-size tensors a layer are kept for the backward pass, and one layer's without.
    layers = config.num_hidden_layers if with_gradient else 1
    activations = 16 * layers * config.hidden_size * weight.element_size()
    return max(1, int(memory_gib * _GIB / (logits + activations)))

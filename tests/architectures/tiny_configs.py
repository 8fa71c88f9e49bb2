"""Tiny configs of transformers' architectures, made from each config class's own fields.

A field that a class has gets a small value by its name; what only one architecture needs stands in
`OWN`. Parts of a model that reads more than text (its towers) are made small in the same way.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

WIDTH, HEAD = 16, 8

_VALUES: dict[Any, str] = {
    0: "eos_token_id bos_token_id decoder_start_token_id",
    6: "vocab_size vocab_size_per_layer_input",
    WIDTH: "hidden_size d_model n_embd word_embed_proj_dim embedding_size emb_dim embed_dim "
    "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size "
    "shared_intermediate_size attention_hidden_size expert_ffn_hidden_size ffn_hidden_size "
    "moe_shared_expert_intermediate_size kv_channels mamba_intermediate router_hidden_size "
    "embedding_dim backbone_hidden_size lru_width output_embedding_size "
    "pronunciation_embed_dim shape_embed_dim hc_lowrank",
    24: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_inner dff dim_ff "
    "feed_forward_size ff_intermediate_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers "
    "num_attention_heads n_head n_heads decoder_attention_heads num_decoder_attention_heads "
    "encoder_attention_heads num_encoder_attention_heads num_heads encoder_layers "
    "num_encoder_layers num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k "
    "top_k_experts linear_num_value_heads linear_num_heads index_n_heads hc_count",
    1: "num_key_value_heads linear_num_key_heads n_group topk_group num_expert_group "
    "n_shared_experts num_shared_experts mamba_n_groups n_groups first_k_dense_replace",
    4: "num_experts num_local_experts n_routed_experts moe_num_experts mamba_d_state state_size "
    "ssm_state_size mamba_dt_rank time_step_rank mamba_n_heads mamba_num_heads rotary_dim",
    HEAD: "head_dim q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim "
    "attention_head_dim attention_head_size dim_head linear_key_head_dim linear_value_head_dim "
    "linear_head_dim mamba_d_head mamba_head_dim index_head_dim o_lora_rank "
    "hidden_size_per_layer_input laurel_rank chunk_size mamba_chunk_size adapter_rank",
    3: "index_topk",
    64: "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions "
    "max_source_positions model_max_length position_bias_max_distance",
}
SMALL = {name: value for value, names in _VALUES.items() for name in names.split()}
SMALL |= {"use_mamba_kernels": False, "use_associative_scan": False}

_LATENT = {"num_key_value_heads": 2, "n_group": 1}
"""Attention through a latent has as many heads of keys as of queries."""

_FULL_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_WIDE_HEADS = {**_TWO_KINDS, "per_layer_config": {1: {"head_dim": 16}}}
_FEW_TOKENS = {"index_n_heads": 16}
"""Heads that choose tokens: where all give zero, the choice depends on the text's length."""
_RELATIVE = {
    "local_layer_ids": [0],
    "sliding_window_size": 3,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": HEAD,
    "d_rel": 4,
    "rel_extent": 32,
}
_IMAGES = {"image_size": 8, "patch_size": 4, "num_attention_heads": 2}
OWN: dict[str, dict[str, Any]] = {
    "axk2": _FEW_TOKENS,
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_head": 4},
    "cohere_compass_text": {
        "rope_parameters": {"sliding_attention": _FULL_ROPE, "full_attention": _FULL_ROPE}
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": WIDTH, "hidden_size": WIDTH, "moe_top_k": 2},
    },
    "deepseek_v32": _FEW_TOKENS,
    "diffllama": {"num_key_value_heads": 2},
    "dots3_note_text": _FEW_TOKENS,
    "falcon_h1": {"mamba_d_ssm": 32},
    "gemma3": {"vision_config": _IMAGES, "mm_tokens_per_image": 4},
    "gemma3n_text": {
        **_TWO_KINDS,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4": {"text_config": _WIDE_HEADS},
    "gemma4_text": _WIDE_HEADS,
    "gemma4_unified_text": _WIDE_HEADS,
    "glm_moe_dsa": _FEW_TOKENS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 3},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hy_v4": _FEW_TOKENS,
    "inkling_text": _RELATIVE,
    "inkling2_text": _RELATIVE,
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 4, "head_dim": HEAD},
    "minicpm3": {"dim_model_base": WIDTH},
    "olmo_hybrid": _LINEAR,
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
    },
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 2 * HEAD,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "mamba_headdim": HEAD,
        "n_mamba_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(kind: str, **settings: Any) -> PreTrainedConfig:
    """The config of architecture `kind`, over six tokens of which the first one ends a text."""
    return _tiny(CONFIG_MAPPING[kind], {**OWN.get(kind, {}), **settings})


def _tiny(cls: type[PreTrainedConfig], own: dict[str, Any]) -> PreTrainedConfig:
    names = set(inspect.signature(cls.__init__).parameters)
    small = {name: value for name, value in SMALL.items() if name in names}
    if "kv_lora_rank" in names:
        small |= {name: value for name, value in _LATENT.items() if name in names}
    if isinstance(getattr(cls, "pad_token_id", None), int):
        small["pad_token_id"] = 0
    if isinstance(getattr(cls, "sliding_window", None), int):
        small["sliding_window"] = 3
    for name, part in cls.sub_configs.items():
        if not hasattr(part, "model_type"):
            part = type(getattr(cls(), name))
        if issubclass(part, PreTrainedConfig):
            small[name] = _tiny(part, dict(own.get(name, {})))
    own = {name: value for name, value in own.items() if name not in cls.sub_configs}
    return cls(**{**small, **own})

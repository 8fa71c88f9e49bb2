"""Every causal architecture of the installed transformers: right to 1e-4, or refused by name.

`make test-models` runs them all and prints a line for each; a few of the most different ones run
with the other tests.
"""

from __future__ import annotations

import pytest
from agreement import figures, tiny_model
from helpers import generator, word_tokenizer
from tiny_configs import OWN
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import posteriori as po
from posteriori.errors import ModelError

AGREE = 1e-4

NOT_BUILT = {
    "blt": "its patches take a table of 48 million parameters, whatever its config",
    "dots3_note": "the config of its text half is that of 46 layers (dots3_note_text is tested)",
    "gemma3n": "its tower needs the package timm (gemma3n_text is tested)",
    "gemma4_assistant": "no model of its own: it reads another model's cache",
    "gemma4_unified": "its tower has 35 million parameters (gemma4_unified_text is tested)",
    "gemma4_unified_assistant": "no model of its own: it reads another model's cache",
    "got_ocr2": "its tower has 2 million parameters; the text half is qwen2",
    "musicgen": "transformers itself makes no decoder of this config",
    "musicgen_melody": "transformers itself makes no decoder of this config",
    "phi4_multimodal": "its towers have 4 million parameters; the text half is phi3",
}
"""What is left out, and why."""

ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
    *("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
    *("xlm-roberta", "xlm-roberta-xl"),
)
"""Causal once they are told to be decoders (`is_decoder`)."""

_LOOKS_AHEAD = "is no causal language model"
REFUSED = {
    **dict.fromkeys(ENCODERS, _LOOKS_AHEAD),
    "cpmant": _LOOKS_AHEAD,
    "prophetnet": _LOOKS_AHEAD,
    "reformer": _LOOKS_AHEAD,
    "xlm": _LOOKS_AHEAD,
    "xlnet": _LOOKS_AHEAD,
    "xmod": "cannot be run as a language model: ValueError: Input language unknown",
}

HANDFUL = ("bart", "deepseek_v4", "jamba", "longcat_flash", "mllama", "qwen3_5_text", "xlstm")
"""A decoder of an encoder-decoder; compressed attention; states and experts; shared and fused
experts; more embeddings than logits; linear attention; recurrent cells."""

KINDS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NOT_BUILT.keys())


DRAWS = ("big_bird", "reformer")
"""Their own code draws from torch's global random state."""


def every(kinds, usual=()):
    marks = {kind: [] if kind in usual else [pytest.mark.models] for kind in kinds}
    for kind in marks.keys() & set(DRAWS):
        marks[kind].append(pytest.mark.moves_rng)
    return [pytest.param(kind, marks=marks[kind], id=kind) for kind in kinds]


@pytest.mark.parametrize("kind", every([k for k in KINDS if k not in REFUSED], HANDFUL))
def test_an_architecture_agrees_with_plain_passes(kind, tmp_path, record_property):
    check(kind, tiny_model(kind), tmp_path, record_property)


@pytest.mark.parametrize("kind", every(ENCODERS))
def test_an_encoder_that_is_told_to_be_a_decoder_is_one(kind, tmp_path, record_property):
    check(f"{kind}, decoder", tiny_model(kind, is_decoder=True), tmp_path, record_property)


@pytest.mark.parametrize("kind", every(REFUSED, ("prophetnet", "xmod")))
def test_what_is_no_causal_language_model_is_refused_by_name(kind, record_property):
    model = tiny_model(kind)
    lm = po.CausalLM(model, word_tokenizer())
    with pytest.raises(ModelError, match=f"^{type(model).__name__} {REFUSED[kind]}"):
        lm.sample(["a b"], 2, 3, generator())
    record_property("architecture", f"{kind:28} refused: {REFUSED[kind]}")


@pytest.mark.models
def test_at_least_eighty_are_right():
    assert len(set(KINDS) - REFUSED.keys()) >= 80
    assert not OWN.keys() - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_heads_that_choose_tokens_by_chance_are_refused():
    """Two heads often give zero to several tokens: which of these are read then depends on how
    many tokens follow, and the model has no next-token distributions."""
    model = tiny_model("glm_moe_dsa", index_n_heads=2)
    lm = po.CausalLM(model, word_tokenizer())
    with pytest.raises(ModelError, match=r"^GlmMoeDsaForCausalLM is no causal language model"):
        lm.sample(["a b"], 2, 3, generator())


def check(name, model, directory, record_property):
    found = figures(model, directory)
    measured = "  ".join(f"{what} {value:.0e}" for what, value in found.items())
    record_property("architecture", f"{name:28} {measured}")
    # A figure that is NaN is above every bound.
    above = {what: value for what, value in found.items() if not value <= AGREE}
    assert not above

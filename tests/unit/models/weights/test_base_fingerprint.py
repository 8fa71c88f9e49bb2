"""An adapter is put on the weights that it was trained on, or not at all."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers import ORACLE, PROMPTS, generator, tiny_model, word_tokenizer
from safetensors.torch import load_file, save_file

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ModelError
from posteriori.models.weights import base_fingerprint
from posteriori.models.weights.base_fingerprint import FILE

MODEL, EXPERT = ORACLE / "case_1" / "model", ORACLE / "case_1" / "expert"


def policy_of(prior, seed=0):
    """A LoRA policy that differs from its prior."""
    policy = prior.as_policy("lora", LoraSettings(rank=2), seed)
    stream = torch.Generator().manual_seed(seed)
    for name, tensor in policy.trained_state().items():
        if "lora_B" in name:
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=stream))
    return policy


def assert_reloads(policy, place):
    policy.save_pretrained(place)
    drawn = policy.sample(PROMPTS, 4, 4, generator())
    loaded = po.load(place)
    torch.testing.assert_close(loaded.log_prob(drawn), policy.log_prob(drawn), rtol=0, atol=1e-4)
    return loaded


def test_an_adapter_on_the_weights_of_its_path_is_saved_as_one(tmp_path):
    loaded = assert_reloads(policy_of(po.load(MODEL)), tmp_path / "policy")
    assert loaded.adapter == "default"
    assert (tmp_path / "policy" / FILE).is_file()


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16", "float64"])
def test_the_precision_of_loading_does_not_matter(tmp_path, dtype):
    policy_of(po.load(MODEL, dtype=dtype)).save_pretrained(tmp_path / "policy")
    assert po.load(tmp_path / "policy").adapter == "default"


def test_on_a_merged_adapter_the_whole_model_is_saved(tmp_path):
    policy_of(po.load(MODEL)).save_pretrained(tmp_path / "first")
    prior = po.load(tmp_path / "first", merge_adapter=True)
    assert assert_reloads(policy_of(prior, 1), tmp_path / "second").adapter is None


def change(model):
    with torch.no_grad():
        model.transformer.wte.weight[2] += 1.0


def resize(model):
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(8)
    model.requires_grad_(False)


@pytest.mark.parametrize("touch", [change, resize])
def test_on_a_model_that_was_changed_in_memory_the_whole_model_is_saved(tmp_path, touch):
    prior = po.load(MODEL)
    touch(prior.model)
    tokenizer = word_tokenizer(words=[*prior.tokenizer.get_vocab(), "x", "y"][: prior.vocab_size])
    policy = policy_of(po.CausalLM(prior.model, tokenizer))
    assert assert_reloads(policy, tmp_path / "policy").adapter is None


def test_on_a_model_without_a_path_the_whole_model_is_saved(tmp_path):
    prior = po.CausalLM(tiny_model("llama").requires_grad_(False), word_tokenizer())
    assert assert_reloads(policy_of(prior), tmp_path / "policy").adapter is None


def test_another_base_of_the_same_shape_is_refused(tmp_path):
    policy_of(po.load(MODEL)).save_pretrained(tmp_path / "policy")
    with pytest.raises(ModelError, match="trained on other weights"):
        po.load(tmp_path / "policy", base=EXPERT)


def test_a_base_that_changed_behind_its_path_is_refused(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(MODEL, base)
    policy_of(po.load(base)).save_pretrained(tmp_path / "policy")
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.bias"][3] += 1e-3
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"h\.1\.mlp\.c_fc\.bias' differs"):
        po.load(tmp_path / "policy")


def test_an_adapter_of_another_program_is_taken(tmp_path):
    policy_of(po.load(MODEL)).save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / FILE).unlink()
    assert po.load(tmp_path / "policy").adapter == "default"


@pytest.mark.parametrize("text", ["[]", "{", '{"tensors": {"a": ["no dtype", [1], "b"]}}'])
def test_a_damaged_fingerprint_is_refused(tmp_path, text):
    policy_of(po.load(MODEL)).save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / FILE).write_text(text)
    with pytest.raises(ModelError, match="fingerprint of the adapter's base is damaged"):
        po.load(tmp_path / "policy")


def other_names(tensors):
    return {name + "x": tensor for name, tensor in tensors.items()}


def without_one(tensors):
    return dict(sorted(tensors.items())[1:])


def with_nan(tensors):
    return {name: tensor * float("nan") for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_names, "does not fit its base model"),
        (without_one, "is not in its file"),
        (with_nan, "not finite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, spoil, message):
    place = tmp_path / "policy"
    policy_of(po.load(MODEL)).save_pretrained(place)
    file = place / "adapter_model.safetensors"
    save_file(spoil(load_file(file)), file)
    with pytest.raises(ModelError, match=message):
        po.load(place)


def test_an_adapter_of_another_rank_than_its_config_says_is_refused(tmp_path):
    place = tmp_path / "policy"
    policy_of(po.load(MODEL)).save_pretrained(place)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**config, "r": 7}))
    with pytest.raises(ModelError, match="cannot load a PEFT adapter"):
        po.load(place)


def test_a_prompt_tuned_adapter_gives_what_peft_gives(tmp_path):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(base, settings).eval()
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    lm = po.load(tmp_path)
    drawn = lm.sample(["a b", "c"], 6, 3, generator())
    for at, ids in enumerate(drawn.completion_ids):
        prompt = drawn.prompt_ids[int(drawn.prompt_index_N[at])]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -len(ids) - 1 : -1]
        plain = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum()
        assert abs(float(plain) - float(drawn.log_prob_N[at])) < 1e-4
    with pytest.raises(ModelError, match="cannot be trained further"):
        lm.as_policy("full", LoraSettings(), 0)


def test_a_whole_model_is_saved_over_an_adapter(tmp_path):
    policy_of(po.load(MODEL)).save_pretrained(tmp_path)
    prior = po.CausalLM(tiny_model("llama").requires_grad_(False), word_tokenizer())
    assert assert_reloads(prior, tmp_path).adapter is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_in_half_precision_is_read_as_such_to_be_compared(tmp_path, dtype, monkeypatch):
    read = []
    plain = base_fingerprint.AutoModelForCausalLM.from_pretrained

    def from_pretrained(path, **options):
        read.append(options["dtype"])
        return plain(path, **options)

    policy = policy_of(po.load(MODEL, dtype=dtype))
    monkeypatch.setattr(base_fingerprint.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    policy.save_pretrained(tmp_path)
    assert read == [getattr(torch, dtype)]
    assert po.load(tmp_path).adapter == "default"

"""A PEFT model that is handed over is the distribution that it computes itself."""

from __future__ import annotations

import pytest
import torch
from helpers import generator, tiny_model, word_tokenizer
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import posteriori as po
from posteriori.errors import ModelError

pytestmark = pytest.mark.moves_rng


def adapted(*more):
    """A PEFT model with adapters that say something, the first one active."""
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules="all-linear"))
    for name in more:
        model.add_adapter(name, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for at, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(generator=generator(at))
    return model.eval()


def of_one_token(model):
    """log p of each token after "a b", by the model itself."""
    with torch.no_grad():
        return model(torch.tensor([[1, 2]])).logits[0, -1].log_softmax(-1).double()


def of_our_own(lm):
    ids = [[token] for token in range(6)]
    return lm.log_prob(lm.completions(["a b"] * 6, ids, 1)).detach()


def check(model, **settings):
    lm = po.CausalLM(model, word_tokenizer(), **settings)
    torch.testing.assert_close(of_our_own(lm), of_one_token(model), rtol=1e-5, atol=1e-5)
    return lm


def test_it_computes_with_the_active_adapter():
    model = adapted("other")
    bare = of_one_token(tiny_model("llama").eval())
    assert check(model).adapter == "default"
    model.set_adapter("other")
    lm = check(model)
    assert lm.adapter == "other"
    assert not torch.allclose(of_our_own(lm), bare, atol=1e-2)
    # What is active later changes nothing.
    model.set_adapter("default")
    assert lm.adapter == "other"
    assert not torch.allclose(of_our_own(lm), of_one_token(model), atol=1e-2)


def test_without_it_where_it_is_off_or_not_wanted():
    model = adapted()
    bare = of_one_token(tiny_model("llama").eval())
    lm = po.CausalLM(model, word_tokenizer(), adapter=None)
    torch.testing.assert_close(of_our_own(lm), bare, rtol=0, atol=1e-5)
    model.base_model.disable_adapter_layers()
    assert check(model).adapter is None


def test_a_prompt_tuned_model_needs_no_name():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    check(get_peft_model(tiny_model("llama"), config).eval())


def test_several_at_once_are_refused():
    model = adapted("other")
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ModelError, match="2 adapters on at once"):
        po.CausalLM(model, word_tokenizer())


@pytest.mark.parametrize("name", ["another", "", 3, ["default"]])
def test_a_name_of_no_adapter_is_refused(name):
    for model in (adapted(), tiny_model("llama")):
        with pytest.raises(ModelError, match="the model has no adapter named"):
            po.CausalLM(model, word_tokenizer(), adapter=name)


def test_what_is_no_tokenizer_or_dtype_is_one_line():
    for tokenizer in (None, "tiny", type(word_tokenizer()), [1]):
        with pytest.raises(ModelError, match="is no tokenizer"):
            po.CausalLM(tiny_model("llama"), tokenizer)
    with pytest.raises(ModelError, match=r"no torch\.dtype"):
        po.CausalLM(tiny_model("llama"), word_tokenizer(), compute_dtype="bfloat16")


def test_it_is_the_policy_in_evaluate():
    target = po.Target(
        po.CausalLM(tiny_model("llama"), word_tokenizer()),
        po.Reward(lambda completion_ids, **_: [float(len(y)) for y in completion_ids], beta=1.0),
        ["a b"],
        2,
    )
    lm = po.CausalLM(adapted(), word_tokenizer())
    assert po.exact(target).evaluate(lm)["kl_to_prior"][0] > 0.01


NO_MODELS = {
    "a path": "tiny",
    "nothing": None,
    "a layer": torch.nn.Linear(2, 2),
    "a class": torch.nn.Linear,
    "a model in a list": torch.nn.ModuleList([tiny_model("llama")]),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_one_line(name):
    with pytest.raises(ModelError, match="no causal language model of transformers"):
        po.CausalLM(NO_MODELS[name], word_tokenizer())

"""A model that a user hands over is afterwards what it was before, whatever was done with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from helpers import PROMPTS, WORDS, generator, tiny_model, word_tokenizer
from peft import LoraConfig, get_peft_model

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ModelError


def mixture_of_experts():
    config = transformers.MixtralConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.MixtralForCausalLM(config)


def letters(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


class Photograph:
    """All that can be seen of a model from outside."""

    def __init__(self, model):
        self.model = model
        self.modules = list(model.named_modules())
        self.kinds = [type(module) for _, module in self.modules]
        self.modes = [module.training for _, module in self.modules]
        self.attributes = [set(vars(module)) for _, module in self.modules]
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.parameters = list(model.named_parameters())
        self.trained = [parameter.requires_grad for _, parameter in self.parameters]
        self.outputs = self.logits()

    def logits(self):
        modes = [(module, module.training) for module in self.model.modules()]
        with torch.no_grad():
            logits = self.model.eval()(torch.tensor([[1, 4, 2, 5, 3]])).logits
        for module, mode in modes:
            module.training = mode
        return logits

    def check(self):
        now = Photograph(self.model)
        assert [name for name, _ in now.modules] == [name for name, _ in self.modules]
        pairs = zip(now.modules, self.modules, strict=True)
        assert all(mine is before for (_, mine), (_, before) in pairs)
        assert now.kinds == self.kinds
        assert now.modes == self.modes
        assert now.attributes == self.attributes
        assert list(now.state) == list(self.state)
        assert all(torch.equal(now.state[name], self.state[name]) for name in self.state)
        pairs = zip(now.parameters, self.parameters, strict=True)
        assert all(a == b and mine is before for (a, mine), (b, before) in pairs)
        assert now.trained == self.trained
        assert torch.equal(now.outputs, self.outputs)
        for _, module in now.modules:
            assert "forward" not in vars(module)
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
            assert not any("posteriori" in name for name in vars(module))
            assert all(p.grad is None for p in module.parameters())


MODELS = {
    "gpt2": lambda: tiny_model("gpt2"),
    "llama": lambda: tiny_model("llama"),
    "gpt_neox": lambda: tiny_model("gpt_neox"),
    "mixture of experts": mixture_of_experts,
}


@pytest.mark.moves_rng
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("architecture", MODELS)
def test_it_is_as_it_was(architecture, mode):
    model = MODELS[architecture]().train(mode == "train")
    # Some of it frozen: a user who trains it on goes on from these flags.
    next(model.parameters()).requires_grad_(False)
    before = Photograph(model)
    prior = po.CausalLM(model, word_tokenizer())
    target = po.Target(prior, po.Reward(letters, beta=0.5), list(PROMPTS), 4)
    settings = {"steps": 2, "num_samples": 4, "learning_rate": 1e-2}
    for policy in ("full", "lora"):
        fitted = po.fit(target, "rloo", policy=policy, **settings).policy
        po.evaluate(target, fitted, num_samples=8)
        before.check()
    po.sample(target, "importance", num_samples=8, proposal=fitted)
    before.check()
    po.sample(target, "smc", num_samples=8)
    before.check()
    po.frontier(target, num_samples=100)
    before.check()
    prior.features(prior.sample(["a"], 2, 3, generator()))
    prior.in_float64().log_prob(prior.sample(["a"], 2, 3, generator()))
    before.check()


def test_what_the_user_changes_is_followed():
    model = tiny_model("gpt_neox")
    lm = po.CausalLM(model, word_tokenizer())
    batch = lm.completions(["a b", "c"], [[1, 2, 0], [3, 0]], 3)
    first = lm.log_prob(batch)
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    second = lm.log_prob(batch)
    assert not torch.equal(first, second)
    model.gpt_neox.layers = model.gpt_neox.layers[:1]
    third = lm.log_prob(batch)
    assert not torch.equal(second, third)
    hook = model.gpt_neox.final_layer_norm.register_forward_hook(lambda _m, _i, out: 2 * out)
    fourth = lm.log_prob(batch)
    assert not torch.equal(third, fourth)
    hook.remove()
    assert torch.equal(lm.log_prob(batch), third)


@pytest.mark.moves_rng
def test_a_peft_model_stays_on_its_adapter_and_each_wrapper_on_its_own():
    model = tiny_model("llama")
    plain = po.CausalLM(tiny_model("llama"), word_tokenizer())
    batch = plain.completions(["a b", "c"], [[1, 2, 0], [3, 0]], 3)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    adapted.add_adapter("other", LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for at, (name, parameter) in enumerate(adapted.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(generator=generator(at))
    before = Photograph(adapted)
    lms = {
        name: po.CausalLM(adapted, word_tokenizer(), adapter=name)
        for name in (None, "default", "other")
    }
    log_probs = {name: lm.log_prob(batch).detach() for name, lm in lms.items()}
    before.check()
    torch.testing.assert_close(log_probs[None], plain.log_prob(batch), rtol=0, atol=1e-6)
    assert not torch.allclose(log_probs["default"], log_probs["other"])
    assert not torch.allclose(log_probs["default"], log_probs[None])
    policy = lms[None].as_policy("lora", LoraSettings(rank=2), 0)
    torch.testing.assert_close(policy.log_prob(batch), log_probs[None], rtol=0, atol=1e-6)
    before.check()
    with pytest.raises(ModelError, match="no adapter named 'another'"):
        po.CausalLM(adapted, word_tokenizer(), adapter="another").log_prob(batch)
    adapted.merge_adapter(["default"])
    with pytest.raises(ModelError, match="merged"):
        lms[None].log_prob(batch)


def test_one_that_a_trainer_has_wrapped_is_run_as_it_is_and_has_its_mode_back():
    """As accelerate wraps it: a `forward` that goes on calling these very modules."""
    model = tiny_model("llama")
    plain = po.CausalLM(tiny_model("llama"), word_tokenizer())
    batch = plain.completions(["a b", "c"], [[1, 2, 0], [3, 0]], 3)
    wanted, drawn = plain.log_prob(batch), plain.sample(list(PROMPTS), 4, 3, generator())
    with plain.stepping(["a b"], torch.tensor([0]), 2, hidden=True) as rows:
        hidden = rows.hidden_RD
    inner, calls = model.forward, []

    def wrapper(*args, **kwargs):
        calls.append(model.training)
        return inner(*args, **kwargs)

    model.forward = wrapper
    model.train()
    lm = po.CausalLM(model, word_tokenizer())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: lm.log_prob(batch).detach(), range(8)))
    for each in found:
        torch.testing.assert_close(each, wanted.detach(), rtol=0, atol=1e-5)
    assert lm.sample(list(PROMPTS), 4, 3, generator()).completion_ids == drawn.completion_ids
    with lm.stepping(["a b"], torch.tensor([0]), 2, hidden=True) as rows:
        torch.testing.assert_close(rows.hidden_RD, hidden, rtol=0, atol=1e-5)
    assert calls
    assert not any(calls), "dropout is off while it is run"
    assert all(module.training for module in model.modules())
    assert model.forward is wrapper
    assert not any(module._forward_pre_hooks for module in model.modules())

"""LoRA policies and saved models: one set of weights, and what plain transformers and PEFT load."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from helpers import PROMPTS, generator, outcome_ids, tiny_lm, tiny_model, word_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import posteriori as po
from posteriori.core.settings.training import LoraSettings
from posteriori.errors import ConfigError, ModelError

LORA = LoraSettings(rank=2)


@pytest.fixture(params=["gpt2", "llama"])
def prior(request, tmp_path) -> po.CausalLM:
    """A prior that was loaded from a directory, as adapters name it."""
    tiny_model(request.param).save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    return po.load(tmp_path / "base")


def shaken(policy: po.CausalLM, seed: int = 0) -> po.CausalLM:
    """The policy with weights that matter: LoRA starts as the identity."""
    source = generator(seed)
    for tensor in policy.trained_state().values():
        tensor.add_(torch.randn(tensor.shape, generator=source) * 0.1)
    return policy


def all_log_probs(lm) -> torch.Tensor:
    with torch.no_grad():
        return lm.log_prob(lm.completions(["d e a"], outcome_ids(6, 3), 3))


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Up to float32 rounding: where a tensor lies in memory may change its last bit's sums."""
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def parameters(a: po.CausalLM, b: po.CausalLM):
    return zip(a.model.parameters(), b.model.parameters(), strict=True)


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 4, 2, 5, 3]])).logits


class TestALoraPolicy:
    def test_starts_as_the_prior_and_leaves_it_alone(self, prior):
        before = all_log_probs(prior)
        policy = prior.as_policy("lora", LORA, seed=0)
        assert torch.equal(all_log_probs(policy), before)
        shaken(policy)
        moved = all_log_probs(policy)
        assert float((moved - before).abs().max()) > 0.1
        assert torch.equal(all_log_probs(prior), before)
        assert torch.equal(all_log_probs(policy), moved), "switching back and forth changes nothing"

    def test_shares_the_priors_memory(self, prior):
        before = {p.data_ptr(): p.nbytes for p in prior.model.parameters()}
        policy = prior.as_policy("lora", LORA, seed=0)
        adapter = {t.data_ptr() for t in policy.trained_state().values()}
        after = {p.data_ptr(): p.nbytes for p in policy.model.parameters()}
        assert after.keys() - adapter == before.keys()
        assert not {id(m) for m in policy.model.modules()} & {id(m) for m in prior.model.modules()}

    def test_goes_on_from_weights_that_are_changed_in_place(self, prior):
        policy = prior.as_policy("lora", LORA, seed=0)
        with torch.no_grad():
            for parameter in prior.model.parameters():
                parameter.mul_(1.5)
        assert torch.equal(all_log_probs(policy), all_log_probs(prior))

    def test_trains_its_adapter_and_nothing_else(self, prior):
        policy = prior.as_policy("lora", LORA, seed=0)
        drawn = policy.sample(PROMPTS, 4, 4, generator())
        prior.log_prob(drawn)
        policy.log_prob(drawn).sum().backward()
        with_gradient = {p.data_ptr() for p in policy.model.parameters() if p.grad is not None}
        assert with_gradient == {t.data_ptr() for t in policy.trained_state().values()}

    def test_and_another_on_the_same_prior_are_independent(self, prior):
        before = all_log_probs(prior)
        first = shaken(prior.as_policy("lora", LORA, seed=0), seed=1)
        of_first = all_log_probs(first)
        second = prior.as_policy("lora", LoraSettings(rank=4), seed=0)
        assert torch.equal(all_log_probs(second), before)
        shaken(second, seed=2)
        of_second = all_log_probs(second)
        assert torch.equal(all_log_probs(first), of_first)
        assert torch.equal(all_log_probs(prior), before)
        assert torch.equal(all_log_probs(second), of_second)
        assert not torch.equal(of_first, of_second)
        assert first.trained_state().keys() == second.trained_state().keys()

    def test_scores_its_own_draws_as_drawn(self, prior):
        policy = shaken(prior.as_policy("lora", LORA, seed=0))
        for lm in (policy, prior):
            drawn = lm.sample(PROMPTS, 20, 5, generator())
            torch.testing.assert_close(lm.log_prob(drawn), drawn.log_prob_N, rtol=0, atol=1e-4)

    def test_gives_the_same_in_float64_whichever_was_used_last(self, prior):
        policy = shaken(prior.as_policy("lora", LORA, seed=0))
        expected = {id(lm): all_log_probs(lm) for lm in (prior, policy)}
        for last in (prior, policy):
            for lm in (prior, policy):
                all_log_probs(last)
                exact = all_log_probs(lm.in_float64())
                torch.testing.assert_close(exact, expected[id(lm)], rtol=0, atol=1e-4)

    def test_depends_on_its_seed_alone(self, prior):
        a, b, c = (prior.as_policy("lora", LORA, seed=seed).trained_state() for seed in (5, 5, 6))
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert not all(torch.equal(a[name], c[name]) for name in a)

    def test_cannot_be_put_on_an_adapter(self, prior):
        policy = prior.as_policy("lora", LORA, seed=0)
        with pytest.raises(ModelError, match="this model is an adapter"):
            policy.as_policy("lora", LORA, seed=0)


class TestAFullPolicy:
    def test_starts_as_the_prior_with_weights_of_its_own(self, prior):
        before = all_log_probs(prior)
        policy = prior.as_policy("full", LORA, seed=0)
        same(all_log_probs(policy), before)
        assert all(torch.equal(a, b) for a, b in parameters(policy, prior))
        shaken(policy)
        assert torch.equal(all_log_probs(prior), before)
        assert not torch.equal(all_log_probs(policy), before)
        assert all(p.dtype == torch.float32 for p in policy.model.parameters())

    def test_of_a_prior_that_lora_policies_sit_on_is_the_bare_prior(self, prior):
        before = all_log_probs(prior)
        shaken(prior.as_policy("lora", LORA, seed=0))
        policy = prior.as_policy("full", LORA, seed=0)
        torch.testing.assert_close(all_log_probs(policy), before, rtol=0, atol=1e-6)
        assert not any("lora" in name for name in policy.trained_state())

    @pytest.mark.parametrize("last", ["prior", "first", "second"])
    def test_of_an_adapter_has_that_adapter_folded_in(self, prior, last):
        """Whichever of the three distributions on the same weights was computed last."""
        lms = {"prior": prior}
        lms["first"] = shaken(prior.as_policy("lora", LORA, seed=0), seed=1)
        lms["second"] = shaken(prior.as_policy("lora", LORA, seed=0), seed=2)
        expected = all_log_probs(lms["first"])
        all_log_probs(lms[last])
        policy = lms["first"].as_policy("full", LORA, seed=0)
        torch.testing.assert_close(all_log_probs(policy), expected, rtol=0, atol=1e-4)


class TestSaving:
    def test_a_full_policy_loads_in_plain_transformers(self, prior, tmp_path):
        policy = shaken(prior.as_policy("full", LORA, seed=0))
        policy.save_pretrained(tmp_path / "policy")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
        assert torch.equal(logits_of(plain), logits_of(policy.model))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
        assert tokenizer("a b")["input_ids"] == [1, 2]
        loaded = po.load(tmp_path / "policy")
        assert all(torch.equal(a, b) for a, b in parameters(loaded, policy))
        same(all_log_probs(loaded), all_log_probs(policy))

    @pytest.mark.moves_rng
    @pytest.mark.parametrize("number", [1, 2], ids=["the first adapter", "the second adapter"])
    def test_an_adapter_loads_in_plain_peft(self, prior, tmp_path, number):
        for seed in range(number):
            policy = shaken(prior.as_policy("lora", LORA, seed=0), seed)
        all_log_probs(prior)
        policy.save_pretrained(tmp_path / "policy")
        assert (tmp_path / "policy" / "adapter_model.safetensors").is_file()
        all_log_probs(policy)
        expected = logits_of(policy.model)

        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        by_peft = peft.PeftModel.from_pretrained(base, tmp_path / "policy").eval()
        assert torch.equal(logits_of(by_peft), expected)
        by_auto = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
        assert torch.equal(logits_of(by_auto), expected)

    def test_an_adapter_directory_loads_as_a_language_model(self, prior, tmp_path):
        policy = shaken(prior.as_policy("lora", LORA, seed=0))
        policy.save_pretrained(tmp_path / "policy")
        loaded = po.load(tmp_path / "policy")
        same(all_log_probs(loaded), all_log_probs(policy))
        merged = po.load(tmp_path / "policy", merge_adapter=True)
        assert merged.adapter is None
        torch.testing.assert_close(all_log_probs(merged), all_log_probs(policy), rtol=0, atol=1e-4)

    def test_a_merged_adapter_can_carry_a_new_one(self, prior, tmp_path):
        shaken(prior.as_policy("lora", LORA, seed=0)).save_pretrained(tmp_path / "policy")
        with pytest.raises(ModelError, match="merge_adapter=True"):
            po.load(tmp_path / "policy").as_policy("lora", LORA, seed=0)
        merged = po.load(tmp_path / "policy", merge_adapter=True)
        before = all_log_probs(merged)
        policy = shaken(merged.as_policy("lora", LORA, seed=0))
        assert torch.equal(all_log_probs(merged), before)
        assert not torch.equal(all_log_probs(policy), before)

    def test_the_prior_of_a_policy_is_saved_as_what_it_is(self, prior, tmp_path):
        shaken(prior.as_policy("lora", LORA, seed=0))
        prior.save_pretrained(tmp_path / "prior")
        assert not (tmp_path / "prior" / "adapter_config.json").exists()
        same(all_log_probs(po.load(tmp_path / "prior")), all_log_probs(prior))

    @pytest.mark.parametrize("kind", ["full", "lora"])
    def test_a_runs_policy_is_there_to_be_loaded(self, prior, tmp_path, kind):
        target = po.Target(prior, po.Reward(length, beta=1.0), list(PROMPTS), 3)
        fitted = po.fit(
            target,
            "rloo",
            steps=3,
            num_samples=4,
            learning_rate=1e-2,
            policy=kind,
            output_dir=tmp_path / "run",
        )
        loaded = po.load(fitted.output_dir / "policy")
        assert all(torch.equal(a, b) for a, b in parameters(loaded, fitted.policy))
        same(all_log_probs(loaded), all_log_probs(fitted.policy))

    def test_an_adapter_without_weights_is_a_typed_error(self, prior, tmp_path):
        prior.as_policy("lora", LORA, seed=0).save_pretrained(tmp_path / "policy")
        weights = tmp_path / "policy" / "adapter_model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
        with pytest.raises(ModelError, match="cannot load a PEFT adapter"):
            po.load(tmp_path / "policy")
        weights.unlink()
        with pytest.raises(ModelError, match="cannot load a PEFT adapter"):
            po.load(tmp_path / "policy")


@pytest.mark.moves_rng
def test_a_model_without_a_language_modelling_head_is_refused(tmp_path):
    """transformers would make up a random head and say so in a log line."""
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no weights for 1 tensors .* 'lm_head.weight'"):
        po.load(tmp_path)


def test_loading_leaves_a_models_own_gradients_off(tmp_path):
    lm = tiny_lm()
    lm.save_pretrained(tmp_path)
    assert not any(p.requires_grad for p in po.load(tmp_path).model.parameters())


def length(completion_ids, **kwargs):
    return [float(len(y)) for y in completion_ids]


class TestPlaces:
    def test_a_saved_adapter_has_no_empty_card_and_keeps_a_written_one(self, prior, tmp_path):
        policy = shaken(prior.as_policy("lora", LORA, seed=0))
        policy.save_pretrained(tmp_path / "a")
        names = {file.name for file in (tmp_path / "a").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= names
        assert "README.md" not in names
        assert not any(name.startswith(".") for name in names)
        (tmp_path / "a" / "README.md").write_text("mine")
        policy.save_pretrained(tmp_path / "a")
        assert (tmp_path / "a" / "README.md").read_text() == "mine"
        same(all_log_probs(po.load(tmp_path / "a")), all_log_probs(policy))

    def test_an_adapter_whose_base_was_moved(self, prior, tmp_path):
        policy = shaken(prior.as_policy("lora", LORA, seed=0))
        policy.save_pretrained(tmp_path / "a")
        (tmp_path / "base").rename(tmp_path / "moved")
        with pytest.raises(ModelError, match=r"base' any more; say where it is now: .*base=\.\.\."):
            po.load(tmp_path / "a")
        found = po.load(tmp_path / "a", base=tmp_path / "moved")
        same(all_log_probs(found), all_log_probs(policy))

    def test_what_is_no_adapter_has_no_base(self, prior, tmp_path):
        with pytest.raises(ConfigError, match="is no adapter, and has no base model"):
            po.load(tmp_path / "base", base="tiny")

    def test_the_bundled_base_is_that_of_this_installation(self, tmp_path):
        policy = po.load("tiny").as_policy("lora", LORA, seed=0)
        policy.save_pretrained(tmp_path / "a")
        file = tmp_path / "a" / "adapter_config.json"
        config = json.loads(file.read_text())
        elsewhere = "/opt/another/site-packages/posteriori/models/tiny"
        file.write_text(json.dumps(config | {"base_model_name_or_path": elsewhere}))
        assert po.load(tmp_path / "a").vocab_size == policy.vocab_size


def test_a_copy_is_its_own_where_a_trainer_has_wrapped_the_forward():
    """As accelerate wraps it, in a closure that a deep copy would share."""
    lm = tiny_lm()
    inner = lm.model.forward
    lm.model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    drawn = lm.sample(PROMPTS, 4, 4, generator(0))
    for copied in (lm.as_policy("full", LoraSettings(), 0), lm.in_float64()):
        torch.testing.assert_close(copied.log_prob(drawn), lm.log_prob(drawn), rtol=0, atol=1e-4)
        for parameter in copied.model.parameters():
            parameter.data.zero_()
        uniform = -drawn.lengths_N.double() * torch.tensor(lm.vocab_size).log()
        torch.testing.assert_close(copied.log_prob(drawn), uniform, rtol=0, atol=1e-5)


def test_a_copy_is_read_rightly_while_its_original_is_being_trained():
    """Gradient checkpointing gives the cache up in training mode, and with it the prompt."""
    lm = tiny_lm()
    drawn = lm.sample(PROMPTS, 4, 4, generator(0))
    expected = lm.log_prob(drawn)
    inner = lm.model.forward
    lm.model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    lm.model.gradient_checkpointing_enable()
    lm.model.train()
    torch.testing.assert_close(lm.in_float64().log_prob(drawn), expected, rtol=0, atol=1e-4)


def test_adding_saving_and_loading_an_adapter_warns_of_nothing(tmp_path):
    """A user reads every warning as a mistake of theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = po.load("tiny").as_policy("lora", LoraSettings(), 0)
        policy.save_pretrained(tmp_path / "adapter")
        po.load(tmp_path / "adapter")

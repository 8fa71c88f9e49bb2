"""Models, prompts and settings that cannot work: a typed error that says what to write instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import tiny_lm, word_tokenizer

import posteriori as po
from posteriori.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModelError,
    OutcomeError,
    PosterioriError,
    PromptError,
    SpaceTooLargeError,
    UnknownNameError,
)


def flat(completions, **kwargs):
    return [0.0] * len(completions)


def target(lm, prompts=("a",), max_new_tokens=3, **settings) -> po.Target:
    return po.Target(lm, po.Reward(flat, beta=1.0), list(prompts), max_new_tokens, **settings)


class TestModels:
    @pytest.mark.parametrize("suffix", ["", "model.gguf"])
    def test_that_do_not_exist(self, tmp_path, suffix):
        with pytest.raises(ModelError, match="there is no model at"):
            po.load(tmp_path / "nothing" / suffix)

    def test_that_no_hub_knows(self):
        with pytest.raises(ModelError, match="cannot load a causal language model from 'no/such'"):
            po.load("no/such")

    def test_that_are_an_empty_directory(self, tmp_path):
        with pytest.raises(ModelError, match="cannot load") as caught:
            po.load(tmp_path)
        assert "config.json" in caught.value.hint

    def test_whose_weights_are_damaged(self, tmp_path, case_1):
        lm = case_1.prior()
        lm.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ModelError, match="cannot load"):
            po.load(tmp_path)

    def test_whose_config_is_not_json(self, tmp_path, case_1):
        case_1.prior().save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ModelError, match="cannot load"):
            po.load(tmp_path)

    def test_without_an_end_of_sequence(self):
        model = tiny_lm().model
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        tokenizer = word_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(ModelError, match="names no end-of-sequence token"):
            po.CausalLM(model, tokenizer)

    def test_adapters_that_do_not_name_their_base(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(ModelError, match="does not say which base model"):
            po.load(tmp_path)

    def test_adapters_whose_config_is_not_json(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{")
        with pytest.raises(ModelError):
            po.load(tmp_path)

    def test_with_an_unknown_dtype(self, case_1):
        with pytest.raises(ConfigError, match="unknown dtype 'float31'; did you mean 'float32'"):
            po.load(case_1.path, dtype="float31")

    def test_that_cannot_be_trained(self):
        class Sampled:
            eos_token_ids, vocab_size = (0,), 2

        with pytest.raises(ModelError, match="Sampled, which is no language model"):
            po.fit(target(Sampled()), "rloo", steps=1)
        for name in ("decode", "sample", "resample_suffix", "token_power", "log_prob"):
            setattr(Sampled, name, None)
        for name in ("token_log_prob", "features", "completions"):
            setattr(Sampled, name, None)
        with pytest.raises(ConfigError, match="Sampled, which cannot be trained"):
            po.fit(target(Sampled()), "rloo", steps=1)

    def test_with_a_warp_cannot_become_a_policy(self, gpt2):
        with pytest.raises(ModelError, match="a warped model cannot be trained"):
            po.fit(target(gpt2.warped(temperature=0.5)), "rloo", steps=1)

    def test_lora_on_layers_that_are_not_there(self, gpt2):
        with pytest.raises(ModelError, match="LoRA cannot be added"):
            po.fit(target(gpt2), "rloo", steps=1, policy="lora", lora={"target_modules": "q_proj"})

    def test_lora_on_a_table(self, table):
        with pytest.raises(ModelError, match="a table cannot take a LoRA adapter"):
            po.fit(target(table, ["x"]), "rloo", steps=1, policy="lora")


class TestPrompts:
    def test_longer_than_the_context(self, gpt2):
        long = " ".join(["a"] * 30)
        for run in (
            lambda: po.fit(target(gpt2, ["b", long]), "rloo", steps=1, num_samples=2),
            lambda: po.evaluate(target(gpt2, ["b", long]), gpt2, num_samples=2),
            lambda: gpt2.log_prob(gpt2.completions([long], [[1, 2, 3]])),
        ):
            with pytest.raises(PromptError, match="the prompt has 30 tokens") as caught:
                run()
            assert caught.value.where.startswith("prompt 'a a a")
            assert "shorten the prompt to 29 tokens" in caught.value.hint

    def test_that_just_fit(self, gpt2):
        assert len(gpt2.sample([" ".join(["a"] * 29)], 4, 3, torch.Generator().manual_seed(0))) == 4

    def test_conversations_without_a_chat_template(self, gpt2):
        conversation = [{"role": "user", "content": "a b"}]
        with pytest.raises(PromptError, match="no chat template"):
            gpt2.sample([conversation], 1, 3)

    def test_empty_ones_without_a_first_token(self):
        lm = tiny_lm()
        lm._start = None
        with pytest.raises(PromptError, match="the prompt is empty"):
            lm.sample([""], 1, 3)

    def test_a_table_does_not_know(self, table):
        with pytest.raises(PromptError, match="the table has no prompt 'z'"):
            table.sample(["z"], 1, 3)

    def test_that_are_one_string(self, gpt2):
        with pytest.raises(ConfigError, match=r'write prompts=\["..."\]'):
            po.Target(gpt2, po.Reward(flat, beta=1.0), "a b", 3)

    def test_that_are_none_at_all(self, gpt2):
        with pytest.raises(ConfigError, match="prompts is empty"):
            target(gpt2, [])


class TestTargets:
    @pytest.mark.parametrize("length", [0, -1])
    def test_without_room_for_a_token(self, gpt2, length):
        with pytest.raises(ConfigError, match="must be at least 1"):
            target(gpt2, max_new_tokens=length)

    @pytest.mark.parametrize("temper", [-0.5, math.nan, math.inf])
    def test_tempered_beyond_reason(self, gpt2, temper):
        with pytest.raises(ConfigError, match="must be a number of at least 0"):
            target(gpt2).tempered(temper)

    def test_with_a_column_of_another_length(self, gpt2):
        with pytest.raises(ConfigError, match="column 'answer' has 1 values for 2 prompts"):
            target(gpt2, ["a", "b"], columns={"answer": [1]})

    def test_too_large_to_enumerate(self, gpt2):
        with pytest.raises(SpaceTooLargeError, match=r"outcomes per prompt"):
            po.exact(target(gpt2, max_new_tokens=20))


class TestCompletions:
    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([[]], "completion 0 is empty"),
            ([[1, 0], [1, 9, 0]], "completion 1 has token id 9"),
            ([[-1, 0]], "has token id -1"),
            ([[1, 0, 2]], "goes on after its end-of-sequence token at position 1"),
        ],
    )
    def test_that_are_no_token_sequences(self, gpt2, ids, message):
        with pytest.raises(OutcomeError, match=message):
            gpt2.completions(["a"], ids)

    def test_with_another_number_of_prompts(self, gpt2):
        with pytest.raises(OutcomeError, match="2 prompts for 3 completions"):
            gpt2.completions(["a", "b"], [[0]] * 3)

    @pytest.mark.parametrize(
        ("ids", "message"), [([1, 2, 3, 4], "is longer than"), ([1, 2], "does not end")]
    )
    def test_that_are_no_outcomes_of_the_target(self, gpt2, ids, message):
        with pytest.raises(OutcomeError, match=message):
            target(gpt2).log_density(gpt2.completions(["a"], [ids]))

    def test_of_prompts_whose_columns_are_unknown(self, gpt2):
        with_columns = target(gpt2, ["a"], columns={"answer": [1]})
        with pytest.raises(PosterioriError, match="is not one of the target's"):
            with_columns.log_density(gpt2.completions(["b"], [[0]]))


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "'steps' is missing"),
            ({"steps": 0}, "'steps' = 0"),
            ({"steps": 2.5}, "'steps' = 2.5"),
            ({"steps": True}, "'steps' = True"),
            ({"steps": 1, "learning_rate": math.inf}, "'learning_rate' = inf"),
            ({"steps": 1, "learning_rate": math.nan}, "'learning_rate' = nan"),
            ({"steps": 1, "learning_rate": -1.0}, "'learning_rate' = -1.0"),
            ({"steps": 1, "learning_rte": 1.0}, "did you mean 'learning_rate'"),
            ({"steps": 1, "num_samples": 0}, "'num_samples' = 0"),
            ({"steps": 1, "policy": "lola"}, "'policy' = 'lola'"),
            ({"steps": 1, "lora": {"rnk": 4}}, "did you mean 'rank'"),
            ({"steps": 1, "lora": {"rank": 4}}, 'lora does nothing without policy = "lora"'),
            ({"steps": 1, "checkpoint_every": 1}, "nothing without output_dir"),
        ],
    )
    def test_of_fit(self, table, settings, message):
        with pytest.raises(ConfigError, match=message):
            po.fit(target(table, ["x"]), "rloo", **settings)

    def test_of_an_unknown_objective(self, table):
        with pytest.raises(UnknownNameError, match="unknown objective 'rlo'; did you mean 'rloo'"):
            po.fit(target(table, ["x"]), "rlo", steps=1)

    def test_of_evaluate(self, table):
        with pytest.raises(ConfigError, match="must be at least 2"):
            po.evaluate(target(table, ["x"]), table, num_samples=1)

    @pytest.mark.parametrize(
        "warp",
        [
            {"temperature": 0.0},
            {"temperature": math.inf},
            {"top_k": -1},
            {"top_p": 0.0},
            {"top_p": 1.5},
            {"min_new_tokens": -1},
        ],
    )
    def test_of_a_warp(self, gpt2, warp):
        with pytest.raises(ConfigError, match=next(iter(warp))):
            gpt2.warped(**warp)

    def test_to_resume_without_a_directory(self, table):
        with pytest.raises(ConfigError, match="needs the run's output_dir"):
            po.fit(target(table, ["x"]), "rloo", steps=1, resume=True)


class TestPlacesAndKinds:
    """What is written where it cannot be, and values of kinds that look right."""

    @pytest.mark.parametrize("place", ["file", "file/below"])
    def test_models_saved_where_a_file_is(self, tmp_path, case_1, place):
        (tmp_path / "file").write_text("mine")
        table = po.TabularLM.random(["<eos>", "a"], 2, ["p"], seed=0)
        for lm in (case_1.prior(), table):
            with pytest.raises(CheckpointError, match="cannot be written: "):
                lm.save_pretrained(tmp_path / place)
        assert (tmp_path / "file").read_text() == "mine"

    def test_prompts_in_a_folder_that_is_no_data_set(self, tmp_path, monkeypatch):
        monkeypatch.setattr("posteriori.data.formats.saved.MOST_FILES", 3)
        for name in "abcd":
            (tmp_path / f"{name}.bin").write_text("")
        with pytest.raises(DataError, match="more than 3 files, and is taken for no data set"):
            po.prompts(tmp_path)

    def test_prompts_in_a_set(self):
        with pytest.raises(ConfigError, match="prompts is a set, whose order is another one"):
            po.prompts({"a", "b"})
        assert po.prompts({"a": 0, "b": 0}.keys()).prompts == ["a", "b"]

    def test_prompts_with_half_of_a_surrogate_pair(self):
        with pytest.raises(PromptError, match="half of a surrogate pair at character 2; remove it"):
            tiny_lm().encode("a \ud800")

    @pytest.mark.parametrize("read", [po.prompts, po.load, po.Preferences])
    def test_a_home_of_nobody(self, read):
        with pytest.raises(PosterioriError, match="nobody-of-that-name"):
            read("~nobody-of-that-name/a.jsonl")

    def test_numbers_of_numpy_as_settings(self):
        table = po.TabularLM.random(["<eos>", "a"], 2, ["p"], seed=0)
        goal = po.Target(table, po.Reward(flat, beta=1.0), table.prompts, 2)
        settings = {"steps": np.int64(2), "num_samples": np.int32(4), "seed": np.uint8(1)}
        made = po.fit(goal, "rloo", learning_rate=np.float64(0.5), **settings)
        assert len(made.history) == 2
        with pytest.raises(ConfigError, match=r"'steps' = 2\.0 is not valid"):
            po.fit(goal, "rloo", **{**settings, "steps": np.float64(2.0)})

    def test_a_reward_that_empties_its_list_of_completions(self):
        def emptying(completions, **kwargs):
            answers = []
            while completions:
                answers.append(float(len(completions.pop())))
            return answers[::-1]

        table = po.TabularLM.random(["<eos>", "a"], 2, ["p"], seed=0)
        draws = po.sample(po.Target(table, po.Reward(emptying, beta=1.0), table.prompts, 2))
        assert draws.reward_N.tolist() == [len(text) for text in draws.texts]

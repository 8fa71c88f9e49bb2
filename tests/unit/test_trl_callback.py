"""The callback inside TRL's own trainers: exact figures, and a run that does not notice it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers import OracleCase, reward, tiny_lm, word_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import posteriori as po
from posteriori.errors import ConfigError, ModelError
from posteriori.types import Finding

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from posteriori.trl import PosterioriCallback

pytestmark = [
    pytest.mark.moves_rng,
    # Of the trainers, about themselves and what they import.
    pytest.mark.filterwarnings("ignore"),
]

ONE_ERROR = 4.9
"""Standard errors that a normal estimate passes with a chance of 1e-6."""

COMMON = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "seed": 0,
}
ONLINE = {"max_completion_length": 4, "num_generations": 16, "per_device_train_batch_size": 48}


def model_of(case: OracleCase):
    return AutoModelForCausalLM.from_pretrained(case.path)


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def prompts_of(case: OracleCase, repeats: int = 16) -> Dataset:
    return Dataset.from_list([{"prompt": prompt} for prompt in case.prompts] * repeats)


def trainer_of(name: str, case: OracleCase, folder, steps: int, peft=None, **settings):
    """A trainer that goes for the oracle's posterior at beta 0.5."""
    shared = {
        "model": model_of(case),
        "processing_class": AutoTokenizer.from_pretrained(case.path),
        "peft_config": peft,
    }
    arguments = COMMON | {"output_dir": str(folder), "max_steps": steps, "beta": 0.5} | settings
    rates = {"learning_rate": 1e-3} | arguments
    if name == "dpo":
        pairs = [
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            for prompt in case.prompts
            for chosen, rejected in [(" b b", " d"), (" b", " a d"), (" b c", " d d")]
        ]
        config = trl.DPOConfig(per_device_train_batch_size=9, **rates)
        return trl.DPOTrainer(args=config, train_dataset=Dataset.from_list(pairs), **shared)
    if name == "online_dpo":
        config = OnlineDPOConfig(max_new_tokens=4, per_device_train_batch_size=6, **rates)
        return OnlineDPOTrainer(
            args=config, reward_funcs=by_text, train_dataset=prompts_of(case), **shared
        )
    kind = {
        "grpo": (
            trl.GRPOTrainer,
            trl.GRPOConfig,
            {"scale_rewards": "none", "loss_type": "dr_grpo"},
        ),
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig, {"normalize_advantages": False}),
    }[name]
    config = kind[1](**ONLINE, **kind[2], **rates)
    return kind[0](args=config, reward_funcs=reward, train_dataset=prompts_of(case), **shared)


def by_text(completions, **kwargs):
    """Online DPO tells its reward functions no token ids."""
    return [text.split().count("b") - 0.5 * text.split().count("d") for text in completions]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "peft"),
    [
        ("grpo", False),
        ("rloo", True),
        ("dpo", False),
        ("online_dpo", True),
        pytest.param("grpo", True, marks=SLOW),
        pytest.param("rloo", False, marks=SLOW),
        pytest.param("dpo", True, marks=SLOW),
        pytest.param("online_dpo", False, marks=SLOW),
    ],
)
def test_a_run_is_the_same_with_and_without_it(name, peft, case_1, tmp_path):
    def run(watched: bool):
        torch.manual_seed(0)
        trainer = trainer_of(name, case_1, tmp_path / str(watched), 3, lora() if peft else None)
        callback = None
        if watched:
            callback = PosterioriCallback(trainer, case_1.target(), every=1, num_samples=32)
            trainer.add_callback(callback)
        trainer.train()
        state = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        flags = [p.requires_grad for p in trainer.model.parameters()]
        mode = [module.training for module in trainer.model.modules()]
        return state, (flags, mode), trainer.state.log_history, callback

    plain, how_plain, log_plain, _ = run(False)
    watched, how_watched, log_watched, callback = run(True)
    assert all(torch.equal(value, watched[n]) for n, value in plain.items())
    assert how_plain == how_watched
    start = dict(
        trainer_of(name, case_1, tmp_path, 1, lora() if peft else None).model.named_parameters()
    )
    assert any(not torch.equal(start[n], value) for n, value in plain.items()), "it has trained"
    # The trainer's own lines are as they were, and the callback's are beside them.
    assert sorted(callback.reports) == [0, 1, 2, 3]
    own = [line for line in log_watched if not any(k.startswith("posteriori/") for k in line)]
    timing = ("time", "runtime", "per_second")
    for a, b in zip(log_plain, own, strict=True):
        assert {k: v for k, v in a.items() if not any(t in k for t in timing)} == {
            k: v for k, v in b.items() if not any(t in k for t in timing)
        }
    told = [line for line in log_watched if "posteriori/kl_to_target" in line]
    assert [line["step"] for line in told] == [0, 1, 2, 3]
    for line in told:
        assert line["posteriori/elbo"] == callback.reports[line["step"]]["elbo"].value


def exact_of(target: po.Target, trainer) -> dict[str, float]:
    """The mean over prompts of the true figures of a trainer's model, by enumeration."""
    mode = trainer.model.training
    policy = po.CausalLM(trainer.model, trainer.processing_class)
    figures = po.exact(target).evaluate(policy)
    trainer.model.train(mode)
    return {name: float(np.mean(figures[name])) for name in ("kl_to_target", "kl_to_prior")}


def within_errors(report: po.Report, truth: dict[str, float]) -> None:
    for name, value in truth.items():
        assert abs(report[name].value - value) < ONE_ERROR * report[name].standard_error + 1e-5


def test_the_figures_of_a_short_run_are_the_exact_ones(case_1, tmp_path):
    target = case_1.target(0.5)
    trainer = trainer_of("grpo", case_1, tmp_path, 3)
    callback = PosterioriCallback(trainer, target, every=3, num_samples=1000)
    trainer.add_callback(callback)
    start = exact_of(target, trainer)
    trainer.train()
    assert sorted(callback.reports) == [0, 3]
    assert start["kl_to_prior"] < 1e-6
    within_errors(callback.reports[0], start)
    within_errors(callback.reports[3], exact_of(target, trainer))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_where_a_whole_run_ends(name, case_1, tmp_path):
    """GRPO stalls a tenth of a nat from the optimum of its own objective, and nothing in it can
    tell; RLOO gets there. The callback's distance is the true one within its error."""
    target = case_1.target(0.5)
    trainer = trainer_of(name, case_1, tmp_path, 400, logging_steps=400)
    callback = PosterioriCallback(trainer, target, every=200, num_samples=2000)
    trainer.add_callback(callback)
    trainer.train()
    truth = exact_of(target, trainer)
    report = callback.reports[400]
    print(name, truth, {key: str(report[key]) for key in ("kl_to_target", "kl_to_prior")})
    within_errors(report, truth)
    assert (truth["kl_to_target"] > 0.05) == (name == "grpo")
    assert (report["kl_to_target"].value > 0.05) == (name == "grpo")


class TestRefused:
    @pytest.fixture
    def trainer(self, case_1, tmp_path):
        return trainer_of("grpo", case_1, tmp_path, 3)

    def test_settings(self, trainer, case_1):
        for settings in ({"every": 0}, {"num_samples": 1}, {"on_finding": "shout"}):
            with pytest.raises(ConfigError, match=str(next(iter(settings.values())))):
                PosterioriCallback(trainer, case_1.target(), **settings)

    def test_the_model_that_is_trained_as_the_prior(self, trainer, case_1):
        prior = po.CausalLM(trainer.model, trainer.processing_class)
        with pytest.raises(ModelError, match="would move with it"):
            PosterioriCallback(trainer, case_1.target(prior=prior))

    def test_other_tokens(self, trainer):
        words = ("<eos>", "v", "w", "x", "y", "z")
        prior = tiny_lm(tokenizer=word_tokenizer(words=words))
        target = po.Target(prior, po.Reward(by_text, beta=1.0), ["v"], 4)
        with pytest.raises(ModelError, match="tokens of the trainer's model are not those"):
            PosterioriCallback(trainer, target)

    def test_a_table(self, trainer, table):
        target = po.Target(table, po.Reward(by_text, beta=1.0), table.prompts, 3)
        with pytest.raises(ModelError, match="the prior is a TabularLM"):
            PosterioriCallback(trainer, target)

    def test_a_sharded_model(self, trainer, case_1, monkeypatch):
        monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
        with pytest.raises(ConfigError, match=r"sharded \(FSDP or DeepSpeed\)"):
            PosterioriCallback(trainer, case_1.target())


def test_a_run_that_goes_wrong_is_stopped(case_1, tmp_path, capsys, monkeypatch):
    wrong = Finding("stop", "diverging", "It is rising.")
    monkeypatch.setattr("posteriori.trl.alarms", lambda lines: [wrong] * (len(lines) > 2))
    for on_finding, steps, said in (("stop", 4, 1), ("warn", 6, 1)):
        trainer = trainer_of("rloo", case_1, tmp_path, 6, logging_strategy="no")
        callback = PosterioriCallback(
            trainer, case_1.target(), every=2, num_samples=8, on_finding=on_finding
        )
        trainer.add_callback(callback)
        capsys.readouterr()
        trainer.train()
        assert trainer.state.global_step == max(callback.reports) == steps
        assert capsys.readouterr().err.count("[stop] It is rising.") == said

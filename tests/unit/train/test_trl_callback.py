"""The callback inside TRL's own trainers: exact figures, and a run that does not notice it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_lm, word_tokenizer
from transformers import TrainerCallback
from trl_trainers import BETA, QUIETLY, by_text, lora, trainer_of

import posteriori as po
from posteriori.core.types import Cost, Estimate, Finding
from posteriori.diagnostics.evaluate.evaluate import Report
from posteriori.errors import ConfigError, ModelError
from posteriori.train.monitor.evaluator import trusted
from posteriori.trl import PosterioriCallback

pytestmark = QUIETLY

SURE = 6.5
"""Standard errors that one of 16 normal estimates passes with a chance of 1e-9, and of 1e-6 if
their errors are a sixth too small, as those of 1000 draws may be."""

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
        for figure in ("elbo", "wasted_nats"):
            estimate = callback.reports[line["step"]][figure]
            assert line[f"posteriori/{figure}"] == estimate.value
            assert line[f"posteriori/{figure}_se"] == estimate.standard_error
            assert line[f"posteriori/{figure}_trusted"] == trusted(
                callback.reports[line["step"]], figure
            )


def exact_of(target: po.Target, trainer) -> dict[str, float]:
    """The mean over prompts of the true figures of a trainer's model, by enumeration."""
    modes = [(module, module.training) for module in trainer.model.modules()]
    policy = po.CausalLM(trainer.model, trainer.processing_class)
    figures = po.exact(target).evaluate(policy)
    for module, mode in modes:
        module.training = mode
    return {name: float(np.mean(figures[name])) for name in CHECKED}


def z_score(report: po.Report, name: str, truth: float) -> float:
    """How many standard errors a figure is from the truth; of 1/beta, as that is what is found."""
    found, error = report[name].value, report[name].standard_error
    if name == "effective_beta":
        found, truth, error = 1 / found, 1 / truth, error / found**2
    return abs(found - truth) / error


CHECKED = ("kl_to_target", "kl_to_prior", "wasted_nats", "effective_beta")


class Enumeration(TrainerCallback):
    """The true figures of the trainer's model after each step, where the run is."""

    def __init__(self, target: po.Target, trainer) -> None:
        self.target, self.trainer = target, trainer
        self.found: dict[int, dict[str, float]] = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.found[state.global_step] = exact_of(self.target, self.trainer)


def test_figures_on_the_way_are_the_exact_ones(case_1, tmp_path):
    """Each of the four figures at four steps of a fast run of GRPO, against enumeration there."""
    target = case_1.target(BETA)
    fast = {"learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    trainer = trainer_of("grpo", case_1, tmp_path, 4, **fast)
    truth = Enumeration(target, trainer)
    callback = PosterioriCallback(trainer, target, every=1, num_samples=1000)
    trainer.add_callback(truth)
    trainer.add_callback(callback)
    trainer.train()
    assert sorted(callback.reports) == [0, *truth.found] == [0, 1, 2, 3, 4]
    start = callback.reports[0]
    assert all(abs(start[name].value) < 1e-5 for name in ("kl_to_prior", "wasted_nats"))
    for step, exact in truth.found.items():
        for name, value in exact.items():
            assert z_score(callback.reports[step], name, value) < SURE, (step, name)
    # Errors this small tell one step from the next, and waste from the distance to the target.
    early, late = truth.found[1], truth.found[2]
    assert z_score(callback.reports[2], "effective_beta", early["effective_beta"]) > SURE
    assert z_score(callback.reports[2], "wasted_nats", early["wasted_nats"]) > SURE
    assert z_score(callback.reports[2], "wasted_nats", late["kl_to_target"]) > SURE
    assert late["effective_beta"] > 1.5 * BETA


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
    assert all(z_score(report, name, truth[name]) < SURE for name in CHECKED)
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
    monkeypatch.setattr(
        "posteriori.trl.stopping_findings", lambda lines: [wrong] * (len(lines) > 2)
    )
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


def test_what_is_not_to_be_trusted_is_marked():
    """1 or 0 beside each figure, by the findings of the report that speak of it."""
    weights = Finding("warn", "weights_not_trusted", "A few draws carry them.")
    estimate = Estimate(1.0, 0.1, "consistent", 10)
    report = Report(
        {
            "kl_to_target": estimate,
            "entropy": estimate,
            "wasted_nats": replace(estimate, standard_error=math.nan),
            "elbo": replace(estimate, findings=(weights,)),
        },
        [weights],
        None,
        Cost(),
    )
    marks = {name: trusted(report, name) for name in report}
    assert marks == {"kl_to_target": False, "entropy": True, "wasted_nats": False, "elbo": False}

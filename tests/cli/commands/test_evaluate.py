"""`posteriori evaluate`: any policies, side by side."""

from __future__ import annotations

import json

import pytest
from helpers import tiny_lm, word_tokenizer

from posteriori.models.causal import CausalLM


def test_the_runs_own_policy_by_default(job):
    assert job.fit("--quiet").code == 0
    result = job.evaluate("--json", "--quiet")
    assert list(result.json["policies"]) == ["prior", "policy"]
    # The same policy, draws and seed as after the fit: the same figures, but for rounding.
    after_fit = json.loads((job.output / "evaluation.json").read_text())["policies"]["rloo"]
    for name, figure in result.json["policies"]["policy"]["figures"].items():
        if isinstance(figure["value"], float):
            assert figure["value"] == pytest.approx(after_fit["figures"][name]["value"], rel=1e-4)


def test_several_side_by_side_with_draws_and_seed_of_choice(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    tiny_lm("gpt2", seed=1).save_pretrained(job.folder / "other")
    result = job.evaluate("model", "other", "--num-samples", "30", "--seed", "7", "--json")
    assert result.code == 0, result.err
    assert result.json["num_samples"] == 30
    assert result.json["seed"] == 7
    policies = result.json["policies"]
    assert list(policies) == ["prior", "model", "other"]
    assert policies["other"]["figures"]["kl_to_prior"]["num_draws"] == 60
    # All are judged by the prior's draws that one alone is judged by.
    alone = job.evaluate("other", "--num-samples", "30", "--seed", "7", "--json").json["policies"]
    assert alone["other"]["figures"] == policies["other"]["figures"]
    text = job.evaluate("model", "other", "--quiet").out
    assert text.splitlines()[1].split() == ["prior", "model", "other"]


def test_the_main_figures_and_all_of_them(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    short = job.evaluate("model", "--quiet").out
    long = job.evaluate("model", "--quiet", "--all").out
    for label in ("KL to target, nats", "wasted, nats", "effective beta", "log Z, nats"):
        assert label in short
        assert label in long
    for label in ("self-BLEU", "reward, median", "perplexity under prior", "total variation"):
        assert label not in short
        assert label in long
    figures = job.evaluate("model", "--json", "--quiet").json["policies"]["model"]["figures"]
    assert {"self_bleu", "reward_q50", "wasted_nats", "effective_beta"} <= set(figures)
    # It is the prior, saved: nothing is wasted, and no beta is as weak.
    assert figures["effective_beta"]["value"] == "inf"


def test_a_finding_of_level_stop_is_exit_code_one(job):
    job.change('kind = "reward"', 'kind = "constraint"')
    job.change("my_reward.py:score", "my_reward.py:never")
    job.change("beta = 0.5\n", "")
    result = job.evaluate(str(job.folder / "model"), "--quiet", "--json")
    assert result.code == 1
    levels = [f["level"] for f in result.json["policies"]["prior"]["findings"]]
    assert "stop" in levels


def test_a_trainers_output_directory_names_its_newest_checkpoint(job, nothing_loads):
    for step in (50, 400, 100):
        (job.folder / "trained" / f"checkpoint-{step}").mkdir(parents=True)
    (job.folder / "trained" / "checkpoint-best").mkdir()
    error = job.evaluate(str(job.folder / "trained")).error
    assert "holds no model" in error
    assert f"the newest '{job.folder}/trained/checkpoint-400': give one of them" in error


def test_exact_draws_give_both_sides(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    job.change("beta = 0.5", "beta = 0.5\nmax_reward = 3")
    result = job.evaluate("model", "--num-samples", "30", "--posterior", "20", "--json", "--quiet")
    assert result.code == 0, result.err
    assert result.json["posterior"] == 20
    policy = result.json["policies"]["model"]
    assert policy["figures"]["log_z_upper"]["kind"] == "upper_bound"
    for name in ("log_z", "kl_to_target", "kl_from_target"):
        low, high = policy["intervals"][name]
        assert low <= policy["figures"][name]["value"] <= high
    text = job.evaluate("model", "--set", "evaluate.posterior=20", "--quiet").out
    assert "model: 95% intervals: log Z, nats: " in text


def test_exact_draws_need_a_bound(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    result = job.evaluate("model", "--posterior", "20", "--quiet")
    assert result.code == 2
    assert "no bound is known on the evidence" in result.error
    job.change(
        'kind = "reward"\nfunction = "my_reward.py:score"\nbeta = 0.5',
        'kind = "constraint"\nfunction = "my_reward.py:never"\nmax_reward = 1',
    )
    assert "a constraint has no 'max_reward'" in job.evaluate("model").error


def test_an_adapter_is_a_policy(job):
    job.change("learning_rate = 1e-2", 'learning_rate = 1e-2\npolicy = "lora"')
    assert job.fit("--quiet").code == 0
    assert job.evaluate("--quiet").code == 0


def test_no_policy_yet(job, nothing_loads):
    result = job.evaluate()
    assert result.code == 2
    assert result.error == (
        f"{job.config}: there is no policy at '{job.output}/policy'; run `posteriori fit` first, "
        "or name the policies on the command line"
    )


def test_a_policy_that_is_not_there(job, nothing_loads):
    result = job.evaluate("./nowhere")
    assert result.code == 2
    assert result.error.startswith("POLICY: there is no model at '")


def test_a_policy_with_other_tokens_is_refused(job):
    other = tiny_lm("gpt2")
    other.tokenizer = word_tokenizer(words=("<eos>", "a", "b", "c", "d", "f"))
    other.save_pretrained(job.folder / "other")
    result = job.evaluate(str(job.folder / "other"), "--quiet")
    assert result.code == 2
    assert "are not those of the prior" in result.error


@pytest.mark.parametrize("settings", [("--num-samples", "1"), ("--seed", "-1")])
def test_numbers_out_of_range(job, nothing_loads, settings):
    result = job.evaluate(*settings)
    assert result.code == 2
    assert f"Invalid value for '{settings[0]}'" in result.error


def test_a_config_without_fit_is_enough(job):
    text = job.config.read_text()
    job.write("run.toml", text.replace(text[text.index("[fit]") : text.index("[evaluate]")], ""))
    assert job.evaluate(str(job.folder / "model"), "--quiet").code == 0


def without_times(evaluation):
    for report in evaluation["policies"].values():
        del report["cost"]["seconds"]
    return evaluation


def test_what_is_finished_is_not_done_again(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    tiny_lm("gpt2", seed=1).save_pretrained(job.folder / "other")
    arguments = ("model", "other", "--json", "--quiet")
    plain = without_times(job.evaluate(*arguments).json)
    drawn, whole = [], CausalLM.sample

    def counted(self, *rest):
        if len(drawn) == stop_at:
            raise KeyboardInterrupt
        drawn.append(len(rest[0]))
        return whole(self, *rest)

    monkeypatch.setattr(CausalLM, "sample", counted)
    stop_at = 2
    stopped = job.evaluate(*arguments)
    assert stopped.code == 130
    assert stopped.error == "interrupted; what is finished is kept: go on from it with --resume"
    assert "go on from there (--resume" in job.evaluate(*arguments).error
    assert "num_samples" in job.evaluate(*arguments, "--num-samples", "30", "--resume").error
    drawn.clear()
    stop_at = None
    result = job.evaluate(*arguments, "--resume")
    assert not result.err, result.err
    resumed = without_times(result.json)
    assert len(drawn) == 2
    drawn.clear()
    assert without_times(job.evaluate(*arguments).json) == resumed
    assert len(drawn) == 4
    assert resumed == plain
    assert not list(job.folder.rglob("*.unfinished"))


def test_until_a_figure_is_known(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    args = ("model", "--num-samples", "50", "--until", "0.2", "--quiet")
    looked = job.evaluate(*args, "--json").json["policies"]["prior"]["looked"]["kl_to_target"]
    assert looked["reached"]
    assert looked["half_width"] <= 0.2
    assert looked["draws"][0] == 50
    text = job.evaluate(*args).out
    assert "at the first look" in text
    assert "prior: kl_to_target:" in text.replace("\n", " ")
    by_file = job.evaluate(
        *args[:3], "--set", "evaluate.until={elbo=0.3}", "--json", "--quiet"
    ).json
    assert list(by_file["policies"]["prior"]["looked"]) == ["elbo"]
    assert by_file["until"] == {"elbo": 0.3}


def test_what_cannot_be_waited_for(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    for args, message in (
        (("--until", "-1"), "must be a positive number"),
        (("--max-samples", "100"), "give --until beside it"),
        (("--set", "evaluate.max_samples=100"), "'max_samples' has no effect"),
        (("--set", "evaluate.until={tv=0.1}"), "cannot wait for 'tv'"),
    ):
        result = job.evaluate("model", *args)
        assert result.code == 2
        assert message in " ".join(result.err.split())

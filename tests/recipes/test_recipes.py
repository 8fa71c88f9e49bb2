"""Every recipe's targets are what its README says, and its command runs, at the size of a test."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

import posteriori as po
from posteriori.cli.main import run

pytestmark = pytest.mark.long

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.glob("*/*.toml"))
AFTER_OTHERS = {
    "dpo/run.toml",
    "sparrow/run.toml",
    "instructgpt/run.toml",
    "helpful_harmless/run.toml",
}
"""They read what an earlier command of their recipe writes: their own tests run both."""


def test_every_recipe_is_listed_with_its_command():
    listed = (RECIPES / "README.md").read_text()
    for folder in sorted(path for path in RECIPES.iterdir() if path.is_dir()):
        assert f"({folder.name}/README.md)" in listed
        assert f" recipes/{folder.name}/" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in AFTER_OTHERS])
def test_every_run_file_is_checked(name, tmp_path, capsys):
    """Those without a table of fit are refused for that alone."""
    elsewhere = f"output_dir={json.dumps(str(tmp_path / 'run'))}"
    code = run(["fit", str(RECIPES / name), "--dry-run", "--set", elsewhere])
    trains = "[fit]" in (RECIPES / name).read_text()
    assert code == (0 if trains else 2)
    assert trains or "'fit' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pointwise", "distributional", "hybrid"])
def test_gdc_asks_for_what_it_says(kind):
    """On weighted draws of 1,500 per prompt: each one that counts keeps the constraint, and the
    share of "she" is 0.5 within 5.5 standard errors of draws and lambda (a false alarm in 10^7)."""
    smaller = [] if kind == "pointwise" else [f"evidence.{kind == 'hybrid':d}.num_samples=1500"]
    target = po.load_target(RECIPES / "gdc" / f"{kind}.toml", smaller)
    draws = po.sample(target, "importance", 1500, seed=5)
    features = _module("gdc", "features")
    counts = draws.log_weight > -math.inf
    gendered = features.gendered(draws.texts)
    if kind != "distributional":
        assert all(says for says, weighs in zip(gendered, counts.tolist(), strict=True) if weighs)
    if kind == "pointwise":
        share = sum(features.she(draws.texts)) / len(draws)
        assert 0.05 < share < 0.2
        return
    (met,) = target.means_met(draws)
    error = math.hypot(met.attained.standard_error, 0.25 * met.lambda_.standard_error)
    assert abs(met.attained.value - 0.5) < 5.5 * error
    assert error < 0.05


def test_gdc_trains_towards_it(tmp_path, capsys):
    """Five steps: the run is kept, with the mean that was wanted and what prior and policy have."""
    settings = {
        "output_dir": json.dumps(str(tmp_path / "run")),
        "evidence.0.num_samples": "500",
        "fit.steps": "5",
        "fit.num_samples": "24",
        "evaluate.num_samples": "200",
    }
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert run(["fit", str(RECIPES / "gdc" / "distributional.toml"), "--quiet", *given]) == 0
    assert "0.5 wanted" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").is_file()


def test_json_is_what_the_schema_allows(tmp_path, capsys):
    config = RECIPES / "constrained_json" / "run.toml"
    out = tmp_path / "draws.jsonl"
    assert run(["sample", str(config), "-o", str(out), "--num-samples", "8", "--quiet"]) in (0, 1)
    assert "log Z" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    counting = [row for row in rows if row["weight"]]
    assert counting
    for row in counting:
        review = json.loads(row["completion"])
        assert set(review) == {"sure", "stars"}
        assert isinstance(review["sure"], bool)
        assert review["stars"] in range(1, 6)


def test_dpo_learns_what_the_simulated_people_like(tmp_path, capsys):
    """Three passes over four pairs a prompt, judged by those of seven: labels follow what is liked,
    pairs that are trained on come right, and the run says how many others do."""
    pairs = tmp_path / "pairs.jsonl"
    people, config = (str(RECIPES / "dpo" / f"{name}.toml") for name in ("people", "run"))
    sizes = ["--num-pairs", "144", "--scale", "0.25", "--quiet"]
    assert run(["simulate-preferences", people, "-o", str(pairs), *sizes]) == 0
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert len(rows) == 144
    differ = [row for row in rows if row["chosen_utility"] != row["rejected_utility"]]
    # Each is wrong with a probability of at most sigmoid(-4) = 0.018: more than a quarter of the
    # twenty or more would be, by chance, once in 10^6 data sets.
    assert len(differ) >= 20
    wrong = sum(row["chosen_utility"] < row["rejected_utility"] for row in differ)
    assert wrong <= len(differ) / 4
    settings = {
        "output_dir": json.dumps(str(tmp_path / "run")),
        "fit.objective_settings.pairs": json.dumps(str(pairs)),
        "fit.objective_settings.pairs_per_step": "29",
        "fit.steps": "12",
        "evaluate.num_samples": "20",
        "evaluate.max_prompts": "4",
    }
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert run(["fit", config, "--quiet", *given]) == 0
    assert "of 28 held-out pairs" in " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["pairs"]
    assert told["held_out"]
    assert told["num_pairs"] == 28
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    accuracy = [json.loads(line)["accuracy"] for line in metrics]
    # The first four steps are of new pairs, the last four see them for the third time.
    assert sum(accuracy[-4:]) > sum(accuracy[:4])


def test_distil_nears_its_teacher(tmp_path):
    """The target is the teacher: log Z is 0, so KL(policy, teacher) is -ELBO, and ten steps on two
    of the prompts bring it down beyond its error."""
    config = RECIPES / "distil" / "run.toml"
    two = 'prompts=["My boss is", "You are"]'
    target = po.load_target(config, [two])
    before = po.evaluate(target, target.prior, num_samples=400)
    # Within 6 errors of draws (a false alarm in 10^8), and the bias of a logarithm.
    assert abs(before["log_z"].value) < 6 * before["log_z"].standard_error + 0.05
    settings = {
        "output_dir": json.dumps(str(tmp_path / "run")),
        "fit.steps": "10",
        "evaluate.num_samples": "20",
    }
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert run(["fit", str(config), "--quiet", "--set", two, *given]) == 0
    after = po.evaluate(target, tmp_path / "run" / "policy", num_samples=400)["elbo"]
    gain = after.value - before["elbo"].value
    assert gain > 2 * math.hypot(after.standard_error, before["elbo"].standard_error)
    assert after.value < 6 * after.standard_error


def test_detoxify_trains_towards_inoffensive_text(tmp_path, capsys):
    """Its reward is minus a probability, lower for an insult; weighted draws have more of it than
    the prior's own, and two steps leave a run with its report."""
    inoffensive = _module("detoxify", "reward").inoffensive
    insult, greeting = inoffensive(["you are a fucking idiot", "have a nice day"])
    assert -1 <= insult < -0.8
    assert -0.2 < greeting <= 0
    config = RECIPES / "detoxify" / "run.toml"
    draws = po.sample(po.load_target(config), "importance", 100, seed=3)
    rewards = torch.tensor(inoffensive(draws.texts)).view(3, 100)
    weights = draws.log_weight.float().view(3, 100).softmax(1)
    assert ((weights * rewards).sum(1) > rewards.mean(1)).all()
    _fit(config, tmp_path, "fit.steps=2", "fit.num_samples=8", "evaluate.num_samples=60")
    assert "KL to target" in capsys.readouterr().out


def test_reasoning_says_pass_at_k_of_prior_policy_and_target(tmp_path, capsys):
    correct = _module("reasoning", "verifier").correct
    texts = [" 3, or 4", " 13", " three", " 4 not 3"]
    assert correct(texts, answer=["3"] * 4) == [True, False, None, False]
    config = RECIPES / "reasoning" / "run.toml"
    _fit(config, tmp_path, "fit.steps=8", "fit.num_samples=32", "evaluate.num_samples=60")
    capsys.readouterr()
    policy = ["--policy", str(tmp_path / "run" / "policy"), "--num-samples", "150"]
    measured = [str(config), *policy, "--set", "max_new_tokens=2"]
    assert _module("reasoning", "pass_at_k").main(measured) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["prior", "policy", "target"]
    assert all("pass@16" in line for line in lines)
    prior, policy_, target = [float(line.split("pass@1 ")[1].split()[0]) for line in lines]
    assert 0 < prior < policy_ < target == 1


def test_sparrow_keeps_rules_that_it_has_learned_from_labels(tmp_path, capsys):
    """Pairs, labels, a preference model, two rules, their product with the prior, and the count of
    what prior and policy break."""
    folder, made = RECIPES / "sparrow", _made(tmp_path)
    people, config = str(folder / "people.toml"), str(folder / "run.toml")
    pairs = ["--num-pairs", "160", "--scale", "0.2", "--quiet"]
    assert run(["simulate-preferences", people, "-o", made("pairs.jsonl"), *pairs]) == 0
    assert _script("sparrow", "label").main([made("labels.jsonl"), "--num-samples", "40"]) == 0
    labels = [json.loads(line) for line in Path(made("labels.jsonl")).read_text().splitlines()]
    broken = [row["violated"] for row in labels if row["rule"] == "no insults"]
    assert 0 < sum(broken) < len(broken) / 2
    reward = ["--pairs", made("pairs.jsonl"), "-o", made("reward"), "--quiet"]
    assert run(["reward", config, *reward, "--set", "reward.epochs=1"]) in (0, 1)
    rules = ["--labels", made("labels.jsonl"), "-o", made("rules"), "--quiet"]
    assert run(["rules", config, *rules, "--set", "rules.epochs=1"]) in (0, 1)
    capsys.readouterr()
    places = [
        f"evidence.0.model={json.dumps(made('rules'))}",
        f"evidence.1.model={json.dumps(made('reward'))}",
    ]
    sizes = ["fit.steps=3", "fit.num_samples=8", "evaluate.num_samples=40"]
    _fit(folder / "run.toml", tmp_path, *places, *sizes)
    policy = str(tmp_path / "run" / "policy")
    capsys.readouterr()
    assert _script("sparrow", "judge").main([policy, "--num-samples", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "no insults",
        "not of itself",
        "any rule",
        "taste",
    ]


def test_instructgpt_goes_through_its_stages(tmp_path, capsys):
    """Demonstrations are the best of four; sft nears them; PPO starts as it; each stage's nats are
    accounted for."""
    folder, made = RECIPES / "instructgpt", _made(tmp_path)
    people, config = str(folder / "people.toml"), str(folder / "run.toml")
    few = ["--num-samples", "40", "--quiet"]
    assert run(["sample", people, "-o", made("demonstrations.jsonl"), *few]) in (0, 1)
    free = ["--set", "evidence=[]", "--set", "sample.settings={}", "--sampler", "importance"]
    assert run(["sample", people, "-o", made("pretraining.jsonl"), *few, *free]) in (0, 1)
    pairs = ["--num-pairs", "120", "--scale", "0.2", "--quiet"]
    assert run(["simulate-preferences", people, "-o", made("pairs.jsonl"), *pairs]) == 0
    given = ["--data", made("demonstrations.jsonl"), "-o", made("sft"), "--quiet"]
    assert run(["sft", config, *given]) == 0
    likelihood = json.loads((tmp_path / "sft" / "likelihood.json").read_text())
    assert likelihood["after"]["value"] < likelihood["before"]["value"]
    base = made("sft/policy")
    reward = ["--pairs", made("pairs.jsonl"), "-o", made("reward"), "--model", base, "--quiet"]
    assert run(["reward", config, *reward, "--set", "reward.epochs=1"]) in (0, 1)
    settings = {
        "prior.path": base,
        "evidence.0.model": made("reward"),
        "fit.ptx.data": made("pretraining.jsonl"),
    }
    places = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    sizes = ["fit.steps=2", "fit.num_samples=8", "evaluate.num_samples=40"]
    _fit(folder / "run.toml", tmp_path, *places, *sizes)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["ptx_loss"] > 0 for line in metrics)
    capsys.readouterr()
    stages = _script("instructgpt", "stages")
    assert stages.main([base, str(tmp_path / "run" / "policy"), "--num-samples", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["base", "sft", "rl"]


def test_helpful_harmless_trades_one_for_the_other(tmp_path, capsys):
    """At one KL, from all weight on harmlessness to all weight on help, by the models themselves;
    every point of the trade has the KL that was asked for."""
    folder, made = RECIPES / "helpful_harmless", _made(tmp_path)
    people, config = str(folder / "people.toml"), str(folder / "run.toml")
    for name in ("helpful", "harmless"):
        asked = ["--set", f'evidence.0.function="people.py:{name}"', "--num-pairs", "160"]
        pairs = ["-o", made(f"{name}.jsonl"), "--scale", "0.2", "--quiet"]
        assert run(["simulate-preferences", people, *pairs, *asked]) == 0
        given = ["--pairs", made(f"{name}.jsonl"), "-o", made(f"{name}-model"), "--quiet"]
        assert run(["reward", config, *given, "--set", "reward.epochs=1"]) in (0, 1)
    places = [
        f"evidence.{at}.model={json.dumps(made(f'{name}-model'))}"
        for at, name in enumerate(("helpful", "harmless"))
    ]
    sizes = ["fit.steps=2", "fit.num_samples=8", "evaluate.num_samples=40"]
    _fit(folder / "run.toml", tmp_path, *places, *sizes)
    capsys.readouterr()
    given = [part for each in places for part in ("--set", each)]
    policy = ["--policy", str(tmp_path / "run" / "policy"), "--num-samples", "100", "--kl", "0.3"]
    assert _script("helpful_harmless", "trade").main([config, *policy, *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    trade = [line for line in lines if line[0].isdigit()]
    assert len(trade) == 5
    assert all(line.split()[-1] == "0.300" for line in trade)


def _made(folder: Path):
    return lambda name: str(folder / name)


def _script(folder: str, name: str):
    """A recipe's script, which imports what lies beside it."""
    beside = [path.stem for path in (RECIPES / folder).glob("*.py")]
    for each in beside:
        sys.modules.pop(each, None)
    sys.path.insert(0, str(RECIPES / folder))
    try:
        return _module(folder, name)
    finally:
        sys.path.remove(str(RECIPES / folder))
        for each in beside:
            sys.modules.pop(each, None)


def _fit(config: Path, folder: Path, *settings: str) -> None:
    elsewhere = f"output_dir={json.dumps(str(folder / 'run'))}"
    given = [part for each in (elsewhere, *settings) for part in ("--set", each)]
    assert run(["fit", str(config), "--quiet", *given]) in (0, 1)
    assert (folder / "run" / "report.html").is_file()


def _module(folder: str, name: str):
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, RECIPES / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop(name, None)
    return module

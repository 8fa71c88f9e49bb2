"""The paper's claims hold, at the size at which the experiments run in seconds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
QUICK = {
    "reward_alone_collapses": 1,
    "kl_rl_ends_at_the_posterior": 250,
    "the_objective_is_the_elbo": 100,
    "gdc_does_not_collapse": 300,
    "dpo_meets_the_same_posterior": 350,
    "the_limits_of_beta": 12,
    "best_of_n_sits_where_its_formula_says": 4,
    "preferences_recover": 2,
    "over_optimisation": 4,
    "social_bias": 40,
    "the_frontier_is_where_training_ends": 8,
    "kl_budget_is_kept": 0,
    "gain_is_beta_jeffreys": 60,
    "the_order_of_f_divergences": 2,
    "alpha_from_precision_to_coverage": 4,
    "over_optimisation_is_foretold": 3,
    "power_beats_low_temperature": 1500,
    "forgetting_follows_kl": 12,
    "matching_beats_maximising": 300,
}

SLOW = {"social_bias"}
"""Half a minute, small as it is."""


def load(name: str, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    sys.modules.pop("common", None)  # benchmarks have one as well
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    sys.modules.pop("common", None)
    return module


def test_every_experiment_is_run_here():
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == {*QUICK, "common"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.slow] if each in SLOW else []) for each in QUICK],
)
def test_the_claim_holds(name, monkeypatch, tmp_path):
    verdict = load(name, monkeypatch).run(QUICK[name])
    assert verdict.holds, str(verdict)
    verdict.figure.savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 5000

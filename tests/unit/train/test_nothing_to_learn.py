"""A run whose evidence tells no two draws apart says so, before the first update and after."""

from __future__ import annotations

import pytest
from helpers import WORDS

import posteriori as po

A = 1


def constant(completions, **kwargs):
    return [0.0] * len(completions)


def not_at_all(completions, **kwargs):
    return [None] * len(completions)


def by_prompt(prompts, **kwargs):
    return [float(len(str(prompt))) for prompt in prompts]


def number_of_a(completion_ids, **kwargs):
    return [float(y.count(A)) for y in completion_ids]


def never(completions, **kwargs):
    return [False] * len(completions)


def always(completions, **kwargs):
    return [True] * len(completions)


def target_of(*evidence) -> po.Target:
    lm = po.TabularLM.random(WORDS[:4], 3, ("x", "yy"), seed=1)
    return po.Target(lm, list(evidence), lm.prompts, 3)


def run(target, objective="rloo", steps=4, num_samples=8, **settings):
    notes: list[str] = []
    fitted = po.fit(
        target,
        objective,
        steps=steps,
        num_samples=num_samples,
        learning_rate=0.05,
        on_note=notes.append,
        **settings,
    )
    return fitted, notes


CONSTANT = {
    "zero": po.Reward(constant, beta=1.0),
    "none": po.Reward(not_at_all, beta=1.0),
    "by prompt": po.Reward(by_prompt, beta=1.0),
    "always true": po.Constraint(always),
    "several": po.Reward([constant, not_at_all, by_prompt], beta=1.0),
}


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize("objective", ["rloo", "grpo", "dpg", "rwr", "soft_q"])
def test_evidence_without_a_difference_is_told(name, objective):
    fitted, notes = run(target_of(CONSTANT[name]), objective, steps=10)
    assert "[warn] All 16 draws so far have the same evidence" in notes[0], "before any update"
    (finding,) = [each for each in fitted.findings if each.level == "stop"]
    assert "[stop]" in notes[1], "after ten steps"
    assert finding.name == "nothing_to_learn"
    assert finding.hint
    assert ("differs between prompts" in finding.message) == (name in ("by prompt", "several"))


@pytest.mark.parametrize("objective", ["dpg", "fdpg", "rwr", "raft"])
def test_evidence_that_no_draw_meets_is_told(objective):
    fitted, notes = run(target_of(po.Constraint(never)), objective, steps=10)
    assert "[warn] None of 16 draws so far meets the evidence" in notes[0]
    assert [each.name for each in fitted.findings] == ["no_draw_meets_the_evidence"]
    assert fitted.findings[0].level == "stop"


def test_one_of_several_rewards_that_is_constant_is_named():
    reward = po.Reward([number_of_a, constant, not_at_all, by_prompt], beta=1.0)
    fitted, _ = run(target_of(reward))
    said = {each.name: each.message for each in fitted.findings}
    assert "was 0 for all 64 completions" in said["reward_constant_constant"]
    assert "returned None for all 64 completions" in said["reward_constant_not_at_all"]
    assert "the same for all completions of a prompt" in said["reward_constant_by_prompt"]
    assert "reward_constant_number_of_a" not in said
    assert all(each.level == "warn" for each in fitted.findings)


def test_a_reward_that_breaks_on_the_way_is_told():
    calls = []

    def breaks(completion_ids, **kwargs):
        calls.append(1)
        return number_of_a(completion_ids) if len(calls) <= 3 else [0.0] * len(completion_ids)

    fitted, notes = run(target_of(po.Reward(breaks, beta=1.0)), steps=15)
    assert "evidence_constant_since" in [each.name for each in fitted.findings]
    assert "Since step 3 all draws of a prompt have the same evidence (a reward of 0)" in notes[0]


def test_a_collapsed_policy_is_not_a_broken_reward():
    """Its draws are the same, and so is their evidence."""
    fitted, _ = run(target_of(po.Reward(number_of_a, beta=1.0)), "rl", steps=40, evaluate_every=0)
    fitted = po.fit(
        fitted.target, "rl", steps=40, num_samples=8, learning_rate=10.0, on_note=lambda _: None
    )
    assert fitted.history[-1]["unique_fraction"] == 1 / 8
    assert "evidence_constant_since" not in [each.name for each in fitted.findings]


def test_prompts_that_teach_nothing_beside_others_are_named():
    def only_x(prompts, completion_ids, **kwargs):
        return [
            float(A in y) if str(p) == "x" else 0.0
            for p, y in zip(prompts, completion_ids, strict=True)
        ]

    fitted, _ = run(target_of(po.Reward(only_x, beta=1.0)), num_samples=16)
    assert [(each.name, each.level) for each in fitted.findings] == [("prompts_all_alike", "info")]
    assert "1 of 2 prompts (such as 'yy')" in fitted.findings[0].message

    def meets(prompts, completion_ids, **kwargs):
        return [each > 0 for each in only_x(prompts, completion_ids)]

    fitted, _ = run(target_of(po.Constraint(meets)), "dpg", num_samples=16)
    assert "prompts_without_evidence" in [each.name for each in fitted.findings]


def test_a_difference_that_comes_late_takes_the_finding_back():
    calls = []

    def late(completion_ids, **kwargs):
        calls.append(1)
        return number_of_a(completion_ids) if len(calls) > 12 else [0.0] * len(completion_ids)

    fitted, notes = run(target_of(po.Reward(late, beta=1.0)), steps=15)
    assert [note[:6] for note in notes] == ["[warn]", "[stop]"], "after the first and tenth step"
    assert fitted.findings == ()


def test_on_finding_stop_ends_the_run():
    fitted, _ = run(
        target_of(po.Reward(constant, beta=1.0)), steps=40, evaluate_every=20, on_finding="stop"
    )
    assert len(fitted.history) == 10
    assert fitted.stopped is not None
    assert fitted.stopped.name == "nothing_to_learn"


def test_a_run_that_learns_says_nothing():
    for objective in ("rloo", "dpg", "raft", "soft_q"):
        fitted, notes = run(target_of(po.Reward(number_of_a, beta=1.0)), objective, num_samples=64)
        assert notes == []
        assert fitted.findings == ()
    pairs = [{"prompt": "x", "chosen": [1, 2, 0], "rejected": [2, 0]}]
    fitted, notes = run(target_of(), "dpo", objective_settings={"pairs": pairs})
    assert notes == [], "of pairs from a file the evidence is not asked"


def test_a_resumed_run_says_what_one_in_one_piece_does(tmp_path):
    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 3:
            raise Stop

    def target():
        return target_of(po.Reward([constant, by_prompt], beta=1.0))

    whole, _ = run(target(), steps=12)
    with pytest.raises(Stop):
        run(target(), steps=12, output_dir=tmp_path, on_step=stop)
    resumed, notes = run(target(), steps=12, output_dir=tmp_path, resume=True)
    assert resumed.findings[-1] == whole.findings[-1]
    assert whole.findings[-1].level == "stop"
    assert not any("[warn] All" in note for note in notes), "that was said before"

"""Maximum likelihood on demonstrations: its gradient, its end, the rows, and what is reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.data.demonstrations import read_demonstrations
from posteriori.errors import CheckpointError, ConfigError, DataError
from posteriori.objectives.imitation.sft import SFT
from posteriori.testing.worlds import World
from posteriori.train.monitor.likelihood import LikelihoodFigures

EXACT = 1e-8
QUIET = {"on_note": lambda text: None}


def counted_rows(lm: po.TabularLM, log_data: list[torch.Tensor], of: int) -> list[dict]:
    """Each outcome as often as the law says, of `of` rows per prompt; and the law of these rows."""
    exact = po.exact(po.Target(lm, [], lm.prompts, 3))
    rows = []
    for at, outcomes in enumerate(exact.outcomes):
        for ids, log_p in zip(outcomes.completion_ids, log_data[at].tolist(), strict=True):
            number = round(float(np.exp(log_p)) * of)
            rows += [{"prompt": lm.prompts[at], "completion": ids}] * number
    return rows


def law_of(lm: po.TabularLM, rows: list[dict]) -> list[torch.Tensor]:
    exact = po.exact(po.Target(lm, [], lm.prompts, 3))
    found = []
    for at, outcomes in enumerate(exact.outcomes):
        mine = [tuple(row["completion"]) for row in rows if row["prompt"] == lm.prompts[at]]
        count = torch.tensor([mine.count(tuple(ids)) for ids in outcomes.completion_ids])
        found.append(count.double() / len(mine))
    return found


def test_the_expected_gradient_is_that_of_the_kl_from_the_data():
    world = World(("x",), 1)
    data_N = po.exact(world.target).log_posterior[0].exp()
    told_NL = world.policy.token_log_prob(world.outcomes.completions)
    loss_N = SFT([]).loss(told_NL, {})
    (mine,) = torch.autograd.grad((data_N * loss_N).sum(), [world.policy.logits])
    log_pi_N = world.policy.log_prob(world.outcomes.completions)
    kl = (data_N * (data_N.log() - log_pi_N)).sum()
    (exact,) = torch.autograd.grad(kl, [world.policy.logits])
    torch.testing.assert_close(mine, exact, rtol=0, atol=EXACT)
    told_NL = world.policy.token_log_prob(world.outcomes.completions)
    without_end_NL = told_NL.masked_fill(world.outcomes.completions.tokens_NL == 0, 0.0)
    (wrong,) = torch.autograd.grad(
        (data_N * SFT([]).loss(without_end_NL, {})).sum(), [world.policy.logits]
    )
    assert float((wrong - exact).abs().max()) > 1e4 * EXACT


def test_it_ends_at_the_data_and_says_by_how_many_nats_it_has_come_nearer(table):
    other = po.TabularLM.random(table.vocabulary, 3, table.prompts, seed=8)
    exact = po.exact(po.Target(table, [], table.prompts, 3))
    rows = counted_rows(table, exact.log_prob(other), 150)
    fit = po.sft(table, rows, steps=300, rows_per_step=64, learning_rate=0.05, held_out=0, **QUIET)
    law = law_of(table, rows)

    def kl(lm) -> float:
        total, mass = 0.0, [sum(row["prompt"] == p for row in rows) for p in table.prompts]
        for data_N, log_pi_N, share in zip(law, exact.log_prob(lm), mass, strict=True):
            some = data_N > 0
            each = float((data_N[some] * (data_N[some].log() - log_pi_N[some])).sum())
            total += each * share / sum(mass)
        return total

    assert kl(table) > 0.2
    assert kl(fit.policy) < 0.02
    figures = fit.likelihood
    assert not figures.held_out
    assert figures.num_rows == len(rows)
    assert figures.gain.value == pytest.approx(kl(table) - kl(fit.policy), abs=1e-9)
    assert figures.before.value - figures.after.value == pytest.approx(figures.gain.value)
    lengths = np.mean([len(row["completion"]) for row in rows])
    assert figures.per_token_before == pytest.approx(figures.before.value / lengths)


def test_rows_are_held_out_by_whole_prompts_and_judge():
    lm = tiny_lm()
    words = ["a", "b", "c", "d", "e"]
    prompts = [f"{one} {other}" for one in words for other in words]
    rows = [{"prompt": p, "completion": f" {w}"} for p in prompts for w in ("b", "b b")]
    fit = po.sft(lm, rows, epochs=6, rows_per_step=10, learning_rate=1e-2, **QUIET)
    figures = fit.likelihood
    assert figures.held_out
    assert figures.num_rows == 2 * round(0.1 * len(prompts))
    assert len(fit.history) == -(-6 * (len(rows) - figures.num_rows) // 10)
    assert figures.gain.value > 2 * figures.gain.standard_error > 0
    assert fit.history[-1]["nats_per_token"] < fit.history[0]["nats_per_token"]
    assert "elbo" not in fit.history[0]


@pytest.mark.parametrize(
    ("gain", "error", "held_out", "said"),
    [
        (-1.0, 0.1, True, True),
        (-1.0, 1.0, True, False),
        (-1.0, 0.1, False, False),
        (1, 0.1, True, False),
    ],
)
def test_what_is_learned_by_heart_is_said(gain, error, held_out, said):
    one = po.Estimate(1.0, 0.1, "unbiased", 20)
    gained = po.Estimate(gain, error, "unbiased", 20)
    found = LikelihoodFigures(held_out, 20, one, one, gained, 1.0, 1.0).findings
    assert [each.name for each in found] == ["less_probable"] * said


def test_trls_columns():
    chat = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "ha"},
        {"role": "assistant", "content": "he"},
    ]
    read = read_demonstrations(
        [
            {"prompt": "a", "completion": " b"},
            {"text": "a b"},
            {"messages": chat},
            {"prompt": chat[:1], "completion": chat[1:2]},
            {"prompt": "a", "completion": [1, 0]},
        ]
    )
    told = [(each.prompt, each.completion) for each in read]
    assert told == [
        ("a", " b"),
        ("", "a b"),
        (chat[:1], "ho"),
        (chat[:3], "he"),
        (chat[:1], "ho"),
        ("a", [1, 0]),
    ]
    assert read[3].where == "data[2]"
    whole = read_demonstrations([{"prompt": "a", "completion": " b"}], completion_only=False)
    assert (whole[0].prompt, whole[0].completion) == ("", "a b")


def test_a_prompt_is_learned_where_it_is_asked_for():
    lm = tiny_lm()
    rows = [{"prompt": "a b", "completion": " c"}]
    one = po.sft(lm, rows, steps=1, **QUIET)
    assert one.target.max_new_tokens == 2, "the token and the end"
    if lm.encode(""):
        both = po.sft(lm, rows, steps=1, completion_only=False, **QUIET)
        assert both.target.max_new_tokens == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "no completion"),
        ({"completion": "a"}, "no 'prompt'"),
        ({"prompt": "a", "completion": ""}, "empty"),
        ({"text": "a", "messages": []}, "messages and text"),
        ({"messages": "a"}, "'messages' is a"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no turn of the assistant"),
        ({"prompt": 3, "completion": "a"}, "'prompt' is 3"),
    ],
)
def test_what_is_no_demonstration_is_named_with_its_place(row, message):
    with pytest.raises(DataError, match=rf"data\[1\]: .*{message}"):
        read_demonstrations([{"text": "a"}, row])


def test_settings_that_would_do_nothing_are_refused(table):
    rows = [{"prompt": "x", "completion": [1, 0]}]
    with pytest.raises(ConfigError, match="num_samples is for draws"):
        po.sft(table, rows, num_samples=4, **QUIET)
    with pytest.raises(ConfigError, match="both epochs and steps"):
        po.sft(table, rows, epochs=1, steps=4, **QUIET)
    with pytest.raises(ConfigError, match="no share"):
        po.sft(table, rows, held_out=1.0, **QUIET)
    with pytest.raises(DataError, match="no rows"):
        po.sft(table, [], **QUIET)


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_stopped_run_ends_with_the_same_weights_and_refuses_other_rows(tmp_path, policy):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": f" {word}"} for word in ("b", "d", "c")]
    settings = {"steps": 5, "rows_per_step": 2, "learning_rate": 1e-2, "policy": policy, **QUIET}

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 2:
            raise Stop

    def write(some) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in some))

    write(rows)
    place = tmp_path / "run"
    with pytest.raises(Stop):
        po.sft(tiny_lm(), file, output_dir=place, on_step=stop, **settings)
    write(rows[1:])
    with pytest.raises(CheckpointError, match="demonstrations are not those"):
        po.sft(tiny_lm(), file, output_dir=place, resume=True, **settings)
    write(rows)
    resumed = po.sft(tiny_lm(), file, output_dir=place, resume=True, **settings)
    whole = po.sft(tiny_lm(), file, **settings)
    for name, tensor in whole.policy.trained_state().items():
        assert torch.equal(tensor, resumed.policy.trained_state()[name]), name


def test_its_policy_is_where_another_run_starts(table):
    rows = [{"prompt": p, "completion": [1, 0]} for p in table.prompts]
    demonstrated = po.sft(table, rows, steps=30, learning_rate=0.1, **QUIET)
    flat = po.Reward(lambda completions, **_: [0.0] * len(completions), beta=1.0)
    target = po.Target(table, flat, table.prompts, 3)
    fit = po.fit(target, "rloo", policy=demonstrated, steps=1, num_samples=4, learning_rate=1e-12)
    assert fit.history[0]["kl_to_prior"] > 0.5

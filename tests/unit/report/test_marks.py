"""What a figure's page says where a pointer is: every value with a name, at its place."""

from __future__ import annotations

import math
import re

import pytest
from report_cases import estimate, policy_of

from posteriori.diagnostics.frontier.best_of_n_points import BestOfN
from posteriori.report import Subject
from posteriori.report.draw.captions import views
from posteriori.report.draw.marks import MOST
from posteriori.report.result import Curve
from posteriori.report.safe_text import prompt_label

HISTORY = [{"step": step, "mean_reward": step / 300, "entropy": math.nan} for step in range(300)]


@pytest.fixture(scope="module")
def found():
    policies = [
        policy_of("low", rewards=[0.0, 1.0], kl_to_prior=estimate(1.0), mean_reward=estimate(0.2)),
        policy_of("_odd", rewards=[1.0, 1.0], kl_to_prior=estimate(3.0), mean_reward=estimate(0.8)),
    ]
    policies[0] = type(policies[0])(**{**vars(policies[0]), "history": HISTORY})
    curve = Curve([], [BestOfN(4, estimate(2.0), estimate(0.5))])
    subject = Subject("", "", policies, curve=curve, prompts={0: ""}, num_prompts=1)
    return {each.name: each.marks for each in views(subject)}


def test_points_are_where_they_are_drawn(found):
    at = {mark.says.partition(":")[0]: mark for mark in found["plane"]}
    assert set(at) == {"low", "_odd", "best of 4"}
    low, odd, best = at["low"], at["_odd"], at["best of 4"]
    # Axes are linear: 2 nats and 0.5 are in the middle of 1 and 3, and of 0.2 and 0.8.
    assert best.x == pytest.approx((low.x + odd.x) / 2, abs=1e-6)
    assert best.y == pytest.approx((low.y + odd.y) / 2, abs=1e-6)
    assert 0 < low.x < odd.x < 1
    assert 0 < odd.y < low.y < 1
    assert low.says == "low: KL(policy, prior) 1 nats per completion; mean reward 0.2"


def test_a_long_line_has_few_marks_with_both_ends(found):
    marks = [each for each in found["mean_reward"] if each.says.startswith("low")]
    steps = [float(re.search(r"training step ([\d.]+)", each.says)[1]) for each in marks]
    assert len(marks) == MOST
    assert (min(steps), max(steps)) == (0.0, 299.0)


def test_bars_say_their_share(found):
    says = [mark.says for mark in found["rewards"]]
    assert any(re.match(r"low .*: 0 to 0\.0333: 50% of draws", each) for each in says)
    assert any("100% of draws" in each for each in says)


SYSTEM = {"role": "system", "content": "You are a helpful assistant. " * 5}
CHATS = {
    "What is 2 + 2?": [SYSTEM, {"role": "user", "content": "What is 2 + 2?"}],
    "… And 3 + 3?": [
        SYSTEM,
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 + 3?"},
    ],
    "Say it. → You": [
        SYSTEM,
        {"role": "user", "content": "Say it."},
        {"role": "assistant", "content": "You"},
    ],
    "user: Look:": [{"role": "user", "content": [{"type": "text", "text": "Look: "}]}],
}


@pytest.mark.parametrize("label", CHATS)
def test_a_chat_is_labelled_by_its_question(label):
    assert prompt_label(CHATS[label]) == label.strip()


def test_a_chat_without_a_question_is_labelled_all_the_same():
    assert prompt_label([SYSTEM], 30).startswith("You are a helpful")
    assert prompt_label([]) == "(empty conversation)"
    assert prompt_label("") == "(empty prompt)"

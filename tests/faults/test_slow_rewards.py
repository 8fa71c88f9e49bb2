"""Reward functions that are slow, hang, fail now and then, die, or change their answers.

Whatever is slow to fail here is bounded by a time-out that the test sets; what it must be faster
than is the hour for which the function would hang.
"""

from __future__ import annotations

import gc
import math
import threading
import time
import weakref

import pytest
import torch
from slow_rewards import (
    FOREVER,
    RaisesOnceIn,
    dies_on_b,
    hangs_on_b,
    length,
    logs,
    raises_on_b,
    too_few,
    where_it_ran,
)

import posteriori as po
from posteriori.core.run.call_context import CallContext, TrainerState, calling_within
from posteriori.errors import ConfigError, EvidenceCallError, EvidenceError

IDS = [[1, 0], [2, 2, 0], [0], [3, 1, 2], [1, 1, 0]]  # "a", "b b", "", "c a b", "a a"
LENGTHS = [1.0, 3.0, 0.0, 5.0, 3.0]
WITHOUT_B = [1.0, -math.inf, 0.0, -math.inf, 3.0]
POOLS = ("thread", "process")


@pytest.fixture
def completions(gpt2) -> po.Completions:
    return gpt2.completions(["a", "a", "c d", "c d", "c d"], IDS, 3)


def score(reward: po.Reward, completions, columns=None) -> list[float]:
    return reward.score(completions, columns or {}).reward.tolist()


class TestPools:
    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize(
        "settings", [{}, {"chunk_size": 1}, {"chunk_size": 2}, {"cache": True}]
    )
    def test_give_the_same_answers_in_the_same_order(self, completions, pool, settings):
        reward = po.Reward(length, 1.0, workers=2, pool=pool, **settings)
        for _ in range(2):
            assert score(reward, completions) == LENGTHS

    def test_of_processes_run_elsewhere_and_are_kept(self, completions):
        reward = po.Reward(where_it_ran, 1.0, workers=2, pool="process")
        first = set(score(reward, completions))
        assert len(first) == 2
        assert set(score(reward, completions)) == first

    def test_are_as_fast_as_they_have_workers(self, completions):
        """Five calls of 0.2 s: 1 s one after another, 0.2 s beside each other."""

        def slow(completions, **kwargs):
            time.sleep(0.2)
            return length(completions)

        start = time.perf_counter()
        assert score(po.Reward(slow, 1.0, workers=5, chunk_size=1), completions) == LENGTHS
        assert time.perf_counter() - start < 0.8

    @pytest.mark.parametrize("pool", POOLS)
    def test_columns_go_with_their_completions(self, completions, pool):
        reward = po.Reward(take_answer, 1.0, workers=2, pool=pool, chunk_size=2)
        assert score(reward, completions, {"answer": [1, 2, 3, 4, 5]}) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("pool", POOLS)
    def test_what_the_chunks_log_comes_together(self, completions, pool):
        context = CallContext(TrainerState(global_step=3))
        with calling_within(context):
            score(po.Reward(logs, 1.0, workers=2, pool=pool), completions)
        assert context.metrics == {"length": pytest.approx(sum(LENGTHS) / 5), "step": 3.0}
        assert context.extra == {"text": completions.texts}

    async def _later(self, completions, **kwargs):
        return length(completions)

    def test_take_asynchronous_functions(self, completions):
        assert score(po.Reward(self._later, 1.0, workers=2), completions) == LENGTHS

    @pytest.mark.parametrize("pool", POOLS)
    def test_a_wrong_number_of_answers_fails_whatever_the_policy(self, completions, pool):
        reward = po.Reward(too_few, 1.0, workers=2, pool=pool, on_failure="drop")
        with pytest.raises(EvidenceError, match=r"returned \d values for \d completions"):
            score(reward, completions)

    def test_of_processes_need_a_function_that_can_be_pickled(self):
        with pytest.raises(ConfigError, match=r"can be pickled.*at the top of a module"):
            po.Reward(lambda completions: [0.0], 1.0, pool="process")

    def test_processes_end_with_the_evidence(self, completions):
        reward = po.Reward(length, 1.0, workers=1, pool="process")
        score(reward, completions)
        process = reward._ask[0]._slots[0]._process
        gone = weakref.ref(reward)
        del reward
        gc.collect()
        assert gone() is None
        process.join(10)
        assert not process.is_alive()

    def test_are_part_of_a_run(self, gpt2):
        target = po.Target(gpt2, po.Reward(length, 1.0, workers=2, cache=True), ["a", "b"], 2)
        plain = po.Target(gpt2, po.Reward(length, 1.0), ["a", "b"], 2)
        ours, theirs = (po.fit(each, "rloo", steps=3, num_samples=4) for each in (target, plain))
        ours, theirs = (fitted.policy.trained_state() for fitted in (ours, theirs))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def take_answer(answer, **kwargs):
    return answer


class TestHanging:
    @pytest.mark.parametrize("pool", POOLS)
    def test_is_an_error_within_the_limit(self, completions, pool):
        reward = po.Reward(hangs_on_b, 1.0, workers=2, timeout=0.3, pool=pool)
        start = time.perf_counter()
        with pytest.raises(EvidenceCallError, match=r"took longer than timeout=0.3 seconds"):
            score(reward, completions)
        assert time.perf_counter() - start < FOREVER / 30
        assert reward.counts.failures == 1

    def test_needs_no_more_than_a_timeout(self, completions):
        with pytest.raises(EvidenceCallError, match="took longer"):
            score(po.Reward(hangs_on_b, 1.0, timeout=0.3), completions)

    @pytest.mark.parametrize("pool", POOLS)
    def test_can_be_dropped_and_the_rest_is_scored(self, completions, pool):
        reward = po.Reward(
            hangs_on_b, 1.0, workers=2, timeout=0.3, pool=pool, on_failure="drop", chunk_size=1
        )
        with pytest.warns(RuntimeWarning, match="2 of 5 completions were dropped"):
            assert score(reward, completions) == WITHOUT_B

    def test_processes_are_killed(self, completions):
        reward = po.Reward(hangs_on_b, 1.0, timeout=0.3, pool="process", chunk_size=1)
        slot = reward._ask[0]._slots[0]
        with pytest.raises(EvidenceCallError):
            score(reward, completions)
        assert not slot._process.is_alive()

    def test_threads_do_not_keep_the_program_alive(self, completions):
        with pytest.raises(EvidenceCallError):
            score(po.Reward(hangs_on_b, 1.0, timeout=0.1), completions)
        left = [each for each in threading.enumerate() if each.name.startswith("posteriori")]
        assert left
        assert all(each.daemon for each in left)


class TestFailing:
    def test_goes_on_up_unless_told_otherwise(self, completions):
        reward = po.Reward(RaisesOnceIn(10), 1.0)
        with pytest.raises(EvidenceCallError, match="raised TimeoutError: busy"):
            score(reward, completions)
        assert (reward.counts.calls, reward.counts.failures) == (1, 1)

    @pytest.mark.parametrize("workers", [None, 2])
    def test_once_in_ten_is_tried_again(self, completions, workers):
        reward = po.Reward(
            RaisesOnceIn(10), 1.0, on_failure="retry", backoff=0.0, workers=workers, chunk_size=1
        )
        for _ in range(4):
            assert score(reward, completions) == LENGTHS
        counts = reward.counts
        assert counts.failures == counts.retries == 3  # of 23 calls: the 1st, 11th and 21st
        assert (counts.calls, counts.completions, counts.dropped) == (23, 20, 0)

    def test_always_fails_after_the_retries_with_backoff(self, completions):
        reward = po.Reward(raises_on_b, 1.0, on_failure="retry", retries=2, backoff=0.05)
        start = time.perf_counter()
        with pytest.raises(EvidenceCallError, match=r"no answer about b; so did 2 more tries"):
            score(reward, completions)
        assert time.perf_counter() - start >= 0.05 + 0.1
        assert reward.counts.calls == reward.counts.failures == 3

    @pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"workers": 2, "chunk_size": 1}])
    def test_completions_are_dropped_alone(self, completions, settings):
        reward = po.Reward(raises_on_b, 1.0, on_failure="drop", **settings)
        with pytest.warns(RuntimeWarning, match="dropped"):
            assert score(reward, completions) == WITHOUT_B
        assert reward.counts.dropped == 2

    def test_once_in_ten_drops_nothing_that_another_call_can_answer(self, completions):
        reward = po.Reward(RaisesOnceIn(10), 1.0, on_failure="drop")
        assert score(reward, completions) == LENGTHS

    def test_what_was_dropped_is_asked_for_again_despite_a_cache(self, completions):
        fn = RaisesOnceIn(2)
        reward = po.Reward(fn, 1.0, on_failure="drop", chunk_size=1, cache=True)
        with pytest.warns(RuntimeWarning, match="3 of 5"):
            assert score(reward, completions).count(-math.inf) == 3
        fn.every = 10**9
        assert score(reward, completions) == LENGTHS

    def test_dropped_completions_get_through_no_kind_of_evidence(self, completions):
        likelihood = po.Likelihood(raises_on_b, on_failure="drop", chunk_size=1)
        constraint = po.Constraint(raises_on_b, on_failure="drop", chunk_size=1)
        some = completions.select([0, 1, 2])
        for evidence in (likelihood, constraint):
            with pytest.warns(RuntimeWarning, match="1 of 3"):
                log_e_N = evidence.score(some, {}).log_evidence
            assert log_e_N.tolist() == [0.0, -math.inf, -math.inf]

    def test_a_dropped_prefix_may_still_come_right(self, completions):
        constraint = po.Constraint(raises_on_b, raises_on_b, on_failure="drop", chunk_size=1)
        some = completions.select([0, 1, 2])
        with pytest.warns(RuntimeWarning, match="dropped"):
            log_e_N = constraint.prefix_log_evidence(some, {})
        assert log_e_N.tolist() == [0.0, 0.0, -math.inf]

    def test_what_was_dropped_is_a_finding_of_the_draws(self, gpt2):
        target = po.Target(gpt2, po.Reward(raises_on_b, 1.0, on_failure="drop"), ["a"], 2)
        with pytest.warns(RuntimeWarning, match="dropped"):
            draws = po.sample(target, "importance", 64, seed=0)
        found = {finding.name: finding for finding in draws.findings}
        num = sum("b" in text for text in draws.texts)
        assert 0 < num < 64
        assert f"failed on {num} of 64 completions" in found["evidence_dropped"].message
        assert int(draws.log_evidence_N.isneginf().sum()) == num
        with pytest.warns(RuntimeWarning, match="dropped"):
            report = po.evaluate(target, gpt2, 64)
        assert "evidence_dropped" in {finding.name for finding in report.findings}
        plain = po.sample(
            po.Target(gpt2, po.Reward(length, 1.0), ["a"], 2), "importance", 64, seed=0
        )
        assert "evidence_dropped" not in {finding.name for finding in plain.findings}

    def test_a_process_that_dies_is_an_error_that_says_so(self, completions):
        reward = po.Reward(dies_on_b, 1.0, workers=2, pool="process")
        with pytest.raises(EvidenceCallError, match="its process ended with code 7"):
            score(reward, completions)

    def test_a_process_that_died_is_replaced(self, completions):
        reward = po.Reward(dies_on_b, 1.0, pool="process", on_failure="drop", chunk_size=1)
        with pytest.warns(RuntimeWarning, match="2 of 5"):
            assert score(reward, completions) == WITHOUT_B


class TestCache:
    def test_asks_for_nothing_twice(self, completions):
        asked = []

        def reward(completions, **kwargs):
            asked.extend(completions)
            return length(completions)

        cached = po.Reward(reward, 1.0, cache=True)
        twice = po.Completions.concat([completions, completions])
        assert score(cached, twice) == LENGTHS * 2
        assert score(cached, completions) == LENGTHS
        assert asked == completions.texts
        assert (cached.counts.completions, cached.counts.cache_hits) == (5, 10)

    def test_knows_prompts_and_columns_and_ids_apart(self, gpt2):
        seen = []

        def reward(prompts, completions, completion_ids, answer, **kwargs):
            seen.extend(zip(prompts, completions, map(tuple, completion_ids), answer, strict=True))
            return [0.0] * len(prompts)

        cached = po.Reward(reward, 1.0, cache=True)
        for prompt, ids, answer in [("a", [1], 1), ("b", [1], 1), ("a", [1, 0], 1), ("a", [1], 2)]:
            for _ in range(2):
                score(cached, gpt2.completions([prompt], [ids], 2), {"answer": [answer]})
        assert seen == [("a", "a", (1,), 1), ("b", "a", (1,), 1), ("a", "a", (1, 0), 1),
                        ("a", "a", (1,), 2)]  # fmt: skip

    def test_forgets_the_oldest(self, completions):
        cached = po.Reward(length, 1.0, cache=True, cache_size=2)
        assert score(cached, completions) == LENGTHS
        assert score(cached, completions.select([3, 4])) == LENGTHS[3:]
        assert cached.counts.cache_hits == 2
        assert score(cached, completions.select([0])) == LENGTHS[:1]
        assert cached.counts.cache_hits == 2

    def test_hides_a_function_that_changes_its_answer_unless_asked(self, completions):
        answers = iter(range(10**6))

        def moody(completions, **kwargs):
            return [float(next(answers)) for _ in completions]

        trusting = po.Reward(moody, 1.0, cache=True)
        assert score(trusting, completions) == score(trusting, completions)
        checking = po.Reward(moody, 1.0, cache=True, check_repeats=2)
        first = score(checking, completions)
        with pytest.raises(EvidenceError, match=rf"returned {first[0]} .* and then \d+.0 for the"):
            score(checking, completions)

    def test_checks_only_so_many(self, completions):
        cached = po.Reward(length, 1.0, cache=True, check_repeats=2)
        for _ in range(3):
            assert score(cached, completions) == LENGTHS
        assert cached.counts.completions == 5 + 2 + 2


class TestSeveralRewards:
    def test_add_up_with_their_weights(self, completions):
        def ones_or_nothing(completions, **kwargs):
            return [1.0 if text else None for text in completions]

        reward = po.Reward([length, ones_or_nothing], beta=0.5, weights=[2.0, -3.0])
        expected = [2 * each - 3 * (each > 0) for each in LENGTHS]
        assert score(reward, completions) == expected
        context = CallContext()
        with calling_within(context):
            log_e_N = reward.score(completions, {}).log_evidence
        assert log_e_N.tolist() == [each / 0.5 for each in expected]
        assert context.metrics == {"reward/length": 12 / 5, "reward/ones_or_nothing": 1.0}
        assert score(po.Reward([length, length], 1.0), completions) == [2 * n for n in LENGTHS]

    def test_forbid_whatever_the_weight(self, completions):
        reward = po.Reward([length, never_b], beta=1.0, weights=[1.0, -1.0])
        assert score(reward, completions) == WITHOUT_B

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([length], 1.0, {"weights": [1.0, 2.0]}), "2 weights for 1 functions"),
            (([length], 1.0, {"weights": [math.nan]}), "must be a finite number"),
            (([], 1.0, {}), "there is no function"),
            ((length, 1.0, {"timeout": -1.0}), "'timeout' = -1.0 is not valid"),
            ((length, 1.0, {"on_failure": "ignore"}), "'fail', 'retry' or 'drop'"),
            ((length, 1.0, {"retries": 2}), "retries does nothing without on_failure='retry'"),
            ((length, 1.0, {"check_repeats": 2}), "check_repeats does nothing without cache=True"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, arguments, message):
        fns, beta, settings = arguments
        with pytest.raises(ConfigError, match=message):
            po.Reward(fns, beta, **settings)


def never_b(completions, **kwargs):
    return [-math.inf if "b" in text else 0.0 for text in completions]

"""Tokens that evidence runs through language models of its own are in the cost, each pass once."""

from __future__ import annotations

import pytest
import torch
from helpers import WORDS, generator

import posteriori as po
from posteriori.core.cost import counted
from posteriori.core.draw import draw
from posteriori.core.types import Cost


def reward(completions, **kwargs):
    return [float(len(text)) / 4 for text in completions]


def own_count(completions: po.Completions) -> int:
    """Every token, and those of each prompt that is asked, once."""
    asked = set(completions.prompt_index_N.tolist())
    tokens = sum(len(ids) for ids in completions.completion_ids)
    return tokens + sum(len(completions.prompt_ids[at]) for at in asked)


class Recorded:
    """An expert on a table whose passes are counted here, from what it is asked."""

    def __init__(self, prompts) -> None:
        lm = po.TabularLM.random(WORDS[:4], 3, prompts, seed=7)
        plain, self.tokens = lm.log_prob, 0

        def log_prob(completions):
            self.tokens += own_count(completions)
            return plain(completions)

        lm.log_prob = log_prob  # pyright: ignore[reportAttributeAccessIssue]
        self.expert = po.Expert(lm, 0.5)


class Untold:
    """The same evidence, and nobody learns what it runs: a mutant, and what to compare with."""

    def __init__(self, expert: po.Expert) -> None:
        self.expert, self.max_log_evidence = expert, expert.max_log_evidence

    def score(self, completions, columns):
        with counted():
            return self.expert.score(completions, columns)

    def prefix_log_evidence(self, completions, columns):
        with counted():
            return self.expert.prefix_log_evidence(completions, columns)


def both(table, do) -> tuple[Cost, Cost, int]:
    """The cost of doing something with an expert among the evidence, told and untold, and the
    tokens that it really ran."""
    recorded = Recorded(table.prompts)
    reward_ = po.Reward(reward, beta=1.0, max_reward=5.0)
    told = do(po.Target(table, [recorded.expert, reward_], table.prompts, 3))
    ran = recorded.tokens
    untold = do(po.Target(table, [Untold(recorded.expert), reward_], table.prompts, 3))
    assert recorded.tokens == 2 * ran > 0, "the same run twice"
    return told, untold, ran


RUNS = {
    "importance": {},
    "rejection": {},
    "best_of_n": {"n": 3},
    "imh": {"burn_in": 3},
    "mh": {"burn_in": 3},
    "annealed": {},
    "smc": {},
    "smc, evidence": {"twist": "evidence"},
    "smc, prefix": {"twist": "prefix"},
    "smc, rollouts": {"twist": {"name": "rollouts", "num": 2}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_sampler_counts_what_its_expert_runs(name, table):
    def sampled(target):
        return po.sample(target, name.split(",")[0], 20, **RUNS[name]).cost

    told, untold, ran = both(table, sampled)
    assert told.lm_tokens - untold.lm_tokens == ran
    assert told.evidence_calls == untold.evidence_calls > 0


def test_fit_and_evaluate_count_it(table):
    def step(target):
        (record,) = po.fit(target, "rloo", steps=1, num_samples=8).history
        return Cost(record["lm_tokens"])

    told, untold, ran = both(table, step)
    assert told.lm_tokens - untold.lm_tokens == ran
    policy = po.TabularLM.random(WORDS[:4], 3, table.prompts, seed=9)
    told, untold, ran = both(table, lambda target: po.evaluate(target, policy, 20).cost)
    assert told.lm_tokens - untold.lm_tokens == ran


def test_a_prefix_asks_those_that_can_tell(table):
    """The reward cannot judge a prefix, and is not called for one."""
    calls = []

    def counted_reward(completions, **kwargs):
        calls.append(len(completions))
        return reward(completions)

    recorded = Recorded(table.prompts)
    evidence = [recorded.expert, po.Reward(counted_reward, beta=1.0)]
    target = po.Target(table, evidence, table.prompts, 3)
    drawn = table.sample(table.prompts, 5, 2, generator())
    with counted() as spent:
        target.prefix_log_evidence(drawn)
    assert calls == []
    assert spent.cost == Cost(own_count(drawn), 10)


def test_what_reuses_the_priors_log_probs_costs_nothing(table):
    target = po.Target(table, po.Power(2.0), table.prompts, 3)
    drawn = draw(target, table, 50, generator())
    assert drawn.cost.lm_tokens == own_count(drawn.completions)
    assert drawn.cost.evidence_calls == 100


def test_a_fit_of_moments_is_not_the_first_draws_cost(table):
    """It has a cost of its own, with what the expert beside it runs over all outcomes."""

    def has_a(completion_ids, **kwargs):
        return [1 in ids for ids in completion_ids]

    recorded = Recorded(table.prompts)
    moments = po.Moments({"a": (has_a, 0.5)})
    target = po.Target(table, [moments, recorded.expert], table.prompts, 3)
    first = draw(target, table, 50, generator())
    again = draw(target, table, 50, generator())
    assert first.cost.evidence_calls == again.cost.evidence_calls == 200
    assert first.cost.lm_tokens == again.cost.lm_tokens == 2 * own_count(first.completions)
    outcomes = po.exact(target).outcomes
    fitted = moments.fitted.cost
    assert fitted.lm_tokens == sum(own_count(each) for each in outcomes)
    assert fitted.evidence_calls == 2 * sum(len(each) for each in outcomes)


class TestTiny:
    """The bundled model as prior, expert and judge: counted by its tokenizer alone."""

    PROMPTS = ("My boss is", "The food was really")

    @pytest.fixture
    def tiny(self):
        return po.load("tiny")

    def counts(self, lm, texts) -> int:
        return sum(len(ids) for ids in lm.tokenizer(list(texts))["input_ids"])

    def drawn(self, tiny, evidence):
        target = po.Target(tiny, evidence, self.PROMPTS, 5)
        draws = draw(target, tiny, 6, generator())
        return draws, sum(len(ids) for ids in draws.completion_ids)

    def test_an_expert_with_a_prefix(self, tiny):
        draws, tokens = self.drawn(tiny, po.Expert(tiny, 0.5, prompt_prefix="Be polite. "))
        prefixed = [f"Be polite. {prompt}" for prompt in self.PROMPTS]
        prompts = self.counts(tiny, self.PROMPTS) + self.counts(tiny, prefixed)
        assert draws.cost.lm_tokens == 2 * tokens + prompts

    def test_an_expert_over_text(self, tiny):
        draws, tokens = self.drawn(tiny, po.Expert(tiny, 0.5, over_text=True))
        read = tiny.tokenizer(draws.texts, add_special_tokens=False)["input_ids"]
        ended = int(draws.completions.ended_N.sum())
        again = sum(len(ids) for ids in read) + ended
        assert draws.cost.lm_tokens == tokens + again + 2 * self.counts(tiny, self.PROMPTS)

    def test_a_judge_reads_each_text_once(self, tiny):
        judge = po.Judge(tiny, "Is it polite?", yes=["Yes", "yes"], no=["No", "no"])
        draws, tokens = self.drawn(tiny, judge)
        asked = {
            judge.text(prompt, text)
            for prompt, text in zip(draws.completions.prompts, draws.texts, strict=True)
        }
        told = [f"{text}\nAnswer:" for text in asked]
        of_prior = tokens + self.counts(tiny, self.PROMPTS)
        assert draws.cost.lm_tokens == of_prior + self.counts(tiny, told) + len(asked)
        # The same texts again are known: only the prior runs.
        again, _ = self.drawn(tiny, judge)
        assert torch.equal(again.log_evidence_N, draws.log_evidence_N)
        assert again.cost.lm_tokens == of_prior
        assert again.cost.evidence_calls == len(draws)

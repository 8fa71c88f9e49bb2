"""`soft_q`: exact where psi is exact; what the evidence is asked; what is kept and resumed."""

from __future__ import annotations

import time

import pytest
import torch
from helpers import tiny_lm

import posteriori as po
from posteriori.core.draw import draw
from posteriori.core.seeds import generator
from posteriori.errors import ConfigError, ObjectiveError
from posteriori.objectives.lookahead import is_terminal, next_token_view
from posteriori.objectives.soft_values.soft_q import SoftQ
from posteriori.objectives.soft_values.soft_values import Known, Learner, SoftValues


def likes_b(completions, **kwargs):
    return [float(text.count("b")) for text in completions]


@pytest.fixture
def target(table) -> po.Target:
    return po.Target(table, po.Reward(likes_b, beta=1.0), table.prompts, 3)


class Exact(torch.nn.Module):
    """log psi(s, v) by summing over all outcomes that begin with s, v."""

    def __init__(self, target: po.Target) -> None:
        super().__init__()
        self.target, self.exact = target, po.exact(target)

    def log_psi(self, prompt: int, prefix: list[int]) -> float:
        exact, at = self.exact, prompt
        begins = torch.tensor(
            [ids[: len(prefix)] == prefix for ids in exact.outcomes[at].completion_ids]
        )
        log_prior = exact.log_prior[at][begins]
        joint = (log_prior + exact.log_evidence[at][begins]).logsumexp(0)
        return float(joint - log_prior.logsumexp(0))

    def table_for(self, draws, known: Known) -> torch.Tensor:
        log_psi_NLK = torch.zeros_like(known.log_prior_NLK)
        for n, ids in enumerate(draws.completion_ids):
            prompt = int(draws.completions.prompt_index_N[n])
            for t in range(len(ids)):
                for k, token in enumerate(known.choice_NLK[n, t].tolist()):
                    log_psi_NLK[n, t, k] = self.log_psi(prompt, [*ids[:t], token])
        return log_psi_NLK


def known_of(target: po.Target, number: int = 40):
    draws = draw(target, target.prior, number, generator(0, "soft_q"))
    view = next_token_view(target, target.prior, draws, 99)
    completions = draws.completions
    return draws, Known.of(view, completions.mask_NL, completions.lengths_N)


def conditional(exact, at: int, ids: list[int], token: int) -> float:
    """p*(token | ids), by enumeration."""
    log_star = (exact.log_prior[at] + exact.log_evidence[at]).log_softmax(0)

    def mass(prefix: list[int]) -> torch.Tensor:
        rows = [y[: len(prefix)] == prefix for y in exact.outcomes[at].completion_ids]
        return log_star[torch.tensor(rows)].logsumexp(0)

    return float((mass([*ids, token]) - mass(ids)).exp())


@pytest.mark.parametrize("mutant", [None, "no prior", "ends forgotten", "psi of the prefix alone"])
def test_with_the_exact_psi_q_is_the_targets_next_token(target, mutant):
    """And wrong variants are not."""
    draws, known = known_of(target)
    exact = Exact(target)
    eos = torch.tensor(target.prior.eos_token_ids)
    log_psi_NLK = exact.table_for(draws, known)
    values = SoftValues(
        known.hidden_NLD.shape[-1], target.prior.token_features_VD, 4, generator(0, "values")
    )
    learner = Learner(values, 1e-3, eos, 3)
    learner._averaged = lambda *_: log_psi_NLK
    if mutant == "no prior":
        some_NLK = known.log_prior_NLK.where(known.log_prior_NLK.isneginf(), 0.0)
        known = known._replace(log_prior_NLK=some_NLK)
    elif mutant == "ends forgotten":
        terminal_NLK = is_terminal(known.choice_NLK, eos, 3)
        log_psi_NLK = log_psi_NLK.where(~terminal_NLK, 0.0)
        nan_NLK = torch.full_like(log_psi_NLK, torch.nan)
        known = known._replace(log_evidence_NLK=nan_NLK)
        learner._averaged = lambda *_: log_psi_NLK
    elif mutant is not None:
        learner._averaged = lambda *_: log_psi_NLK[..., :1].expand_as(log_psi_NLK)
    share_NLK = learner.posterior(known).log_share_NLK.exp()
    worst = 0.0
    for n, ids in enumerate(draws.completion_ids):
        for t in range(len(ids)):
            at = int(draws.completions.prompt_index_N[n])
            for k, token in enumerate(known.choice_NLK[n, t].tolist()):
                if known.log_prior_NLK[n, t, k] > -torch.inf:
                    wanted = conditional(exact.exact, at, ids[:t], token)
                    worst = max(worst, abs(float(share_NLK[n, t, k]) - wanted))
    assert worst < 1e-10 if mutant is None else worst > 1e-2


def test_on_a_single_token_its_gradient_is_that_of_the_forward_kl():
    """psi is exact there: the loss is KL(p*, pi), whatever was drawn."""
    lm = po.TabularLM.random(["", "a", "b"], 1, ["x", "y"], seed=3)
    target = po.Target(lm, po.Reward(likes_b, beta=0.7), lm.prompts, 1)
    policy = lm.as_policy("full", None, 0)
    with torch.no_grad():
        policy.logits += torch.randn(
            policy.logits.shape, generator=torch.Generator().manual_seed(1)
        )
    objective = SoftQ(batch_size=99)
    objective.prepare(target, lambda: policy, 0)
    draws = objective.draw(target, policy, target.prompts, 4, generator(0, "draws"))
    constants = objective.weigh(draws, draws.log_proposal_N)
    log_pi = policy.choice_log_prob(draws.completions, constants["choice_NLK"])
    loss = objective.loss(log_pi, constants).mean()
    (found,) = torch.autograd.grad(loss, [policy.logits])
    exact = po.exact(target)
    divergence = torch.zeros((), dtype=torch.float64)
    for at, log_pi_Y in enumerate(policy.logits[:, 0].log_softmax(-1)):
        order = [ids[0] for ids in exact.outcomes[at].completion_ids]
        star = (exact.log_prior[at] + exact.log_evidence[at]).log_softmax(0)
        divergence = divergence + (star.exp() * (star - log_pi_Y[order])).sum() / 2
    (wanted,) = torch.autograd.grad(divergence, [policy.logits])
    assert torch.allclose(found, wanted, atol=1e-8)
    loss, divergence = loss.detach(), divergence.detach()
    assert float(loss) == pytest.approx(float(divergence), abs=1e-8)


def test_the_evidence_is_asked_about_outcomes_alone_and_answers_are_where_they_belong(table):
    seen = []

    def recorded(completions, completion_ids, **kwargs):
        seen.extend(tuple(ids) for ids in completion_ids)
        return likes_b(completions)

    target = po.Target(table, po.Reward(recorded, beta=1.0), table.prompts, 3)
    draws, known = known_of(target)
    ends = table.eos_token_ids
    assert all(len(ids) == 3 or ids[-1] in ends for ids in seen)
    assert all(end not in ids[:-1] for ids in seen for end in ends)
    for n, ids in enumerate(draws.completion_ids):
        for t in range(len(ids)):
            for k, token in enumerate(known.choice_NLK[n, t].tolist()):
                text = table.decode([[*ids[:t], token]])[0]
                assert float(known.log_evidence_NLK[n, t, k]) == text.count("b")
            assert float(known.ended_NL[n, t]) == table.decode([ids[:t]])[0].count("b")


def says_b(completions, **kwargs):
    return ["b" in text for text in completions]


def test_a_text_that_may_still_meet_a_constraint_begins_at_half_of_the_mean(table):
    """Before anything is learned: log psi is the log of the mean evidence, and log 1/2."""
    hard = po.Target(table, po.Constraint(says_b), table.prompts, 3)
    draws, known = known_of(hard)
    token_VE = table.token_features_VD
    values = SoftValues(known.hidden_NLD.shape[-1], token_VE, 8, generator(0, "values"))
    values.set_scale(draws.log_evidence_N)
    left_L = torch.ones(known.choice_NLK.shape[1], dtype=torch.float64)
    log_psi_NLK = values(known, left_L)
    none_NLK = known.log_evidence_NLK == -torch.inf
    assert bool(none_NLK.any())
    share = float((draws.log_evidence_N == 0).double().mean())
    wanted = torch.tensor(share / 2, dtype=torch.float64).log()
    assert torch.allclose(log_psi_NLK[none_NLK], wanted)


def test_it_ends_near_a_constraint_from_few_draws(table):
    """KL(p*, pi) falls to a fifth; exact, no draws in it but those of the training."""
    hard = po.Target(table, po.Constraint(says_b), table.prompts, 3)
    fitted = po.fit(hard, "soft_q", steps=30, num_samples=16, seed=0)
    exact = po.exact(hard)
    before, after = (exact.evaluate(lm)["kl_from_target"].mean() for lm in (table, fitted.policy))
    assert after < 0.2 * before


def slow(completions, **kwargs):
    time.sleep(2e-2 * len(completions))
    return likes_b(completions)


def never_a(completions, **kwargs):
    time.sleep(2e-2 * len(completions))
    return ["a" not in text for text in completions]


@pytest.mark.parametrize(
    ("evidence", "name"),
    [
        (po.Reward(likes_b, beta=1.0), "soft_q"),
        (po.Reward(slow, beta=1.0), "rloo"),
        (po.Constraint(never_a), "dpg"),
    ],
)
def test_the_default_asks_ahead_only_where_that_is_quick(table, evidence, name, tmp_path):
    target = po.Target(table, evidence, table.prompts, 3)
    notes = []
    settings = {"steps": 1, "num_samples": 2, "output_dir": tmp_path}
    fitted = po.fit(target, on_note=notes.append, **settings)
    assert fitted.objective == name
    assert notes[0].startswith(f"objective: {name} (")
    assert po.fit(target, resume=True, **settings).objective == name


def test_settings_need_a_name(target):
    with pytest.raises(ConfigError, match="none is given"):
        po.fit(target, objective_settings={"lookahead": 4}, steps=1)


def test_it_ends_near_the_target_on_a_table_from_few_draws(target):
    fitted = po.fit(target, steps=30, num_samples=16, seed=0)
    exact = po.exact(target)
    near, prior = (
        exact.evaluate(lm)["kl_to_target"].mean() for lm in (fitted.policy, target.prior)
    )
    assert near < 0.1 * prior


def test_a_prior_that_does_not_say_what_may_come_next_is_refused():
    class Closed:
        pass

    objective = SoftQ()
    target = po.Target(tiny_lm(), po.Reward(likes_b, beta=1.0), ["a"], 3)
    target.prior = Closed()
    with pytest.raises(ObjectiveError, match="what tokens may come next"):
        objective.prepare(target, lambda: None, 0)

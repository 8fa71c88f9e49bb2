"""Token by token, with rows moved about, a model says what one plain pass over each text says."""

from __future__ import annotations

import pytest
import torch
from helpers import ARCHITECTURES, EOS, generator, tiny_lm

import posteriori as po
from posteriori.core.settings.training import LoraSettings

PROMPTS = ["a b", "c", "d e a c"]
MOVES = [
    [0, 1, 2, 3, 4, 5],
    [0, 0, 2, 3, 3, 5],
    [5, 4, 3, 2, 1, 0],
    [0, 1, 2],
    [2, 0, 1, 0, 2, 1, 1],
    [1, 1, 1, 1],
]
"""Nothing; dead rows replaced; a permutation; fewer rows; more rows; copies of one."""


def plain(lm: po.CausalLM, prompt_ids, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([[*prompt_ids, *tokens]])
        return lm.model(ids, use_cache=False).logits[0, -1].log_softmax(-1)


def walk(rows, parent_R: torch.Tensor, expected, atol: float) -> None:
    """After every move and token, each row's log-probs are those of its own text."""
    texts: list[tuple[int, list[int]]] = [(parent, []) for parent in parent_R.tolist()]
    random = generator(1)
    for move in MOVES:
        rows.keep(torch.tensor(move))
        texts = [(texts[at][0], list(texts[at][1])) for at in move]
        token_R = torch.randint(1, 6, (len(move),), generator=random)
        rows.extend(token_R)
        for (_, text), token in zip(texts, token_R.tolist(), strict=True):
            text.append(token)
        wanted = torch.stack([expected(parent, text) for parent, text in texts])
        torch.testing.assert_close(rows.logits_RV.log_softmax(-1), wanted, rtol=0, atol=atol)


PARENTS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_what_plain_passes_say(architecture):
    """Up to float32 rounding; another row's cache is off by 0.1 and more (see below)."""
    lm = tiny_lm(architecture)
    with lm.stepping(PROMPTS, PARENTS, 8) as rows:
        walk(rows, PARENTS, lambda parent, text: plain(lm, rows.prompt_ids[parent], text), 1e-4)


def test_a_row_that_was_not_moved_is_found(monkeypatch):
    monkeypatch.setattr("posteriori.models.passes.forward._move", lambda *args: None)
    lm = tiny_lm()
    with lm.stepping(PROMPTS, PARENTS, 8) as rows, pytest.raises(AssertionError, match="not close"):
        walk(rows, PARENTS, lambda parent, text: plain(lm, rows.prompt_ids[parent], text), 0.1)


def test_a_table_is_walked_too():
    lm = po.TabularLM.random(tuple("_abcde"), 7, ("x", "y", "z"), seed=1)

    def expected(parent, text):
        alike = lm.completions(["xyz"[parent]] * 6, [[*text, token] for token in range(6)])
        return lm.token_log_prob(alike)[:, -1]

    with lm.stepping(["x", "y", "z"], PARENTS, 7) as rows:
        walk(rows, PARENTS, expected, 1e-12)


def test_the_warp_counts_at_its_position():
    lm = tiny_lm().in_float64().warped(temperature=0.7, top_k=4, min_new_tokens=2)
    drawn = lm.sample(PROMPTS, 2, 4, generator(0))
    with lm.stepping(PROMPTS, PARENTS, 4) as rows:
        for t in range(4):
            log_p_RV = rows.logits_RV.log_softmax(-1)
            token_R = drawn.tokens_NL[:, t]
            on = drawn.lengths_N > t
            chosen_R = log_p_RV.gather(1, token_R[:, None])[:, 0]
            told_R = drawn.token_log_prob_NL[:, t]
            torch.testing.assert_close(chosen_R[on], told_R[on], rtol=0, atol=1e-9)
            if t < 2:
                assert bool(log_p_RV[:, EOS].isneginf().all())
            rows.extend(token_R)


def test_a_branch_goes_its_own_way():
    lm = tiny_lm().in_float64()
    with lm.stepping(PROMPTS, PARENTS, 8) as rows:
        rows.extend(torch.tensor([1, 2, 3, 4, 5, 1]))
        before = rows.logits_RV.clone()
        branch = rows.branch(torch.tensor([5, 5, 0]))
        torch.testing.assert_close(branch.logits_RV, before[[5, 5, 0]])
        branch.extend(torch.tensor([2, 3, 4]))
        branch.keep(torch.tensor([2, 2, 2]))
        torch.testing.assert_close(rows.logits_RV, before)
        rows.extend(torch.tensor([1, 1, 1, 1, 1, 2]))
        wanted = plain(lm, rows.prompt_ids[2], [1, 2])
        torch.testing.assert_close(rows.logits_RV[5].log_softmax(-1), wanted, rtol=0, atol=1e-9)


def test_hidden_states_are_what_the_head_reads():
    lm = tiny_lm().in_float64()
    head = lm.model.get_output_embeddings()
    with lm.stepping(PROMPTS, PARENTS, 8, hidden=True) as rows:
        for move in MOVES:
            rows.keep(torch.tensor(move))
            rows.extend(torch.ones(len(move), dtype=torch.long))
            logits = head(rows.hidden_RD.double())
            torch.testing.assert_close(logits, rows.logits_RV, rtol=1e-5, atol=1e-5)


def test_adapter_and_prior_step_by_turns_on_the_same_weights():
    prior = tiny_lm()
    policy = prior.as_policy("lora", LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for tensor in policy.trained_state().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator(3)) * 0.3)
    target = po.Target(
        prior, po.Constraint(lambda completions, **kw: [True] * len(completions)), PROMPTS, 5
    )
    drawn = po.sample(target, "smc", 12, policy)
    for lm, told in ((prior, drawn.log_prior_N), (policy, drawn.log_proposal_N)):
        torch.testing.assert_close(lm.log_prob(drawn.completions), told, rtol=0, atol=1e-4)
    assert float((drawn.log_prior_N - drawn.log_proposal_N).abs().max()) > 0.1

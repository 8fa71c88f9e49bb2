"""Which prompts' pairs judge a policy: a share that was asked for, or a tenth of many."""

from __future__ import annotations

import pytest

from posteriori.data.preferences import Preference
from posteriori.errors import ConfigError
from posteriori.objectives.preference.tokenised_pairs import USUAL_SHARE, held_out_pairs


def pairs_of(prompts: int) -> list[Preference]:
    rows = [(f"prompt {at}", f"good {n}", f"bad {n}") for at in range(prompts) for n in range(3)]
    return [Preference(prompt, chosen, rejected, "row") for prompt, chosen, rejected in rows]


@pytest.mark.parametrize(
    ("prompts", "share", "held"),
    [(4, 0.5, 2), (4, 0.05, 1), (4, 0.0, 0), (19, USUAL_SHARE, 0), (20, USUAL_SHARE, 2)],
)
def test_so_many_prompts_are_held_out_with_all_their_pairs(prompts, share, held):
    kept, judging = held_out_pairs(pairs_of(prompts), share, seed=0)
    assert len(judging) == 3 * held
    assert len(kept) == 3 * (prompts - held)
    assert not {pair.prompt for pair in kept} & {pair.prompt for pair in judging}


@pytest.mark.parametrize(("prompts", "share"), [(1, 0.5), (4, 0.9)])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(prompts, share):
    with pytest.raises(ConfigError, match="leaves none to train on"):
        held_out_pairs(pairs_of(prompts), share, seed=0)

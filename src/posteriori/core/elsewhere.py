"""Language models whose draws come from another program: which they are, and what they draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .completions import Completions
from .hooks import DrawsElsewhere, Served
from .prompted import Prompted, asked_of
from .protocols import LanguageModel


def engine_of(lm: LanguageModel) -> DrawsElsewhere | None:
    """The engine that draws for `lm`, also under a prefix; None where it draws by itself."""
    bare = lm.lm if isinstance(lm, Prompted) else lm
    return bare if isinstance(bare, DrawsElsewhere) else None


def served(lm: LanguageModel) -> LanguageModel:
    """What `lm` really draws from, scored by what draws it: an engine's q; any other model as it
    is. A proposal has to be that, because an algorithm may score what it has not drawn."""
    engine = engine_of(lm)
    if engine is None:
        return lm
    return Prompted(engine.served, lm.prefix) if isinstance(lm, Prompted) else engine.served


def serving(lm: LanguageModel) -> Served | None:
    """What knows what is wrong with the draws of `lm`, where another program makes them."""
    bare = lm.lm if isinstance(lm, Prompted) else lm
    return bare if isinstance(bare, Served) else None


class Standing(NamedTuple):
    """`lm`, drawn from by an engine: the model that draws, and what scores its fresh draws."""

    lm: LanguageModel
    scored: Callable[[Completions, Tensor | None], Tensor]
    """As `DrawsElsewhere.scored`."""


def standing_for(engine: DrawsElsewhere, lm: LanguageModel) -> Standing:
    """The engine with the weights of `lm`, behind the prefix of `lm` where it has one."""
    if not isinstance(lm, Prompted):
        other = engine.standing_for(lm)
        return Standing(other, other.scored)
    other, prefix = engine.standing_for(lm.lm), lm.prefix

    def scored(drawn: Completions, known_NL: Tensor | None = None) -> Tensor:
        return other.scored(asked_of(other, drawn, prefix), known_NL)

    return Standing(Prompted(other, prefix), scored)

"""The page at /: draws of the posterior with their weights, beside the prior's.

It asks its own server alone, by a script that its policy names by hash, and what a model wrote is
text to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from posteriori.core.occurrence import Prompt
from posteriori.core.rows_of_prompts import rows_of_prompts
from posteriori.core.types import Draws
from posteriori.report.write.content_policy import content_policy
from posteriori.runs.directory import jsonable

from .parameters import ChatMessage, Text
from .posterior import Posterior, Wanted

HERE = Path(__file__).parent
_MOST_PROMPTS = 100
"""Prompts of the run file that the page offers."""


class DrawsAsked(BaseModel):
    """The body of /draws: a prompt, or a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    prompt: Text | Annotated[list[ChatMessage], Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] = 16
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [[each.message() for each in self.prompt]]


def beside_the_prior(
    posterior: Posterior, wanted: Wanted, cancelled: Callable[[], None]
) -> dict[str, Any]:
    """What /draws answers: the sampler's draws with their weights (the heaviest first, where there
    are more than were asked for), and as many of the prior. Within a turn."""
    drawn = posterior.draw(wanted, cancelled)
    prior = posterior.prior_draws(wanted, cancelled)
    log_z = drawn.log_z[0]
    facts = {
        "sampler": posterior.sampler.name,
        "guarantee": drawn.pool.guarantee or posterior.sampler.guarantee,
        "seed": wanted.seed,
        "num_draws": len(drawn.pool),
        "ess": drawn.ess[0],
        "log_z": None
        if log_z is None
        else {"value": log_z.value, "standard_error": log_z.standard_error, "kind": log_z.kind},
        "findings": [{"level": f.level, "message": str(f)} for f in drawn.findings],
        "draws": _rows(drawn.pool, wanted.n),
        "prior": _rows(prior, wanted.n),
    }
    return jsonable(facts)


def _rows(draws: Draws, most: int) -> list[dict[str, Any]]:
    """Draws of one prompt, with their share of all weight."""
    (mine,) = rows_of_prompts(draws.completions)
    share_N = draws.log_weight[mine].cpu().softmax(0).nan_to_num(0.0)
    order = share_N.argsort(descending=True, stable=True)[:most]
    some = draws.select(mine[order.to(mine.device)])
    columns = some.texts, share_N[order].tolist(), some.reward_N.tolist()
    rows = zip(*columns, some.log_evidence_N.tolist(), strict=True)
    return [
        {"text": text, "weight": weight, "reward": reward, "log_evidence": log_e}
        for text, weight, reward, log_e in rows
    ]


def page(name: str, posterior: Posterior) -> str:
    """The page itself, in ASCII; it holds no draws."""
    prompts = [each for each in posterior.target.prompts if isinstance(each, str)]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    style, script = _parts()
    html = environment.get_template(
        "page.html"
    ).render(
        policy=_policy(),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        name=name,
        sampler=posterior.sampler.name,
        guarantee=posterior.sampler.guarantee.replace("_", " "),
        prompts=prompts[:_MOST_PROMPTS],
    )
    return html.encode("ascii", "xmlcharrefreplace").decode("ascii")


def headers_of_page() -> dict[str, str]:
    return {
        "Content-Security-Policy": _policy() + "; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _policy() -> str:
    return content_policy(*_parts(), connect="'self'")


@cache
def _parts() -> tuple[str, str]:
    style = (HERE / "page.css").read_text(encoding="ascii")
    return style, (HERE / "page.js").read_text(encoding="ascii")

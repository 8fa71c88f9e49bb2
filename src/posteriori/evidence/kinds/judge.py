"""A language model's answer to a question about the completion, as evidence."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from posteriori.core.settings.parse import parse
from posteriori.core.settings.refused import refuse
from posteriori.core.settings.site import Site
from posteriori.core.settings.ways import Way, Ways
from posteriori.errors import ConfigError
from posteriori.evidence.judge.settings import EndpointSettings

Answer = str | list[str]


def _server(value: Any) -> Any:
    """The table, whose errors speak of its keys as the user of an endpoint knows them."""
    if not isinstance(value, dict):
        return value
    try:
        return parse(EndpointSettings, value, where="server")
    except ConfigError as error:
        refuse(error.what, error.hint)


class JudgeWay(Way):
    """What every judge is asked; see `posteriori.Judge`.

    Args:
        model: who is asked: a path or a hub id; beside `url`, the server's name for it.
        question: what is asked about the completion.
        yes: the answer that is wanted, in one spelling or several.
        no: the other answer.
        template: the judge's prompt, with {completion} and whatever else of {prompt}, {question},
            {yes}, {no}.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.
    """

    model: str
    question: str
    yes: Answer = "Yes"
    no: Answer = "No"
    template: str | None = None


class JudgeByModel(JudgeWay):
    """A judge on this machine; see `posteriori.Judge`.

        log e(c, y) = log p(yes | q(c, y)) - log (p(yes | q(c, y)) + p(no | q(c, y)))

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "judge"
        model = "tiny"
        question = "Is it polite?"
    """

    own: ClassVar[str] = "model"
    says: ClassVar[str] = "a language model answers yes to a question"

    def check(self, site: Site) -> None:
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        from posteriori.evidence.judge.judge import Judge

        place = site.check_model("model", self.model)
        return Judge(place, self.question, self.yes, self.no, self.template)


class JudgeByServer(JudgeWay):
    """A judge behind an OpenAI-compatible server; see `posteriori.Judge.endpoint`.

    Args:
        url: the server's address.
        server: its route, key, time-outs and tries.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "judge"
        url = "http://localhost:8000/v1"
        model = "judge"
        question = "Is it polite?"
    """

    own: ClassVar[str] = "url"
    says: ClassVar[str] = "a model behind an OpenAI-compatible server answers yes to a question"

    url: str
    server: Annotated[EndpointSettings, BeforeValidator(_server)] = EndpointSettings()

    def check(self, site: Site) -> None:
        self.build(site)  # no server is asked yet

    def build(self, site: Site) -> Any:
        del site
        from posteriori.evidence.judge.judge import Judge

        return Judge.endpoint(
            self.url,
            self.model,
            self.question,
            self.yes,
            self.no,
            self.template,
            server=self.server,
        )


class JudgeKind(Ways):
    """`posteriori.Judge`."""

    kind = "judge"
    ways = (JudgeByServer, JudgeByModel)

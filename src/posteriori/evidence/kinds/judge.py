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
    """Model, question, how it is put, and what counts as yes and no; see `posteriori.Judge`."""

    model: str
    question: str
    yes: Answer = "Yes"
    no: Answer = "No"
    template: str | None = None


class JudgeByModel(JudgeWay):
    """A language model on this machine."""

    own: ClassVar[str] = "model"
    says: ClassVar[str] = "a language model answers yes to a question"

    def check(self, site: Site) -> None:
        site.check_model("model", self.model)

    def build(self, site: Site) -> Any:
        from posteriori.evidence.judge.judge import Judge

        place = site.check_model("model", self.model)
        return Judge(place, self.question, self.yes, self.no, self.template)


class JudgeByServer(JudgeWay):
    """A model behind an OpenAI-compatible server; `model` is the server's name for it."""

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

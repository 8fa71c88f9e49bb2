"""Distillation as inference: a teacher as evidence."""

from __future__ import annotations

from typing import Any, ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class TeacherSettings(Strict):
    """See `posteriori.Teacher`; the model computes the way that the config says of the prior."""

    model: str
    weight: float = 1.0
    prompt_prefix: str | list[dict[str, str]] | None = None


class TeacherKind(DistributionKind):
    """`posteriori.Teacher`."""

    kind = "teacher"
    Settings = TeacherSettings
    needs: ClassVar = {"model": 'model = "the teacher\'s directory"'}

    @classmethod
    def check(cls, settings: TeacherSettings, site: Site) -> None:
        site.check_model("model", settings.model)
        if settings.weight == 0:
            raise site.error("'weight' is 0, so the teacher says nothing", "remove the teacher")

    @classmethod
    def from_settings(cls, settings: TeacherSettings, site: Site) -> Any:
        from posteriori.evidence.teacher import Teacher

        model = site.language_model("model", settings.model)
        return Teacher(model, settings.weight, settings.prompt_prefix)

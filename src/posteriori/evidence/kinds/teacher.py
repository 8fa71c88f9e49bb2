"""Distillation as inference: a teacher as evidence."""

from __future__ import annotations

from typing import Any, ClassVar

from posteriori.core.settings.site import Site
from posteriori.core.settings.strict import Strict

from .distribution import DistributionKind


class TeacherSettings(Strict):
    """Settings of evidence of the kind "teacher": distillation as inference.

        log e(c, y) = weight (log pi_teacher(y|c) - log prior(y|c))

    See `posteriori.Teacher`.

    Args:
        model: the teacher, a path or a hub id; it computes the way that the config says of the
            prior.
        weight: 1: the target is the teacher; below 1, between it and the prior; not zero.
        prompt_prefix: text, or messages, before every prompt that it reads.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        [[evidence]]
        kind = "teacher"
        model = "teachers/large"
    """

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

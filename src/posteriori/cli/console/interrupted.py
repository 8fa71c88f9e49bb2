"""What is true after an interrupt: each verb says what was kept, and how to go on."""

from __future__ import annotations

from posteriori.errors import PosterioriError


class Interrupted(PosterioriError):  # noqa: N818 - nothing is wrong with what was asked for
    """The run was interrupted; the hint says what there is of it."""

    def __init__(self, hint: str, *, after: str | None = None) -> None:
        super().__init__(f"interrupted after {after}" if after else "interrupted", hint=hint)

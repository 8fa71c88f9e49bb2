"""What a check raises."""

from __future__ import annotations

from posteriori.errors import PosterioriError


class CheckFailedError(PosterioriError, AssertionError):
    """What was checked does not do what it says.

    An `AssertionError` too, as tests expect.

    Args:
        what: what is wrong.
        where: in which part of what was checked.
        hint: what to do next.

    Example:
        >>> from posteriori import testing
        >>> issubclass(testing.CheckFailedError, AssertionError)
        True
    """

"""How a server is set up."""

from __future__ import annotations

from pydantic import Field

from posteriori.core.settings.strict import Strict


class ServeConfig(Strict):
    """Settings of a server.

    Args:
        name: the model's name in requests and answers.
        num_samples: draws that are weighed per prompt, of which those of the answer are resampled,
            by samplers whose draws have weights.
        most_choices: the largest `n` of a request.
        most_prompts: prompts in one request.
        running: requests that are drawn for at once.
        waiting: requests that may wait beside them; a further one is refused (429).
        share_seeded: let requests with a seed share passes over the model too; the same seed then
            gives the same draws up to rounding, which may turn a token now and then.
        deadline: seconds from a request's arrival to its answer.
        body_bytes: the largest body.
        body_seconds: time in which a body has to have arrived.
        drain_seconds: time that requests have at the end of the server.

    Raises:
        ConfigError: for an unknown setting, or a value that is out of its range.

    Example:
        >>> from posteriori.serve.settings import ServeConfig
        >>> ServeConfig(name="polite").waiting
        256
    """

    name: str = Field(min_length=1, max_length=200)
    num_samples: int = Field(default=256, ge=1)
    most_choices: int = Field(default=128, ge=1)
    most_prompts: int = Field(default=32, ge=1)
    running: int = Field(default=16, ge=1, le=256)
    waiting: int = Field(default=256, ge=0)
    share_seeded: bool = False
    deadline: float = Field(default=120.0, gt=0)
    body_bytes: int = Field(default=2**20, ge=64)
    body_seconds: float = Field(default=10.0, gt=0)
    drain_seconds: float = Field(default=30.0, ge=0)

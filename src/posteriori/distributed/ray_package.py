"""Ray itself, which is an extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from posteriori.errors import ConfigError


def ray_module(name: str = "ray") -> Any:
    """Ray, or a module in it. Raises `ConfigError` where it is not installed."""
    try:
        # A folder called ray, such as the one that Ray leaves in /tmp, can be imported as well.
        if not hasattr(import_module("ray"), "__version__"):
            raise ImportError("there is a folder of its name, and no package")
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"Ray cannot be imported: {error}",
            where="Ray",
            hint="pip install 'posteriori[ray]'",
        ) from error

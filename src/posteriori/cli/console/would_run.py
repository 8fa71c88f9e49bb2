"""What a verb would do, for `--dry-run`: its settings one by one, and the work in a sentence."""

from __future__ import annotations

import json

from pydantic import BaseModel

from posteriori.config.read_config import as_settings

from .output import print_json, stdout, visible


def show_plan(name: str, settings: BaseModel, would_run: str, *, as_json: bool) -> int:
    """The table `name` with everything that is not written in it; the verb's exit code."""
    if as_json:
        config = settings.model_dump(mode="json", exclude_none=True)
        print_json({name: config, "would_run": would_run})
        return 0
    console = stdout()
    for key, value in as_settings(settings.model_dump(mode="json"), name).items():
        console.print(f"{key} = {visible(json.dumps(value, ensure_ascii=False))}", soft_wrap=True)
    console.print(f"\nwould run: {visible(would_run)}", soft_wrap=True)
    return 0

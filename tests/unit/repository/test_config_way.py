"""A value of a run file comes to its use on a short way."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[3] / "scripts" / "config_way.py"


def _script():
    spec = importlib.util.spec_from_file_location("config_way", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("at", range(3), ids=["fit", "evidence", "sampler"])
def test_a_value_passes_few_functions(at, capsys):
    script = _script()
    passed = script.way(script.SETTINGS[at])
    assert passed[0] == "config/read_config.py: read_config"
    assert any(each.endswith(script.SETTINGS[at].used_by) for each in passed), "it came to its use"
    assert len(passed) <= script.MOST, "\n".join(passed)

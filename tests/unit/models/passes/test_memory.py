"""`memory_gib` bounds what the process grows by, and not only the tensors that are alive."""

from __future__ import annotations

import subprocess
import sys

import pytest

from posteriori.models.passes.memory import resident_bytes

pytestmark = pytest.mark.long

_SCRIPT = """
import torch
from helpers import tiny_lm
from posteriori.models.passes.memory import resident_bytes

lm = tiny_lm("gpt2", memory_gib={memory_gib})
completions = lm.completions(["a b"], [[1, 0]])
lm.log_prob(completions)
# Every second block is freed: 200 MB lie free between blocks of 100 kB that are still in use.
blocks = [torch.ones(25_000) for _ in range(4000)]
blocks = blocks[::2]
before = resident_bytes()
lm.log_prob(completions)
print(before - resident_bytes())
"""


@pytest.mark.skipif(not resident_bytes(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize(
    ("memory_gib", "given_back"),
    [(0.1, True), (1.5, False)],
    ids=["beyond the bound", "within it"],
)
def test_what_the_allocator_keeps_is_given_back_beyond_the_bound(memory_gib, given_back):
    script = _SCRIPT.format(memory_gib=memory_gib)
    path = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=path, capture_output=True, text=True, check=True
    )
    # The freed blocks are 200 MB; whole pages of them can be given back.
    assert (int(done.stdout) > 150e6) is given_back

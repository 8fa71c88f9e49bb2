"""Checks of exactness, for authors of plugins: one call each, and a `CheckFailedError` says
what is wrong.

    from posteriori import testing
    testing.check_gradient(MyObjective)

Nothing is read from files and nothing is downloaded: the worlds are tables over a few words, where
every outcome is written down. Read `cases.py` first, then `gradient.py`; docs/plugins.md says which
check is for what. It may import everything but the command line.
"""

from __future__ import annotations

from .cases import Case, model_case, outcomes_of, table_case
from .divergences import Divergence
from .evidence import check_evidence
from .failures import CheckFailedError
from .fits import check_fit
from .gradient import check_gradient
from .kernels import check_kernel
from .language_model import check_language_model
from .mutants import check_mutants
from .twists import check_twist
from .weighting import check_sampler

__all__ = [
    "Case",
    "CheckFailedError",
    "Divergence",
    "check_evidence",
    "check_fit",
    "check_gradient",
    "check_kernel",
    "check_language_model",
    "check_mutants",
    "check_sampler",
    "check_twist",
    "model_case",
    "outcomes_of",
    "table_case",
]

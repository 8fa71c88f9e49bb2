"""Whether weighted draws can be trusted, and the words that say so.

Read `weights.py` first: the rule for k-hat and the error of log Z. May import the rest of core.
"""

from .findings import (
    DOUBTS,
    LOG_Z_NOT_TRUSTED,
    NEVER_SATISFIED,
    NEVER_VARIES,
    NOT_TRUSTED,
    ONLY_A_BOUND,
    RESTS_ON_WEIGHTS,
    WASTE_NOT_TRUSTED,
    finding,
    judged,
    trusted,
)
from .largest_evidence import (
    beyond,
    is_graded,
    is_known,
    jumps,
    levels,
    most_evidence,
    never_varies,
    rests_on,
)
from .particles import largest_missed
from .sizes import LARGE_ERROR, NORMAL, RULE_OF_THREE
from .unseen import SURPRISE, left_out, missed, missed_at, missed_of_mean, rarest
from .weights import (
    NEARLY_EQUAL,
    NO_WEIGHT,
    fault,
    fault_of,
    fault_of_groups,
    heavy_tail,
    large,
    share_the_largest,
)

__all__ = [
    "DOUBTS",
    "LARGE_ERROR",
    "LOG_Z_NOT_TRUSTED",
    "NEARLY_EQUAL",
    "NEVER_SATISFIED",
    "NEVER_VARIES",
    "NORMAL",
    "NOT_TRUSTED",
    "NO_WEIGHT",
    "ONLY_A_BOUND",
    "RESTS_ON_WEIGHTS",
    "RULE_OF_THREE",
    "SURPRISE",
    "WASTE_NOT_TRUSTED",
    "beyond",
    "fault",
    "fault_of",
    "fault_of_groups",
    "finding",
    "heavy_tail",
    "is_graded",
    "is_known",
    "judged",
    "jumps",
    "large",
    "largest_missed",
    "left_out",
    "levels",
    "missed",
    "missed_at",
    "missed_of_mean",
    "most_evidence",
    "never_varies",
    "rarest",
    "rests_on",
    "share_the_largest",
    "trusted",
]

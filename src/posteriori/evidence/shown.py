"""How evidence looks at a prompt."""

from __future__ import annotations

from posteriori.core.hooks import BetaEvidence, Named


class ShownEvidence:
    """Evidence shows its name, and its beta where it has one."""

    def __repr__(self) -> str:
        name = self.name if isinstance(self, Named) else ""
        # "reward function 'warmth'" is warmth; a name without quotes is itself.
        named = name.partition(" '")[2].removesuffix("'") or name
        beta = self.beta if isinstance(self, BetaEvidence) else None
        parts = [named, *([] if beta is None else [f"beta={beta:g}"])]
        return f"{type(self).__name__}({', '.join(part for part in parts if part)})"

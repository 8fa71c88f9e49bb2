"""What each stage has spent and wasted, in nats from the model that it all began with."""

from __future__ import annotations

import argparse
from pathlib import Path

import posteriori as po


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sft", type=Path, help="the policy of the first stage")
    parser.add_argument("rl", type=Path, help="the policy of the last stage")
    parser.add_argument("--num-samples", type=int, default=400, help="draws per prompt")
    given = parser.parse_args(arguments)
    # The frontier is the base model's, for what people like: no stage has seen it.
    target = po.load_target(Path(__file__).with_name("people.toml"))
    models = {"base": target.prior, "sft": po.load(given.sft), "rl": po.load(given.rl)}
    print(
        f"{'':6}{'liked':>18}{'KL to base':>18}{'wasted':>18}{'spent here':>14}{'wasted here':>14}"
    )
    before = (0.0, 0.0)
    for name, lm in models.items():
        report = po.evaluate(target, lm, num_samples=given.num_samples, seed=2)
        kl, wasted = report["kl_to_prior"], report["wasted_nats"]
        told = "".join(f"{report_!s:>18}" for report_ in (report["mean_reward"], kl, wasted))
        here = kl.value - before[0], wasted.value - before[1]
        print(f"{name:6}{told}{here[0]:>14.3f}{here[1]:>14.3f}")
        before = kl.value, wasted.value
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

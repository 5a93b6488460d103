"""Map quality under float32, mixed_bfloat16 and mixed_float16: digits, defaults, several seeds.

    python benchmarks/precision.py [--seeds 3] [--json precision.json]

P and the loss are float32 under every policy; only the encoder computes in half precision.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import keras
from digits import quality, table

from ptsne_keras import ParametricTSNE, datasets

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def run(seed: int) -> dict[str, dict[str, float]]:
    """One split, one fit under each policy."""
    train, test = datasets.digits(seed=seed)
    results = {}
    for policy in POLICIES:
        keras.config.set_dtype_policy(policy)
        tsne = ParametricTSNE(placement=False, random_state=seed).fit(train[0])
        Y_train, Y_test = tsne.transform(train[0]), tsne.transform(test[0])
        seconds = sum(tsne.history_["finetune"]["seconds"])
        results[policy] = {**quality(Y_train, Y_test, train, test), "fit s": seconds}
        print(seed, policy, {k: round(v, 3) for k, v in results[policy].items()}, flush=True)
    return results


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="also write every run to this file")
    options = parser.parse_args()
    runs: list[Any] = [run(seed) for seed in range(options.seeds)]
    print("\n" + table(runs))
    if options.json:
        Path(options.json).write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()

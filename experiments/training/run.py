r"""Does training decide how well a delta merges? Five optimizers, six merges, superposition; three seeds.

    python experiments/training/run.py --epochs 8 --out OUT
    python experiments/training/run.py --family FOLDER --work DIR --epochs 2 --sentences 1000 \
        --score 150 --choice 60 --out OUT

Every model starts from one base and sees the same batches in the same order. Merges choose their coefficient
on inputs apart from the test. Writes OUT/results/saft-digits.json, saft-digits.png and the tables of
OUT/results/training.md; for a FOLDER with a finetune.py the same with "sentences". What was tuned and judged
there stays in DIR, so a run that was cut off goes on; with --optimizers several processes share the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # experiments/: modules are named from there
from families import sentences
from training import report
from training.judging import judged
from training.tuning import Costs, SentenceTuning, digits_families


def main() -> None:
    arguments = parsed()
    runs = []
    judging = judged_digits if arguments.family == "digits" else judged_sentences
    for seed, name, cost, found in judging(arguments):
        runs.append({"seed": seed, "optimizer": name, **cost, "accuracy": found})
        shown = "  ".join(f"{method} {100 * value:.1f}" for method, value in found.items())
        print(f"seed {seed}  {name:18} {shown}", flush=True)
    if arguments.tune_only or arguments.optimizers:
        return
    places = ("family", "out", "work", "tune_only", "optimizers")
    result = {
        "family": arguments.family if arguments.family == "digits" else "sentences",
        "arguments": {name: str(value) for name, value in vars(arguments).items() if name not in places},
        "torch": torch.__version__,
        "runs": runs,
    }
    report.write(result, arguments.out)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--hidden", type=int, default=256, help="of the digits' networks")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--work", type=Path, help="where a sentence family's fine-tunes are kept")
    parser.add_argument("--sentences", type=int, default=1500, help="that each model is tuned with")
    parser.add_argument("--score", type=int, help="test sentences of each task (default: all)")
    parser.add_argument(
        "--choice", type=int, default=300, help="sentences of each task for choosing a coefficient"
    )
    parser.add_argument("--tune-only", action="store_true", help="judge later")
    parser.add_argument("--optimizers", nargs="+", help="of a sentence family: these alone")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.family != "digits" and arguments.work is None:
        parser.error("a sentence family needs --work")
    return arguments


Judged = tuple[int, str, Costs, dict[str, float]]
"""(seed, optimizer, step time and memory, accuracies)"""


def judged_digits(arguments: argparse.Namespace) -> Iterable[Judged]:
    for seed in arguments.seeds:
        for name, family, cost in digits_families(arguments.hidden, arguments.epochs, seed):
            yield seed, name, cost, judged(family, seed)


def judged_sentences(arguments: argparse.Namespace) -> Iterable[Judged]:
    """Of what WORK does not hold yet, tuned; of what was not judged yet by as many sentences, judged."""
    folder = Path(arguments.family)
    tuning = SentenceTuning(folder, arguments.work, arguments.sentences, arguments.epochs)
    names = arguments.optimizers or list(tuning.makes)
    for seed in arguments.seeds:
        for name in names:
            tuning.tune(name, seed)
    if arguments.tune_only:
        return
    costs = tuning.costs()
    for seed in arguments.seeds:
        for name in names:
            tuned = tuning.folder(name, seed)
            kept = tuned / f"judged-{arguments.score}-{arguments.choice}.json"
            if not kept.is_file():
                family = sentences(folder, [tuned], arguments.score, arguments.choice)
                kept.write_text(json.dumps(judged(family, seed), indent=1) + "\n")
            yield seed, name, costs[name], json.loads(kept.read_text())


if __name__ == "__main__":
    main()

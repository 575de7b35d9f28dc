"""Whole models in the shapes of a 7 B Llama in bf16, and optimizer steps over 1 B parameters.

python bench/gpu/models.py [--device cuda] [--quick] [--only superpose retrieve ...] [--out FILE.json]

Everything is made on the device. A step that fails is reported and the others go on; the file is written
after every step. --quick takes tiny shapes, for a look at the script itself, on a CPU too.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench/: modules are named from there
from gpu import training, weights
from gpu.lab import Lab
from summary import table, write

Step = Callable[[Lab], None]

STEPS: dict[str, Step] = {step.__name__: step for step in (*weights.STEPS, *training.STEPS, weights.graphs)}
"""In their order. A capture that fails can leave a stream unusable, so graphs come last."""


def run(lab: Lab, chosen: dict[str, Step], out: Path | None) -> Iterator[str]:
    """Runs the steps, one after the other, and gives the names of those that fail."""
    for name, step in chosen.items():
        try:
            step(lab)
        except Exception:
            traceback.print_exc()
            yield name
        if lab.device == "cuda":
            torch.cuda.empty_cache()
        if out is not None:
            write(out, lab.results)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*STEPS], default=[*STEPS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "models.py: error: torch sees no CUDA device\n")
    lab = Lab(options.device, options.quick)
    chosen = {name: step for name, step in STEPS.items() if name in options.only}
    failed = [*run(lab, chosen, options.out)]
    print("\n".join(table(lab.results)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

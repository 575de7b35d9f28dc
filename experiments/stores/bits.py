"""Accuracy against bits per parameter and model, on real fine-tunes: docs/results/FAMILY-bits.json and .png.

    python experiments/stores/bits.py --family digits --out docs/results
    python experiments/stores/bits.py --family FOLDER --tuned DIR [DIR ...] --out docs/results

FOLDER holds a ``finetune.py`` as ``families.Sentences`` wants it, the DIRs what that and ``tune_family.py``
wrote. Matrices are kept in few bits, all else exactly. Where a count asks for more models than are tuned,
their deltas go in again, under other seeds of the transform.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # experiments/: modules are named from there
from stores import bits_pictures
from stores.methods import RATES, ours
from stores.scored_run import Run, parser_of

from pydelta import key
from pydelta.core.levels import DISTORTIONS

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    run = Run(parser_of(__doc__, COUNTS).parse_args(), seeds=8)
    proof, given = run.proof, run.arguments
    points = [*proof.alone(max(given.counts)), *proof.together(given.counts)]
    bits_pictures.draw(*run.write("bits", points, gaussian=gaussian(given.seed)))


def gaussian(seed: int) -> list[dict[str, float]]:
    """The relative squared error of Gaussian deltas, predicted and found, at each rate."""
    torch.manual_seed(seed)
    base, found = torch.zeros(512, 1024), []
    for rate in RATES:
        method = ours(rate, "hadamard")
        tuned = [torch.randn(base.shape) for _ in range(method.models)]
        keys = [key(seed, "signs", str(i)) for i in range(method.models)]
        summed = method.superpose(base, tuned, keys)
        assert method.code is not None
        errors = [
            ((method.restore(base, summed, k) - x).square().sum() / x.square().sum()).item()
            for x, k in zip(tuned, keys, strict=True)
        ]
        predicted = method.models / (1 - DISTORTIONS[method.code]) - 1
        found.append({"rate": rate, "predicted": predicted, "found": fmean(errors)})
        print(f"Gaussian, {rate} bits: predicted {predicted:.4f}, found {fmean(errors):.4f}", flush=True)
    return found


if __name__ == "__main__":
    main()

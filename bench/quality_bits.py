"""Accuracy against bits per parameter and model, on real fine-tunes: docs/quality/FAMILY-bits.json and .png.

    python bench/quality_bits.py --family digits --out docs/quality
    python bench/quality_bits.py --family FOLDER --tuned DIR [DIR ...] --out docs/quality

FOLDER holds a ``finetune.py`` as ``families.Sentences`` wants it, the DIRs what that and ``tune_family.py``
wrote. Matrices are kept in few bits, all else exactly. Where a count asks for more models than are tuned,
their deltas go in again, under other seeds of the transform.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

import bits_methods
import bits_pictures
import torch
from bits_methods import RATES
from bits_proof import Proof
from families import digits, sentences

import pydelta
from pydelta import key
from pydelta._levels import DISTORTIONS

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", default="digits")
    parser.add_argument("--tuned", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/quality"))
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--sample", type=int, default=16, help="models that are scored at each point")
    parser.add_argument("--sentences", type=int, help="of each task that are scored; default: all")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    started = time.time()
    family = (
        digits(arguments.seed, seeds=8)
        if arguments.family == "digits"
        else sentences(Path(arguments.family), arguments.tuned, arguments.sentences)
    )
    proof = Proof(family, arguments.sample, arguments.seed)
    points = [*proof.alone(max(arguments.counts)), *proof.together(arguments.counts)]
    result = {
        "family": family.name,
        "seed": arguments.seed,
        "tuned_models": len(family.tuned),
        "tasks": len(set(family.tasks.values())),
        "counts": list(arguments.counts),
        "sample": arguments.sample,
        "sentences": arguments.sentences,
        "parameters": proof.parameters,
        "tuned": proof.tuned,
        "no_bits": proof.untuned(max(arguments.counts)),
        "points": points,
        "gaussian": gaussian(arguments.seed),
        "torch": torch.__version__,
        "pydelta": pydelta.__version__,
        "minutes": (time.time() - started) / 60,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{family.name}-bits.json").write_text(json.dumps(result, indent=1) + "\n")
    bits_pictures.draw(result, arguments.out / f"{family.name}-bits.png")


def gaussian(seed: int) -> list[dict[str, float]]:
    """The relative squared error of Gaussian deltas, predicted and found, at each rate."""
    torch.manual_seed(seed)
    base, found = torch.zeros(512, 1024), []
    for rate in RATES:
        method = bits_methods.ours(rate, "hadamard")
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

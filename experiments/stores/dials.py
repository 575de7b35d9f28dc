"""What the dials of a store pay on real fine-tunes, accuracy against bytes: docs/results/FAMILY-dials.*

    python experiments/stores/dials.py --family digits --out docs/results
    python experiments/stores/dials.py --family FOLDER --tuned DIR [DIR ...] --out docs/results

FOLDER and the DIRs are as ``bits.py`` wants them. Every point is a store on disk: its bits are those
of its sums, codes, scales and residuals over parameters and models, without tensors that are kept exactly.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # experiments/: modules are named from there
from stores import dials_picture
from stores.proof import Proof
from stores.scored_run import Run, parser_of

import pydelta
from pydelta import Superposition, save_checkpoint

LEVELS: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bf16"},
    "1": {"rate": 1},
    "1/2": {"rate": 0.5},
    "1/4": {"rate": 0.25},
}
"""How sums are kept: in bf16, or in codes at a rate."""

DIALS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "signs": {"transform": "sign"},
    "transform auto": {"transform": "auto"},
    "lambda": {"calibration": True},
    "largest 1/2": {"mask": "magnitude", "keep": 0.5},
    "largest 1/5": {"mask": "magnitude", "keep": 0.2},
    "Breadcrumbs 1/2": {"mask": "breadcrumbs", "keep": 0.5},
    "DARE 1/2": {"mask": "random", "keep": 0.5},
    "residual 1 %": {"residual": 0.01},
    "residual 5 %": {"residual": 0.05},
}
COUNTS = (2, 8, 32)
OF_NO_MATRIX = ("base", "exact", "heads", "open", "per_model")
"""Sizes of a store that are not of its matrices."""


def main() -> None:
    parser = parser_of(__doc__, COUNTS)
    parser.add_argument("--levels", choices=LEVELS, nargs="+", default=list(LEVELS))
    run = Run(parser.parse_args(), seeds=4)
    given = run.arguments
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores(run.proof, Path(folder), given.seed)
        points = [
            stores.point(dial, level, count)
            for count in given.counts
            for level in given.levels
            for dial in DIALS
            if count * LEVELS[level].get("rate", 1) >= 1
        ]
    dials_picture.draw(*run.write("dials", points))


class Stores:
    """Stores of a family's first models, and how well those come back."""

    def __init__(self, proof: Proof, folder: Path, seed: int) -> None:
        self.proof, self.folder, self.seed = proof, folder, seed
        save_checkpoint(dict(proof.family.base), folder / "base.safetensors")
        self.calibrations: dict[str, pydelta.Calibration] = {}

    def checkpoint(self, name: str) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            save_checkpoint(dict(self.proof.family.tuned[name]), path)
        return path

    def point(self, dial: str, level: str, count: int) -> dict[str, Any]:
        models = self.proof.models(count)
        options = {**LEVELS[level], **DIALS[dial]}
        if options.pop("calibration", False):
            options["calibration"] = {model.label: self.calibration(model.tuned) for model in models}
        paths = {model.label: self.checkpoint(model.tuned) for model in models}
        base, out = self.folder / "base.safetensors", self.folder / "store"
        store = Superposition.create(base, paths, out, seed=self.seed, force=True, **options)
        if store.describe()["bits"] is not None:
            store = store.seal()
        sizes = store.describe()["sizes"]
        matrices = sum(size for kind, size in sizes.items() if kind not in OF_NO_MATRIX)
        kept, errors = [], []
        for model in self.proof.sample(models):
            restored, tuned = store.retrieve(model.label), self.proof.family.tuned[model.tuned]
            lost = sum((restored[x] - tuned[x]).double().square().sum().item() for x in self.proof.matrices)
            errors.append(lost / self.proof.norm(model.tuned))
            kept.append(self.proof.score(model.tuned, restored) / self.proof.accuracy(model.tuned))
        found = {
            "dial": dial,
            "level": level,
            "models": count,
            "bits": 8 * matrices / self.proof.parameters / count,
            "kept": fmean(kept),
            "standard_error": stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else None,
            "scored": len(kept),
            "error": fmean(errors),
        }
        shown = f"{100 * found['kept']:6.2f} %, error {found['error']:.3g}"
        print(f"{dial:16} {level:>4} {count:3} models {found['bits']:7.3f} bits: {shown}", flush=True)
        return found

    def calibration(self, name: str) -> pydelta.Calibration:
        if name not in self.calibrations:
            self.calibrations[name] = self.proof.family.calibrate(name)
        return self.calibrations[name]


if __name__ == "__main__":
    main()

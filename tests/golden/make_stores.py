"""Makes the golden stores of the present format anew: only for a new version, in a folder of its own.

PYTHONPATH=tests/support python tests/golden/make_stores.py

Those of version 1, beside this file, were made by the pydelta that wrote it.
"""

import json
import shutil
from pathlib import Path

import torch
from store_forms import LATEST

import pydelta
from pydelta.calibration import Calibration, LayerStatistics
from pydelta.superposition.format.manifest import VERSION

LAYER = "model.layers.1.mlp.weight"
HERE = Path(__file__).parent
SHAPES = {
    "model.layers.0.mlp.weight": (4, 24),
    "model.layers.1.mlp.weight": (4, 24),
    "model.layers.10.mlp.weight": (4, 24),
    "model.layers.0.norm.weight": (24,),
    "conv.weight": (2, 5, 3, 3),
}


def values(factor: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in [-1, 1) that need no random generator."""
    count = torch.Size(shape).numel()
    return ((torch.arange(1, count + 1) * factor % 1021).float() / 512 - 1).reshape(shape).bfloat16()


def main() -> None:
    base = {name: values(397 + i, shape) for i, (name, shape) in enumerate(SHAPES.items())}
    buffers = {"position_ids": torch.arange(3)}
    pydelta.save_checkpoint(base | buffers, HERE / "base", force=True)
    for file, factor in (("a", 7), ("b", 11)):
        tuned = {n: (x.float() + values(factor, x.shape).float() / 64).bfloat16() for n, x in base.items()}
        pydelta.save_checkpoint(tuned | buffers, HERE / f"{file}.safetensors", force=True)
    inputs = values(13, (9, 24)).float() * torch.arange(24)
    delta = pydelta.load_checkpoint(HERE / "b.safetensors")[LAYER].float() - base[LAYER].float()
    output = float((inputs @ delta.T).square().sum())
    layer = LayerStatistics(inputs.norm(dim=0), inputs.mean(0), len(inputs), 1, output)
    Calibration({LAYER: layer}).save(HERE / "calibration.safetensors", force=True)
    models = {"a/ä": HERE / "a.safetensors", "b": HERE / "b.safetensors"}
    for kind, options in LATEST.items():
        folder = HERE / f"v{VERSION}" / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        with pydelta.use_backend("reference"):
            store = pydelta.Superposition.create(HERE / "base", models, folder, **options)
            for name, path in models.items():
                store.retrieve(name, folder.with_name(f"{kind}-{path.name}"), force=True)
        content = json.loads((store.path / "store.json").read_text())
        content["base"] |= {"path": "base", "stamps": {}}
        (store.path / "store.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
        (store.path / "log.jsonl").write_text("")


if __name__ == "__main__":
    main()

"""The bytes of a store of many fine-tunes of a 22.7 M-parameter encoder, beside those of one bf16 checkpoint.

    python experiments/stores/bytes.py [--models 32] [--dtype fp32]

Bytes depend on shapes, dtype and rate alone, so random weights will do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from pydelta import Superposition, save_checkpoint

WIDTH, INNER, LAYERS, VOCABULARY = 384, 1536, 6, 30522
RATES = (16, 1, 0.5, 0.25, 0.125)


def shapes() -> dict[str, tuple[int, ...]]:
    """MiniLM's: a BERT of six layers."""
    found: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (rows, WIDTH)
        for name, rows in (("word", VOCABULARY), ("position", 512), ("token_type", 2))
    }
    linear = {"pooler.dense": (WIDTH, WIDTH)}
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{part}"] = (WIDTH, WIDTH)
        linear |= {f"{layer}.intermediate.dense": (INNER, WIDTH), f"{layer}.output.dense": (WIDTH, INNER)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, (rows, columns) in linear.items():
        found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return found | {f"{name}.{kind}": (WIDTH,) for name in norms for kind in ("weight", "bias")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="of the base")
    arguments = parser.parse_args()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.dtype]
    base = {name: (0.05 * torch.randn(shape)).to(dtype) for name, shape in shapes().items()}
    tuned = {name: (x.float() + 1e-3 * torch.randn(x.shape)).to(dtype) for name, x in base.items()}
    checkpoint = 2 * sum(x.numel() for x in base.values())
    print(f"{arguments.models} models, base in {arguments.dtype}; one bf16 checkpoint {checkpoint:,} bytes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(base, folder / "base")
        save_checkpoint(tuned, folder / "tuned.safetensors")
        models = {f"m{i}": folder / "tuned.safetensors" for i in range(arguments.models)}
        for rate in RATES:
            store = Superposition.create(folder / "base", models, folder / "store", rate=rate, force=True)
            found = store.describe()
            kinds = ", ".join(f"{kind} {size:,.0f}" for kind, size in found["sizes"].items() if size)
            share = found["bytes"] / checkpoint
            print(f"rate {rate}: {found['bytes']:,} bytes, {share:.3f} of the checkpoint ({kinds})")


if __name__ == "__main__":
    main()

"""Small checkpoints for tests, and safetensors files byte by byte."""

import json
import struct

import torch

from pydelta import load_checkpoint, save_checkpoint


def state(seed, *, dtype=torch.float32, layers=3, out=24, width=40):
    """A toy network: matrices, norms, a convolution, a scalar and a buffer."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {"embed.weight": torch.randn(30, width, generator=generator)}
    for layer in range(layers):
        tensors[f"layers.{layer}.linear.weight"] = torch.randn(out, width, generator=generator)
        tensors[f"layers.{layer}.norm.weight"] = torch.randn(width, generator=generator)
    tensors["conv.weight"] = torch.randn(6, 5, 3, 3, generator=generator)
    tensors["scale"] = torch.randn((), generator=generator)
    tensors = {name: x.to(dtype) for name, x in tensors.items()}
    return {**tensors, "position_ids": torch.arange(7), "empty": torch.empty(0, width, dtype=dtype)}


def tuned(base, seed, size=0.01):
    """``base`` with random deltas of equal expected norm."""
    noise = state(seed)
    return {
        name: (x.float() + size * noise[name]).to(x.dtype) if x.is_floating_point() and x.numel() else x
        for name, x in base.items()
    }


def family(folder, count, *, dtype=torch.float32):
    """(base, models): state dicts, saved as ``base`` and ``m0.safetensors`` and on."""
    base = state(0, dtype=dtype)
    models = {f"m{i}": tuned(base, i + 1) for i in range(count)}
    save_checkpoint(base, folder / "base")
    for name, model in models.items():
        save_checkpoint(model, folder / f"{name}.safetensors")
    return base, models


def paths(folder, names):
    return {name: folder / f"{name}.safetensors" for name in names}


def equal(a, b):
    """Same names, dtypes, shapes and bits."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def sums(store):
    """All superposed tensors of a store, by their stored names."""
    files = sorted(store.glob("superposed-*.safetensors"))
    return {name: x for file in files for name, x in load_checkpoint(file).items()}


def raw(header, data=b"", length=None):
    """A file with any header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def listing(folder):
    """Every file below a folder with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

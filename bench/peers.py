"""What a user would run without this package: plain torch, scipy's matrix, other packages' transforms."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence

import torch
from harness import Run


def butterflies(x: torch.Tensor, block: int) -> torch.Tensor:
    """The orthonormal Walsh-Hadamard transform as it is usually written in torch."""
    y, h = x.float(), 1
    while h < block:
        y = y.view(-1, block // (2 * h), 2, h)
        y = torch.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), dim=2)
        h *= 2
    return (y.view(x.shape) / math.sqrt(block)).to(x.dtype)


def random_signs(n: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(0, 2, (n,), generator=generator, device=device, dtype=torch.float32) * 2 - 1


def sign_flip(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return x * random_signs(x.shape[-1], seed, x.device).to(x.dtype)


def rotate(x: torch.Tensor, block: int, seed: int = 0) -> torch.Tensor:
    outer = random_signs(x.shape[-1], seed + 1, x.device)
    return butterflies(x.float() * random_signs(x.shape[-1], seed, x.device), block).mul_(outer).to(x.dtype)


def superpose(
    base: torch.Tensor, tuned: Sequence[torch.Tensor], transform: str, block: int, out_dtype: torch.dtype
) -> torch.Tensor:
    total = torch.zeros_like(base, dtype=torch.float32)
    for seed, theta in enumerate(tuned):
        delta = theta.float() - base.float()
        total += sign_flip(delta, seed) if transform == "sign" else rotate(delta, block, seed)
    return total.to(out_dtype)


def retrieve(base: torch.Tensor, superposed: torch.Tensor, transform: str, block: int) -> torch.Tensor:
    total = superposed.float()
    delta = sign_flip(total) if transform == "sign" else rotate(total, block)
    return (base.float() + delta).to(base.dtype)


@functools.cache
def hadamard_matrix(block: int) -> torch.Tensor:
    from scipy.linalg import hadamard

    return torch.from_numpy(hadamard(block, dtype="float32")) / math.sqrt(block)


def matmul(x: torch.Tensor, out: torch.Tensor, block: int) -> Run:
    matrix = hadamard_matrix(block).to(x)
    return lambda: torch.matmul(x.view(-1, block), matrix, out=out.view(-1, block))


def fast_transforms(x: torch.Tensor, out: torch.Tensor, block: int, threads: int) -> dict[str, Run]:
    """The packages for this device and dtype that are installed; in place where ``out`` is ``x``."""
    if x.is_cuda:
        if importlib.util.find_spec("fast_hadamard_transform") is None:
            return {}
        from fast_hadamard_transform import hadamard_transform

        scale = 1 / math.sqrt(block)
        return {"fast_hadamard_transform": lambda: hadamard_transform(x.view(-1, block), scale)}
    if x.dtype is not torch.float32 or importlib.util.find_spec("fht_cpu") is None:
        return {}
    from fht_cpu import fht

    shape = (block,) if x.numel() == block else (-1, block)
    source, target = x.view(*shape).numpy(), out.view(*shape).numpy()
    if x.data_ptr() == out.data_ptr():
        return {"fht-cpu": lambda: fht(target, num_threads=threads)}
    return {"fht-cpu": lambda: fht(source, out=target, num_threads=threads)}

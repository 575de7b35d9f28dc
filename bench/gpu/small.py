"""Every kernel of a backend once or more, on small shapes, beside the reference: what the sanitizer watches.

python bench/gpu/small.py [--backend cuda triton] [--device cuda]

Shapes have whole and ragged vectors, one and several tiles, blocks within a warp, within a thread block and
the longest; lists have empty and odd tensors. Results are compared bit for bit, products to a tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

import pydelta
from pydelta import ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((3, 96), (5, 1000), (70, 256))
BLOCKS = (64, 1024, 4096, 16384, 32768)
KEYS = [pydelta.key(7, "signs", f"model {i}") for i in range(40)]

Check = tuple[str, Callable[[str], Any]]
"""What is run, and the op on a backend given by name."""


class Inputs:
    """Normal numbers on the device, the same in every run."""

    def __init__(self, device: str) -> None:
        self.device, self.generator = torch.device(device), torch.Generator().manual_seed(0)

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype)

    def some(self, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
        return [self(shape, dtype) for _ in range(count)]


def transforms(given: Inputs) -> Iterator[Check]:
    for dtype in DTYPES:
        for block in BLOCKS:
            x = given((3, block), dtype)
            yield f"hadamard {block} {dtype}", lambda b, x=x: pydelta.hadamard(x, backend=b)
            yield f"rotate {block} {dtype}", lambda b, x=x: pydelta.rotate(x, KEYS[0], backend=b)
        for shape in SHAPES:
            x, y = given.some(2, shape, dtype)
            for dim in (0, 1):
                yield (
                    f"sign_flip dim {dim} {shape} {dtype}",
                    lambda b, x=x, dim=dim: pydelta.sign_flip(x, KEYS[0], dim=dim, backend=b),
                )
                for transform in ("sign", "hadamard"):
                    options = {"transform": transform, "dim": dim}
                    yield (
                        f"retrieve {options} {shape} {dtype}",
                        lambda b, x=x, y=y, o=options: pydelta.retrieve(x, y, KEYS[0], **o, backend=b),
                    )
                    yield (
                        f"superpose {options} {shape} {dtype}",
                        lambda b, x=x, y=y, o=options: pydelta.superpose(
                            x, [y] * 3, KEYS[:3], **o, backend=b
                        ),
                    )
    x, many = given((3, 96), torch.bfloat16), given.some(40, (3, 96), torch.bfloat16)
    yield "superpose 40", lambda b: pydelta.superpose(x, many, KEYS, backend=b)


def masked(given: Inputs) -> Iterator[Check]:
    for dtype in DTYPES:
        for shape in (*SHAPES, (2, 70_000)):
            x, base = given.some(2, shape, dtype)
            for group in ("tensor", "row"):
                options = {"keep": 0.2, "drop_large": 0.01, "group": group, "base": base}
                yield (
                    f"magnitude_threshold {group} {shape} {dtype}",
                    lambda b, x=x, o=options: pydelta.magnitude_threshold(x, **o, backend=b),
                )
            cuts = pydelta.magnitude_threshold(x, keep=0.2, base=base, backend="reference")
            masks = [pydelta.RandomMask(0.3, KEYS[0]), pydelta.DellaMask(0.5, 0.4, KEYS[1]), cuts, None]
            for mask in masks[:3]:
                yield (
                    f"mask_rescale {type(mask).__name__} {shape} {dtype}",
                    lambda b, x=x, y=base, m=mask: pydelta.mask_rescale(x, m, base=y, backend=b),
                )
            for count, elect in ((4, "sum"), (4, "ties"), (40, "ties")):
                tuned, each = [x] * count, (masks * 10)[:count]
                yield (
                    f"merge_into {count} {elect} {shape} {dtype}",
                    lambda b, y=base, t=tuned, m=each, e=elect: pydelta.merge_into(
                        y, t, masks=m, elect=e, backend=b
                    ),
                )


def coded(given: Inputs) -> Iterator[Check]:
    for dtype in DTYPES:
        for n, group in ((96, "row"), (1000, "row"), (1000, 50), (4096, "row"), (4096, 64)):
            x, y = given.some(2, (5, n), dtype)
            for bits in (1, 2, 4, 8):
                options = {"bits": bits, "group": group}
                q = pydelta.quantize(y, **options, backend="reference")
                name = f"{bits} bits {n} {group} {dtype}"
                yield f"quantize {name}", lambda b, y=y, o=options: pydelta.quantize(y, **o, backend=b)
                yield f"dequantize {name}", lambda b, q=q: pydelta.dequantize(q, backend=b)
                for transform in ("sign", "hadamard"):
                    yield (
                        f"retrieve {transform} {name}",
                        lambda b, x=x, q=q, t=transform: pydelta.retrieve(
                            x, q, KEYS[0], transform=t, backend=b
                        ),
                    )
                    yield (
                        f"superpose {transform} {name}",
                        lambda b, x=x, y=y, t=transform, o=options: pydelta.superpose(
                            x, [y] * 2, KEYS[:2], transform=t, **o, backend=b
                        ),
                    )


def products(given: Inputs) -> Iterator[Check]:
    """Held to a tolerance: their sums have no order."""
    for dtype in DTYPES:
        for n, m in ((100, 37), (1100, 130)):
            x, weight, s = given((11, n), dtype), given((m, n), dtype), given((m, n), dtype)
            model, d, v = torch.arange(11) % 4, given((16,), torch.float32), given((m,), torch.float32)
            for bits in (1, 4):
                q = pydelta.quantize(s, bits=bits, backend="reference")
                yield (
                    f"~superposed_linear {bits} bits {n} x {m} {dtype}",
                    lambda b, x=x, w=weight, q=q, k=model: pydelta.superposed_linear(
                        x, w, q, KEYS[:4], k, backend=b
                    ),
                )
            yield (
                f"~vera_linear {n} x {m} {dtype}",
                lambda b, x=x, w=weight, d=d, v=v: pydelta.vera_linear(
                    x, w, d, v, KEYS[0], matrices="regenerated", backend=b
                ),
            )
            yield (
                f"vera_matrix {n} x {m} {dtype}",
                lambda b, n=n, m=m, t=dtype: pydelta.vera_matrix(
                    KEYS[0], "A", (n, m), dtype=t, device=given.device, backend=b
                ),
            )


def lists(given: Inputs) -> Iterator[Check]:
    for dtype in DTYPES:
        params, grads = ([given((n,), dtype) for n in (0, 1, 1000, 70_001)] for _ in range(2))
        first, second = ([given(x.shape, torch.float32).abs() for x in params] for _ in range(2))

        def perturbed(backend: str, params: Any = params, grads: Any = grads) -> list[torch.Tensor]:
            own = [x.clone() for x in params]
            pydelta.sam_perturb_(own, grads, rho=0.05, adaptive=True, eta=0.01, backend=backend)
            pydelta.sam_restore_(own[1:3], own[1:3], backend=backend)
            return own

        def stepped(
            backend: str, params: Any = params, grads: Any = grads, moments: Any = (first, second)
        ) -> list[torch.Tensor]:
            own = [[x.clone() for x in xs] for xs in (params, *moments)]
            pull = torch.tensor(1e-4, dtype=torch.float64, device=given.device)
            options = {"bases": grads, "pull": pull, "step": 3, "lr": 1e-2}
            pydelta.adamr_step_(own[0], grads, *own[1:], **options, backend=backend)
            return own[0] + own[1] + own[2]

        yield f"square_sums {dtype}", lambda b, g=grads: ops.square_sums(g, backend=b)
        yield f"sam_perturb_ {dtype}", perturbed
        yield f"adamr_step_ {dtype}", stepped


def tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    if dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
        return [x for x in found if isinstance(x, torch.Tensor)]
    return list(found)


def agree(name: str, found: Any, truth: Any) -> bool:
    pairs = zip(tensors(found), tensors(truth), strict=True)
    if not name.startswith("~"):
        return all(torch.equal(a, b) for a, b in pairs)
    return all(bool(((a - b).float().norm() <= 2e-2 * b.float().norm()).item()) for a, b in pairs)


def run(backend: str, device: str) -> tuple[int, list[str]]:
    """How many checks there were, and those whose results differ from the reference's."""
    count, wrong = 0, []
    given = Inputs(device)
    for group in (transforms, masked, coded, products, lists):
        for name, op in group(given):
            count += 1
            if not agree(name, op(backend), op("reference")):
                wrong.append(name)
    return count, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", nargs="+", default=["cuda", "triton"])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    failed = 0
    for backend in options.backend:
        count, wrong = run(backend, options.device)
        failed += len(wrong)
        print("\n".join([f"{backend}: {count} calls, {len(wrong)} differ from the reference", *wrong]))
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())

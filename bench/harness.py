"""What every benchmark shares: the grid, the buffers, the clock, and the interleaved measurement."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import pydelta

Run = Callable[[], object]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROWS = (256, 768, 1024, 4096, 11008, 14336, 32768)
GPU_ROWS = (512, 2048, 8192, 16384)
SIZES = (64 * KIB, MIB, 16 * MIB, 128 * MIB, 512 * MIB)
QUICK = {(4096, 64 * KIB), (4096, 128 * MIB), (11008, 128 * MIB)}
CACHED = 32 * MIB  # a case that moves less than this is timed with warm caches
LONG = 2.0  # seconds: a round that takes longer is not repeated
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ALL_THREADS = torch.get_num_threads()


@dataclasses.dataclass(frozen=True)
class Case:
    """One point of the grid. ``size``: bytes of all inputs together, at least one row of each; ``only``: the
    kind of device that it is for, if not for both."""

    row: int
    size: int
    dtype: torch.dtype
    threads: int
    inplace: bool = False
    only: str = ""

    def __str__(self) -> str:
        place = "in" if self.inplace else "out"
        return f"{DTYPES[self.dtype]}-{self.row}-{bytes_text(self.size)}-{self.threads}t-{place}"

    def shape(self, inputs: int = 1) -> tuple[int, int]:
        return max(1, self.size // (inputs * self.row * self.dtype.itemsize)), self.row

    @property
    def worth_slow_peers(self) -> bool:
        """Peers that take a hundred times longer are timed where it does not take minutes."""
        return self.size <= 16 * MIB or (self.size == 128 * MIB and self.row == 4096 and not self.inplace)


def grid(places: Sequence[bool] = (False, True), extra: Iterable[tuple[int, int]] = ()) -> list[Case]:
    """Every size at row 4096; on a CPU every row at the smallest size and beyond the cache, and ``extra``.

    On a GPU, where each block size is a kernel of its own, more rows, at a GiB, in place at row 4096.
    """
    points = [(4096, size, "") for size in SIZES]
    points += [(row, size, "cpu") for row in ROWS for size in (SIZES[0], SIZES[3]) if row != 4096]
    points += [(row, size, "cpu") for row, size in extra]
    points += [(row, GIB, "cuda") for row in sorted({*ROWS, *GPU_ROWS})]
    threads = sorted({1, ALL_THREADS})
    return [
        Case(row, size, dtype, count, inplace, only)
        for row, size, only in points
        for dtype in DTYPES
        for count in threads
        for inplace in places
        if not (inplace and only == "cuda" and row != 4096)
    ]


def bytes_text(size: int) -> str:
    return f"{size // MIB}MiB" if size >= MIB else f"{size // KIB}KiB"


class Device:
    """Memory and a clock on the device that is measured."""

    memory: ClassVar[
        dict[str, torch.Tensor]
    ] = {}  # kept from test to test: fresh pages cost more than the ops

    def __init__(self, device: str) -> None:
        self.device = device

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """The memory of that name, which has been touched before it is timed."""
        size = math.prod(shape) * dtype.itemsize
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory.pop(name, None)
            self.memory[name] = torch.zeros(size, dtype=torch.uint8, device=self.device)
        return self.memory[name][:size].view(dtype).view(*shape)

    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Normal numbers that depend on ``name`` alone."""
        out = self.empty(name, shape, dtype)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        pattern = torch.randn(min(out.numel(), MIB), generator=generator).to(out)
        whole = out.numel() // pattern.numel() * pattern.numel()
        out.view(-1)[:whole].view(-1, pattern.numel()).copy_(pattern.expand(whole // pattern.numel(), -1))
        out.view(-1)[whole:].copy_(pattern[: out.numel() - whole])
        return out

    def seconds(self, run: Run) -> float:
        if self.device != "cpu":
            return self.device_seconds(run)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def device_seconds(self, run: Run) -> float:
        """By the GPU's own clock, with other data in its second-level cache."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.empty("flush", (256 * MIB,), torch.uint8).zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


class Bench(Device):
    """Times one call beside its rivals and a plain copy of the same bytes, and files the result."""

    def __init__(self, benchmark: BenchmarkFixture, device: str, budget: float) -> None:
        super().__init__(device)
        self.benchmark, self.budget = benchmark, budget

    def result(self, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        """Where the op writes: ``x`` itself, or as much memory full of NaN."""
        return x if inplace else self.empty("out", x.shape, x.dtype).fill_(float("nan"))

    def check(self, run: Run, out: torch.Tensor, rows: list[int], expected: torch.Tensor) -> None:
        """All backends give the reference's bits, so equality is what a benchmark may ask for."""
        run()
        assert torch.equal(out[rows], expected), "the result differs from the reference's"

    def measure(
        self,
        run: Run,
        case: Case,
        moved: int,
        *,
        rivals: dict[str, Run] | None = None,
        slow: dict[str, Run] | None = None,
        **labels: Any,
    ) -> None:
        """Round by round: each rival, each copy, then ``run`` under pytest-benchmark; medians at the end.

        Args:
            moved: bytes that ``run`` must read and write.
            rivals: peers of about our speed, interleaved; ``slow``: timed apart, a few calls each.
            labels: further facts for the result.
        """
        candidates = {**self.copies(moved, case.inplace), **(rivals or {}), "pydelta": run}
        times: dict[str, list[float]] = {name: [] for name in candidates}
        warm = moved < CACHED

        def take(name: str) -> None:
            times[name].append(self.seconds(candidates[name]))

        def before() -> None:
            for name, other in candidates.items():
                if warm:
                    other()
                if name != "pydelta":
                    take(name)

        cost = sum(self.seconds(candidate) for candidate in candidates.values()) * (2 if warm else 1)
        rounds = min(max(int(self.budget / cost), 5 if cost < LONG else 1), 200)
        self.benchmark.pedantic(take, args=("pydelta",), setup=before, rounds=rounds)
        peers = {name: times[name] for name in rivals or {}}
        peers |= {name: self.alone(peer) for name, peer in (slow or {}).items()}
        self.file(times, peers, case, moved, labels)

    def file(
        self,
        times: dict[str, list[float]],
        peers: dict[str, list[float]],
        case: Case,
        moved: int,
        labels: dict[str, Any],
    ) -> None:
        copies = [name for name in times if name.startswith("copy ")]
        best = min(copies, key=lambda name: statistics.median(times[name]))
        seconds = statistics.median(times["pydelta"])
        pairs = zip(times[best], times["pydelta"], strict=True)
        self.benchmark.extra_info.update(
            labels,
            device=self.device,
            dtype=DTYPES[case.dtype],
            row=case.row,
            size=case.size,
            threads=case.threads,
            inplace=case.inplace,
            rounds=len(times["pydelta"]),
            seconds=seconds,
            gbps=moved / seconds * 1e-9,
            copy=best.removeprefix("copy "),
            copy_gbps=moved / statistics.median(times[best]) * 1e-9,
            fraction=statistics.median(copy / ours for copy, ours in pairs),
            peers={name: statistics.median(values) for name, values in peers.items()},
        )

    def copies(self, moved: int, inplace: bool) -> dict[str, Run]:
        """The plain copies that move as many bytes; the fastest of them is "the copy"."""
        a = self.normal("copied", (moved // 8,), torch.float32)
        if inplace:
            copies: dict[str, Run] = {"copy torch mul_": lambda: a.mul_(1.0)}
            if self.device == "cpu":
                view, one = a.numpy(), np.float32(1)
                copies["copy numpy multiply"] = lambda: np.multiply(view, one, out=view)
            return copies
        b = self.empty("copy", a.shape, torch.float32)
        copies = {"copy torch copy_": lambda: b.copy_(a)}
        if self.device == "cpu":
            to, source = b.numpy(), a.numpy()
            copies["copy numpy copyto"] = lambda: np.copyto(to, source)
        return copies

    def alone(self, peer: Run) -> list[float]:
        first = self.seconds(peer)
        return [self.seconds(peer) for _ in range(min(int(self.budget / first), 5))] or [first]


def some_rows(x: torch.Tensor) -> list[int]:
    """The rows to compare with the reference, which is slow: the first, the middle one and the last."""
    last = x.shape[0] - 1
    return sorted({0, last // 2, last})


def gpu_ready() -> bool:
    present = pydelta.backends()
    return torch.cuda.is_available() and (present["cuda"] or present["triton"])

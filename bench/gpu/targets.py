"""What a GPU is to reach, judged over the results of run.py, and which backend is faster at each op."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from summary import GIB, MIB, Result
from targets import Figure, Target, figure, ratio

TRANSFORMS = ("hadamard", "rotate")


def share(op: str, *, fits: Callable[[Result], bool] = lambda r: True, size: int = GIB) -> Figure:
    """The fraction of the copy's bandwidth, from such a size on."""
    return lambda r: r["fraction"] if r["op"] == op and r["size"] >= size and fits(r) else None


def of(*transforms: str) -> Callable[[Result], bool]:
    return lambda r: r.get("transform") in transforms


def over(op: str, peer: str, fits: Callable[[Result], bool] = lambda r: True) -> Figure:
    """Our time over the peer's."""
    return lambda r: (
        r["seconds"] / r["peers"][peer] if r["op"] == op and fits(r) and peer in r.get("peers", {}) else None
    )


def in_time(op: str, peer: str, fits: Callable[[Result], bool]) -> Figure:
    """The peer's time over ours."""
    faster = ratio(op, peer)
    return lambda r: faster(r) if r["op"] == op and fits(r) else None


def one_bit(r: Result) -> bool:
    few = {f"1 bits, {rows} rows" for rows in (1, 8, 32)}
    return r["transform"] in few and r["size"] >= 128 * MIB


def vera(r: Result) -> bool:
    return r["rank"] == 256 and r["tokens"] <= 64 and "forward" in r["transform"]


TARGETS = (
    *(
        Target(f"{op}, blocks to 8192, of the copy", 0.9, share(op, fits=lambda r: r["block"] <= 8192))
        for op in TRANSFORMS
    ),
    *(
        Target(f"{op}, longer blocks, of the copy", 0.75, share(op, fits=lambda r: r["block"] > 8192))
        for op in TRANSFORMS
    ),
    Target("hadamard, times faster than its peer", 1.0, ratio("hadamard", "fast_hadamard_transform")),
    Target(
        "rotate, time over hadamard's", 1.05, over("rotate", "hadamard", lambda r: r["size"] >= GIB), False
    ),
    Target("retrieve, of the copy", 0.9, share("retrieve")),
    Target("superpose of 8, of the copy", 0.9, share("superpose")),
    Target(
        "merge_into without masks or by cuts, of the copy",
        0.9,
        share("merge_into", fits=of("none", "magnitude")),
    ),
    Target("merge_into by random masks, of the copy", 0.75, share("merge_into", fits=of("random"))),
    Target(
        "magnitude_threshold bf16, one read, of the copy",
        0.8,
        share("magnitude_threshold", fits=lambda r: r["dtype"] == "bf16" and r["transform"] == "x"),
    ),
    Target("SAM of a model, of the copy", 0.85, share("SAM of a model")),
    Target("AdamR of a model, of the copy", 0.85, share("AdamR of a model")),
    Target("AdamR, time over fused AdamW", 1.4, over("AdamR of a model", "fused AdamW"), False),
    Target("retrieve of a 7 B model, of the copy", 0.855, share("retrieve a model", fits=of("sign"))),
    Target("retrieve from one bit, of the copy", 0.85, share("retrieve codes", fits=of("1 bits"))),
    Target(
        "one bit's product over the bare layer", 1.15, over("superposed_linear", "base alone", one_bit), False
    ),
    Target("mixed batch over one model", 1.15, over("mixed batch", "one model"), False),
    Target("mixed batch over one model, graphs", 1.15, over("mixed batch, graph", "one model"), False),
    Target("vera_linear fp32, times faster than peft", 1.5, in_time("vera_linear", "peft", vera)),
    Target("vera_linear bf16, times faster than peft", 1.5, in_time("VeRA projection", "peft", vera)),
    Target("a call's host time, microseconds", 20.0, figure("call of the host", "seconds", 1e-6), False),
    Target("a call's kernels", 1.0, figure("call of the host", "kernels"), False),
)
"""Retrieving a 7 B model within 11 ms, where the copy runs at 4.3 TB/s, is 0.855 of it."""


def point(r: Result) -> tuple[object, ...]:
    names = ("op", "transform", "dtype", "row", "size", "inplace")
    return tuple(r.get(name) for name in names)


def by_point(results: list[Result]) -> dict[tuple[object, ...], list[Result]]:
    found: dict[tuple[object, ...], list[Result]] = {}
    for r in results:
        found.setdefault(point(r), []).append(r)
    return found


def judged(results: list[Result]) -> list[str]:
    """The targets, over the faster backend's result at each point."""
    best = [min(group, key=lambda r: r["seconds"]) for group in by_point(results).values()]
    return [line for target in TARGETS if (line := target.line(best))]


def choices(results: list[Result]) -> list[str]:
    """Of each op and dtype: Triton's time over CUDA's, the median over all points, and where CUDA wins."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for group in by_point(results).values():
        times = {r.get("backend"): r["seconds"] for r in group}
        if times.keys() >= {"cuda", "triton"}:
            ratios.setdefault((group[0]["op"], group[0]["dtype"]), []).append(times["triton"] / times["cuda"])
    return [
        f"{' '.join(key):<40} triton/cuda median {statistics.median(found):.3f}, "
        f"cuda faster at {sum(x > 1 for x in found)} of {len(found)}"
        for key, found in sorted(ratios.items())
    ]

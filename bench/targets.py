"""The speed and memory to reach, judged over a run's results, or with a JSON file as argument over that."""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from summary import MIB, Result, table, where

Figure = Callable[[Result], "float | None"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound on one figure of every result that has it; ``value`` gives None for the others."""

    name: str
    limit: float
    value: Figure
    at_least: bool = True

    def line(self, results: Iterable[Result]) -> str | None:
        found = [(value, result) for result in results if (value := self.value(result)) is not None]
        if not found:
            return None
        worst, at = (min if self.at_least else max)(found, key=lambda pair: pair[0])
        missed = sum((value < self.limit) if self.at_least else (value > self.limit) for value, _ in found)
        verdict = f"missed {missed}/{len(found)}" if missed else f"met {len(found)}"
        median = statistics.median(value for value, _ in found)
        sign = ">=" if self.at_least else "<="
        figures = f"{sign} {self.limit:<6g} median {median:<8.3g} worst {worst:<8.3g}"
        return f"{self.name:<44} {figures} {verdict:<14} {where(at)}"


def fraction(op: str, dtype: str | None = None, transform: str | None = None) -> Figure:
    """The fraction of the copy's bandwidth beyond the cache, in blocks up to 4096."""

    def value(r: Result) -> float | None:
        fits = r["op"] == op and r.get("size", 0) >= 128 * MIB and r.get("block", 1) <= 4096
        fits = fits and dtype in (None, r["dtype"]) and transform in (None, r.get("transform"))
        return r["fraction"] if fits else None

    return value


def ratio(op: str, peer: str, beyond: int = 0) -> Figure:
    """The peer's time over ours."""

    def value(r: Result) -> float | None:
        fits = r["op"] == op and peer in r.get("peers", {}) and r["size"] >= beyond
        return r["peers"][peer] / r["seconds"] if fits else None

    return value


def figure(op: str, name: str, unit: float = 1.0) -> Figure:
    return lambda r: r[name] / unit if r["op"] == op and name in r else None


def over_hadamard(r: Result) -> float | None:
    large = r["op"] == "rotate" and r["size"] >= 128 * MIB and r["block"] <= 4096
    return r["seconds"] / r["peers"]["hadamard"] if large else None


def over_reading(r: Result) -> float | None:
    large = r["op"] == "magnitude_threshold" and r["dtype"] == "bf16" and r["size"] >= 128 * MIB
    return r["seconds"] / r["peers"]["read once"] if large and r["transform"] == "x" else None


def over_two_readings(r: Result) -> float | None:
    large = r["op"] == "quantize" and r["size"] >= 128 * MIB and r["transform"] == "1 bits"
    return r["seconds"] / r["peers"]["read twice"] if large else None


def over_bf16(r: Result) -> float | None:
    large = r["op"] == "superpose codes" and r["size"] >= 128 * MIB
    return r["seconds"] / r["peers"]["into bf16"] if large else None


def list_ratio(op: str, peer: str, large: bool) -> Figure:
    """The peer's time over ours, for few large tensors or for many small ones."""
    faster = ratio(op, peer)
    return lambda r: faster(r) if r["op"] == op and (r["row"] == 1 << 20) == large else None


def over_its_bytes(r: Result) -> float | None:
    return 1 / r["fraction"] if r["op"] == "sam" and r["row"] == 1 << 20 else None


def over_fused(r: Result) -> float | None:
    found = list_ratio("adamr_step_", "fused AdamW", True)(r)
    return 1 / found if found else None


def peft(kind: str) -> Figure:
    faster = ratio("merge_into with counting", "peft")
    return lambda r: faster(r) if r.get("transform") == kind else None


def vera(peer: str, most: int) -> Figure:
    """The peer's time over ours up to so many tokens."""
    faster = ratio("vera_linear", peer)
    return lambda r: faster(r) if r.get("tokens", most + 1) <= most else None


def mixed(r: Result) -> float | None:
    return r["seconds"] / r["peers"]["one adapter"] if r["op"] == "vera_linear mixed" else None


def mergekit(*methods: str) -> Figure:
    faster = ratio("merge models", "mergekit")
    return lambda r: faster(r) if r.get("transform") in methods else None


TARGETS = (
    Target("hadamard fp32, of the copy", 0.7, fraction("hadamard", "fp32")),
    Target("hadamard bf16, of the copy", 0.6, fraction("hadamard", "bf16")),
    Target("rotate fp32, of the copy", 0.7, fraction("rotate", "fp32")),
    Target("rotate bf16, of the copy", 0.6, fraction("rotate", "bf16")),
    Target("hadamard, times faster than fht-cpu", 1.0, ratio("hadamard", "fht-cpu")),
    Target("rotate, time over hadamard's", 1.15, over_hadamard, at_least=False),
    Target("retrieve by signs, of the copy", 0.8, fraction("retrieve", transform="sign")),
    Target("retrieve by Hadamard, of the copy", 0.8, fraction("retrieve", transform="hadamard")),
    Target("superpose of 8 by signs, of the copy", 0.7, fraction("superpose", transform="sign")),
    Target("superpose of 8 by Hadamard, of the copy", 0.7, fraction("superpose", transform="hadamard")),
    Target("superpose of 8, times faster than torch", 10.0, ratio("superpose", "torch", 128 * MIB)),
    Target("merge_into without masks, of the copy", 0.8, fraction("merge_into", transform="none")),
    Target("merge_into by magnitudes, of the copy", 0.7, fraction("merge_into", transform="magnitude")),
    Target("merge_into by random masks, of the copy", 0.45, fraction("merge_into", transform="random")),
    Target("merge_into by ties, times faster than peft", 25.0, peft("ties")),
    Target("merge_into by magnitudes, times faster than peft", 25.0, peft("magnitude")),
    Target("merge_into by random masks, times faster than peft", 10.0, peft("random")),
    Target("magnitude_threshold bf16, time over reading once", 1.6, over_reading, at_least=False),
    Target("linear merges, times faster than mergekit", 5.0, mergekit("linear", "task_arithmetic")),
    Target("DARE, times faster than mergekit", 15.0, mergekit("dare_linear", "dare_ties")),
    Target("other merges, times faster than mergekit", 40.0, mergekit("ties", "breadcrumbs", "della")),
    Target(
        "merge models, memory over mergekit's", 0.25, figure("merge models", "over_memory"), at_least=False
    ),
    Target("retrieve from one bit, of the copy", 0.7, fraction("retrieve codes", transform="1 bits")),
    Target("retrieve from four bits, of the copy", 0.65, fraction("retrieve codes", transform="4 bits")),
    Target("quantize at one bit, time over reading twice", 1.3, over_two_readings, at_least=False),
    Target("superpose into one bit, time over into bf16", 1.0, over_bf16, at_least=False),
    Target("vera_linear, times faster than peft", 1.0, vera("peft", 4096)),
    Target("vera_linear up to 64 tokens, times faster than peft", 1.5, vera("peft", 64)),
    Target("vera_linear, a mixed batch over one adapter", 1.2, mixed, at_least=False),
    Target("vera_matrix, times faster than torch's uniform", 5.0, ratio("vera_matrix", "torch uniform")),
    Target("vera_merge, times faster than peft", 2.0, ratio("vera_merge", "peft")),
    Target("SAM there and back, time over moving its bytes", 1.3, over_its_bytes, at_least=False),
    Target("SAM, times faster than per tensor", 2.5, list_ratio("sam", "per tensor", True)),
    Target("SAM of 10000 tensors, times faster than foreach", 1.0, list_ratio("sam", "foreach", False)),
    Target("AdamR, time over fused AdamW", 1.35, over_fused, at_least=False),
    Target("AdamR, times faster than foreach AdamW", 4.0, list_ratio("adamr_step_", "foreach AdamW", True)),
    Target("a call on 64 KiB, microseconds", 25.0, figure("call", "seconds", 1e-6), at_least=False),
    Target("compress, time over plain copies", 1.5, figure("compress", "over_copy"), at_least=False),
    Target("compress, peak memory over its bound", 1.0, figure("compress", "over_memory"), at_least=False),
    Target(
        "retrieve files, time over plain copies", 1.5, figure("retrieve files", "over_copy"), at_least=False
    ),
    Target(
        "retrieve files, peak memory over its bound",
        1.0,
        figure("retrieve files", "over_memory"),
        at_least=False,
    ),
)


def targets(results: list[Result]) -> list[str]:
    return [line for target in TARGETS if (line := target.line(results))]


if __name__ == "__main__":
    data = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join([*table(data["results"]), "", *targets(data["results"])]))

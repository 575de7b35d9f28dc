"""What the whole-model runs share: a model's shapes, the device's clock and copy, and the results."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch
from harness import GIB, MIB, Device, Run
from summary import Result

import pydelta

MODELS = 8
NAMES = [f"m{i}" for i in range(MODELS)]
ROUNDS = 5  # a step over a whole model is timed so often: it bounds the run's time


@dataclasses.dataclass(frozen=True)
class Llama:
    """A model's shapes. ``some``: layers, where one step over all of them would take too long."""

    layers: int
    width: int
    inner: int
    words: int
    some: int

    def layer(self, i: int) -> dict[str, tuple[int, ...]]:
        found = {f"self_attn.{part}_proj.weight": (self.width, self.width) for part in "qkvo"}
        found |= {f"mlp.{part}_proj.weight": (self.inner, self.width) for part in ("gate", "up")}
        found["mlp.down_proj.weight"] = (self.width, self.inner)
        return {f"model.layers.{i}.{name}": shape for name, shape in found.items()}

    def matrices(self, layers: int | None = None) -> dict[str, tuple[int, ...]]:
        found = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (self.words, self.width))
        for i in range(self.layers if layers is None else layers):
            found |= self.layer(i)
        return found


SHAPES = {
    False: {"7B": Llama(32, 4096, 11008, 32000, 4), "1B": Llama(16, 2048, 5632, 32000, 16)},
    True: {"7B": Llama(2, 64, 96, 128, 1), "1B": Llama(1, 32, 48, 64, 1)},
}


class Lab(Device):
    """What the steps share: the shapes, the copy's bandwidth, the models, and the results."""

    def __init__(self, device: str, quick: bool) -> None:
        super().__init__(device)
        self.shapes, self.quick = SHAPES[quick], quick
        self.keys = {name: pydelta.key(42, "signs", name) for name in NAMES}
        self.results: list[Result] = []
        self.generator = torch.Generator(device).manual_seed(0)
        half = MIB if quick else 2 * GIB
        a, b = torch.zeros(2, half, dtype=torch.uint8, device=device)
        self.copy_bandwidth = 2 * half / self.median(lambda: b.copy_(a))

    def made(self, shape: tuple[int, ...], scale: float, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        x = torch.empty(shape, dtype=dtype, device=self.device)
        return x.normal_(0, scale, generator=self.generator)

    def tuned(self, base: torch.Tensor) -> list[torch.Tensor]:
        return [base + self.made(tuple(base.shape), 1e-3) for _ in NAMES]

    def weights(self, shapes: dict[str, tuple[int, ...]], scale: float = 0.02) -> dict[str, torch.Tensor]:
        return {name: self.made(shape, scale) for name, shape in shapes.items()}

    def median(self, run: Run, rounds: int = ROUNDS) -> float:
        run()
        return statistics.median(self.seconds(run) for _ in range(rounds))

    def captured(self, run: Run) -> Run:
        """The replay of a CUDA graph of ``run``, without the host's time for each call; on the CPU itself."""
        if self.device == "cpu":
            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def file(self, op: str, seconds: float, moved: int, size: int, **facts: Any) -> None:
        """A result as benchmarks have it; the copy is the one of this run, by its bandwidth."""
        self.results.append(
            {
                "op": op,
                "dtype": "bf16",
                "device": self.device,
                "size": size,
                "threads": torch.get_num_threads(),
                "seconds": seconds,
                "gbps": moved / seconds * 1e-9,
                "copy_gbps": self.copy_bandwidth * 1e-9,
                "fraction": moved / seconds / self.copy_bandwidth,
                **facts,
            }
        )

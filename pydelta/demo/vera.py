"""``pydelta demo --vera``: VeRA adapters on the digits' tasks beside full fine-tuning and PEFT's LoRA."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

import pydelta
from pydelta import vera
from pydelta.demo import data
from pydelta.demo.train import Network, Recipe, Weights, train

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rank and learning rates; LoRA's ranks are tried in turn until one is as accurate as VeRA."""

    rank: int = 256
    rate: float = 1e-1
    lora_ranks: tuple[int, ...] = (2, 8, 32)
    lora_rate: float = 1e-2


@dataclasses.dataclass
class Trained:
    """One method: the accuracy of each task in per cent, and what one task takes."""

    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0

    def kept(self) -> dict[str, Any]:
        average = fmean(self.accuracy.values())
        per_gigabyte = 10**9 // self.bytes
        return {**dataclasses.asdict(self), "average": average, "per_gigabyte": per_gigabyte}


def run(folder: Path, recipe: Recipe, settings: Settings, *, seed: int, say: Say) -> dict[str, Any]:
    """Trains the base, then every task by every method, and writes ``demo.json`` into the folder.

    Returns:
        What ``demo.json`` holds: ``methods`` maps "full", "vera" and, where PEFT is installed, "lora" to
        ``accuracy`` by view, their ``average``, ``bytes`` and ``seconds`` of one task, and how many tasks a
        gigabyte holds, ``per_gigabyte``.
    """
    digits = data.load(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(recipe.hidden)
        say("training the base network")
        train(network, *digits.train.view("plain"), recipe.batch, recipe.base_epochs, recipe.base_rate)
        base = {name: x.detach().clone() for name, x in network.state_dict().items()}
        tasks = Tasks(digits, base, recipe, say)
        methods = {"full": tasks.full(), "vera": tasks.vera(settings, seed)}
        lora_rank = None
        if importlib.util.find_spec("peft") is not None:
            lora_rank, methods["lora"] = _equal_lora(tasks, settings, methods["vera"])
    result = {
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "settings": dataclasses.asdict(settings),
        "lora_rank": lora_rank,
        "methods": {name: trained.kept() for name, trained in methods.items()},
    }
    (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _equal_lora(tasks: Tasks, settings: Settings, trained: Trained) -> tuple[int, Trained]:
    """The LoRA of the lowest rank that is as accurate as VeRA, or of the highest that was tried."""
    wanted = fmean(trained.accuracy.values())
    for rank in settings.lora_ranks:
        trained = tasks.lora(rank, settings.lora_rate)
        if fmean(trained.accuracy.values()) >= wanted:
            break
    return rank, trained


class Tasks:
    """The views as tasks of one base."""

    def __init__(self, digits: data.Digits, base: Weights, recipe: Recipe, say: Say) -> None:
        self.digits, self.base, self.recipe, self.say = digits, base, recipe, say

    def full(self) -> Trained:
        """All weights, as a checkpoint."""
        return self._each("full fine-tuning", lambda network: network, self.recipe.tune_rate, _checkpoint)

    def vera(self, settings: Settings, seed: int) -> Trained:
        """VeRA on every layer, as an adapter's file."""

        def attach(network: nn.Module) -> nn.Module:
            vera.attach(network, targets="all-linear", rank=settings.rank, seed=seed)
            return network

        return self._each(f"VeRA, rank {settings.rank}", attach, settings.rate, _adapter)

    def lora(self, rank: int, rate: float) -> Trained:
        """PEFT's LoRA on every layer, as PEFT's folder."""
        import peft

        def attach(network: nn.Module) -> nn.Module:
            config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0", "2", "4"])
            adapted: nn.Module = peft.get_peft_model(network, config)
            return adapted

        return self._each(f"LoRA, rank {rank}", attach, rate, _peft)

    def _each(
        self,
        what: str,
        adapt: Callable[[nn.Module], nn.Module],
        rate: float,
        write: Callable[[nn.Module, Path], int],
    ) -> Trained:
        """Every task by one method; time and bytes are means over the tasks."""
        trained, sizes, times = Trained(), [], []
        for view in data.VIEWS:
            self.say(f"{what}: {view}")
            network = Network(self.recipe.hidden)
            network.load_state_dict(self.base)
            adapted = adapt(network)
            start = time.perf_counter()
            train(adapted, *self.digits.train.view(view), self.recipe.batch, self.recipe.tune_epochs, rate)
            times.append(time.perf_counter() - start)
            trained.accuracy[view] = self._accuracy(adapted, view)
            with tempfile.TemporaryDirectory() as folder:
                sizes.append(write(adapted, Path(folder) / "adapter"))
        trained.bytes, trained.seconds = round(fmean(sizes)), fmean(times)
        return trained

    def _accuracy(self, network: nn.Module, view: str) -> float:
        x, digits = self.digits.test.view(view)
        network.eval()
        with torch.no_grad():
            return 100 * float((network(x).argmax(-1) == digits).float().mean())


def _checkpoint(network: nn.Module, path: Path) -> int:
    pydelta.save_checkpoint(network.state_dict(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors").stat().st_size


def _adapter(network: nn.Module, path: Path) -> int:
    vera.save(path, vera.Adapters(network))
    return path.stat().st_size


def _peft(network: nn.Module, path: Path) -> int:
    network.save_pretrained(str(path))  # type: ignore[operator]
    return (path / "adapter_model.safetensors").stat().st_size


def table(result: dict[str, Any]) -> str:
    """Plain text: tasks down, methods across; below them what one task takes."""
    labels = {
        "full": "full tuning",
        "vera": f"VeRA r {result['settings']['rank']}",
        "lora": f"LoRA r {result['lora_rank']}",
    }
    methods = result["methods"]

    def row(first: str, cells: list[str]) -> str:
        return first.ljust(28) + "".join(cell.rjust(16) for cell in cells)

    rule = "-" * (28 + 16 * len(methods))
    lines = [row("test accuracy, %", [labels[name] for name in methods]), rule]
    views = methods["full"]["accuracy"]
    lines += [row(view, [f"{m['accuracy'][view]:.1f}" for m in methods.values()]) for view in views]
    lines += [rule, row("average", [f"{m['average']:.1f}" for m in methods.values()])]
    lines += [row("bytes of a task", [f"{m['bytes']:,}" for m in methods.values()])]
    lines += [row("seconds to train a task", [f"{m['seconds']:.1f}" for m in methods.values()])]
    lines += [row("tasks in a gigabyte", [f"{m['per_gigabyte']:,}" for m in methods.values()]), rule]
    note = "LoRA: PEFT's, of the lowest rank tried that is as accurate as VeRA, or the highest."
    return "\n".join([*lines, note if "lora" in methods else "LoRA needs PEFT: pip install peft"])

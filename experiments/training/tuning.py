"""What ``run.py`` tunes by five optimizers: the demo's digit networks, or a folder's sentence encoders."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from families import Family, Weights, digits_family, finetune_module

from pydelta.optim import SAM, AdamR, MergePerturbation

Make = Callable[[torch.nn.Module, Any, Weights, float], torch.optim.Optimizer]
Costs = dict[str, float]


def _adamw(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=rate, fused=True)


def _sam(rho: float, adaptive: bool) -> Make:
    def make(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
        return SAM(_adamw(net, params, base, rate), rho, adaptive, model=net)

    return make


def _noise(models: int, alpha: float) -> Make:
    def make(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
        inner = _adamw(net, params, base, rate)
        return MergePerturbation(inner, base, models=models, alpha=alpha, model=net)

    return make


def _adamr(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
    return AdamR(params, base, lr=rate, weight_decay=0.03)


def optimizers(models: int, alpha: float) -> dict[str, Make]:
    """The columns of the table, for as many fine-tunes, merged with coefficients of about ``alpha``."""
    return {
        "AdamW": _adamw,
        "SAM .05": _sam(0.05, False),
        "ASAM .5": _sam(0.5, True),
        "MergePerturbation": _noise(models, alpha),
        "AdamR .03": _adamr,
    }


def digits_families(hidden: int, epochs: int, seed: int) -> Iterable[tuple[str, Family, Costs]]:
    """(optimizer, what it tuned, step time and memory), one after the other."""
    from pydelta.demo.data import VIEWS, load
    from pydelta.demo.train import Network, Recipe, train

    data, recipe = load(seed), Recipe()
    torch.manual_seed(seed)
    network = Network(hidden)
    train(network, *data.train.view("plain"), recipe.batch, recipe.base_epochs, recipe.base_rate)
    base = _copy(network)
    for name, make in optimizers(len(VIEWS), 0.3).items():
        tuned, costs = {}, []
        for i, view in enumerate(VIEWS):
            network = Network(hidden)
            network.load_state_dict(base)
            torch.manual_seed(100 * seed + i)
            x, y = data.train.view(view)
            costs.append(_tune(network, x, y, make, base, epochs, recipe))
            tuned[view] = _copy(network)
        cost = {key: statistics.median(row[key] for row in costs) for key in costs[0]}
        yield name, digits_family(data, base, tuned, {view: view for view in tuned}, seed), cost


def _tune(
    network: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    make: Make,
    base: Weights,
    epochs: int,
    recipe: Any,
) -> Costs:
    """Trains in place; seconds a step, and the optimizer's bytes over the weights'."""
    optimizer = make(network, list(network.named_parameters()), base, recipe.tune_rate)
    batches = len(x) // recipe.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    seconds = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: batches * recipe.batch].view(batches, recipe.batch):

            def gradient(rows: torch.Tensor = rows) -> None:
                optimizer.zero_grad()
                torch.autograd.backward(torch.nn.functional.cross_entropy(network(x[rows]), y[rows]))

            start = time.perf_counter()
            optimizer.step(gradient)  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - start)
            schedule.step()
    return {"step_seconds": statistics.median(seconds), "memory": _bytes(optimizer, network)}


def _bytes(optimizer: torch.optim.Optimizer, network: torch.nn.Module) -> float:
    kept = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    kept += getattr(optimizer, "_backups", {}).values()
    return sum(x.nbytes for x in kept) / sum(p.nbytes for p in network.parameters())


def _copy(network: torch.nn.Module) -> Weights:
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


class SentenceTuning:
    """Fine-tunes of a folder's tasks, WORK/OPTIMIZER-SEED/TASK/model.safetensors and head.safetensors.

    Args:
        folder: with a ``finetune.py`` as ``families.Sentences`` wants it.
        work: where they are kept; what is there already is left alone.
        sentences, epochs: of each fine-tune.
    """

    RATE = 1e-4
    """The learning rate, as ``tune_family.py`` has it by default."""

    def __init__(self, folder: Path, work: Path, sentences: int, epochs: int) -> None:
        from transformers import AutoTokenizer

        self.module = finetune_module(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.module.MODEL)
        self.work = work
        self.options = argparse.Namespace(sentences=sentences, epochs=epochs, lr=self.RATE)
        base = {f"enc.{name}": x.detach().clone() for name, x in self.module.Net(2).enc.named_parameters()}
        makes = optimizers(len(self.module.TASKS), 0.5)
        self.makes = {name: partial(make, base=base, rate=self.RATE) for name, make in makes.items()}

    def folder(self, name: str, seed: int) -> Path:
        return self.work / f"{name}-{seed}".replace(" ", "-")

    def tune(self, name: str, seed: int) -> None:
        """The tasks that are not there yet."""
        from tune_family import save, tune

        for task in self.module.TASKS:
            folder = self.folder(name, seed) / task
            if (folder / "model.safetensors").is_file():
                continue
            started = time.time()
            save(tune(self.module, self.tokenizer, task, seed, self.options, self.makes[name]), folder)
            print(f"{name} {task}-{seed}: {time.time() - started:.0f} s", flush=True)

    def costs(self, steps: int = 10) -> dict[str, Costs]:
        """Step time and memory of each optimizer, kept in WORK/costs.json; they step in turn, so that all
        meet the same machine."""
        from tune_family import BATCH, gradient_of, groups_of

        path = self.work / "costs.json"
        if path.is_file():
            found: dict[str, Costs] = json.loads(path.read_text())
            return found
        rows = self.module.load(self.module.TASKS[0])[0][: steps * BATCH]
        classes = 1 + max(label for _, label in rows)
        nets = {name: self.module.Net(classes).train() for name in self.makes}
        made = {name: make(nets[name], groups_of(nets[name], self.RATE)) for name, make in self.makes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for batch in self.module.batches(rows, self.tokenizer, BATCH, False):
            for name, optimizer in made.items():
                start = time.perf_counter()
                optimizer.step(gradient_of(nets[name], optimizer, batch))  # type: ignore[arg-type]
                seconds[name].append(time.perf_counter() - start)
        costs = {
            name: {"step_seconds": statistics.median(seconds[name]), "memory": _bytes(optimizer, nets[name])}
            for name, optimizer in made.items()
        }
        path.write_text(json.dumps(costs, indent=1) + "\n")
        return costs

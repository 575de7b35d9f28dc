"""Does training decide how well a delta merges? Five optimizers, six merges, superposition; three seeds.

    python bench/saft.py --epochs 8 --out OUT
    python bench/saft.py --family FOLDER --work DIR --seeds 1 --out DIR2      a folder with a finetune.py

Every model starts from one base and sees the same batches in the same order. Merges choose their coefficient
on inputs apart from the test. Writes OUT/saft.md, OUT/saft.json and OUT/images/saft.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import saft_report
import torch
from families import Family, Weights, digits_family, sentences

import pydelta
from pydelta.optim import SAM, AdamR, MergePerturbation

Make = Callable[[torch.nn.Module, Any, Weights, float], torch.optim.Optimizer]

KEEPS = (0.5, 0.1, 0.01)
LAMBDAS = (0.1, 0.2, 0.3, 0.5, 1.0)
NORMALIZED = (0.5, 1.0, 2.0)
"""Coefficients of the sum of the deltas, and of their mean."""

WHOLE: dict[str, dict[str, Any]] = {
    "average": {"method": "linear", "normalize": True},
    "task arithmetic": {"method": "task_arithmetic"},
}
KEPT: dict[str, dict[str, Any]] = {
    "TIES": {"method": "ties", "normalize": True},
    "Breadcrumbs": {"method": "breadcrumbs", "gamma": 0.01},
    "DARE": {"method": "dare_linear"},
}
TASKS_IN_DIGITS = 8


def _adamw(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=rate, fused=True)


def _sam(rho: float, adaptive: bool) -> Make:
    def make(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
        return SAM(_adamw(net, params, base, rate), rho, adaptive, model=net)

    return make


def _noise(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
    inner = _adamw(net, params, base, rate)
    return MergePerturbation(inner, base, models=TASKS_IN_DIGITS, alpha=0.3, model=net)


def _adamr(net: torch.nn.Module, params: Any, base: Weights, rate: float) -> torch.optim.Optimizer:
    return AdamR(params, base, lr=rate, weight_decay=0.03)


OPTIMIZERS: dict[str, Make] = {
    "AdamW": _adamw,
    "SAM .05": _sam(0.05, False),
    "ASAM .5": _sam(0.5, True),
    "MergePerturbation": _noise,
    "AdamR .03": _adamr,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", default="digits")
    parser.add_argument("--work", type=Path, help="where the fine-tunes of a sentence family are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    started, runs = time.time(), []
    for seed in range(1, arguments.seeds + 1):
        for name, family, cost in families(arguments, seed):
            found = judged(family, seed)
            runs.append({"seed": seed, "optimizer": name, **cost, "accuracy": found})
            shown = "  ".join(f"{method} {100 * value:.1f}" for method, value in found.items())
            print(f"seed {seed}  {name:18} {shown}", flush=True)
    result = {
        "family": arguments.family if arguments.family == "digits" else "sentences",
        "arguments": {name: str(value) for name, value in vars(arguments).items() if name != "out"},
        "torch": torch.__version__,
        "minutes": (time.time() - started) / 60,
        "runs": runs,
    }
    saft_report.write(result, arguments.out)


def families(arguments: argparse.Namespace, seed: int) -> Iterable[tuple[str, Family, dict[str, float]]]:
    """(optimizer, what it tuned, step time and memory), one after the other."""
    of = digits_families if arguments.family == "digits" else sentence_families
    return of(arguments, seed)


def digits_families(
    arguments: argparse.Namespace, seed: int
) -> Iterable[tuple[str, Family, dict[str, float]]]:
    from pydelta.demo.data import VIEWS, load
    from pydelta.demo.train import Network, Recipe, train

    data, recipe = load(seed), Recipe()
    torch.manual_seed(seed)
    network = Network(arguments.hidden)
    train(network, *data.train.view("plain"), recipe.batch, recipe.base_epochs, recipe.base_rate)
    base = _copy(network)
    for name, make in OPTIMIZERS.items():
        tuned, costs = {}, []
        for i, view in enumerate(VIEWS):
            network = Network(arguments.hidden)
            network.load_state_dict(base)
            torch.manual_seed(100 * seed + i)
            x, y = data.train.view(view)
            costs.append(_tune(network, x, y, make, base, arguments.epochs, recipe))
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
) -> dict[str, float]:
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


def sentence_families(
    arguments: argparse.Namespace, seed: int
) -> Iterable[tuple[str, Family, dict[str, float]]]:
    """Tuned here where WORK does not hold them yet."""
    from families import finetune_module
    from safetensors.torch import save_file
    from transformers import AutoTokenizer
    from tune_family import tune

    module = finetune_module(Path(arguments.family))
    tokenizer = AutoTokenizer.from_pretrained(module.MODEL)
    base = {f"enc.{name}": x.clone() for name, x in module.Net(2).enc.named_parameters()}
    options = argparse.Namespace(sentences=1500, epochs=2, lr=1e-4)
    for name, make in OPTIMIZERS.items():
        folder, started, steps = arguments.work / f"{name}-{seed}".replace(" ", "-"), time.time(), 1
        for task in module.TASKS:
            if (folder / task / "model.safetensors").is_file():
                continue
            of = partial(make, base=base, rate=options.lr)
            net, _ = tune(module, tokenizer, task, seed, options, of)
            (folder / task).mkdir(parents=True, exist_ok=True)
            for part, name_of_file in ((net.head, "head"), (net.enc, "model")):
                tensors = {key: x.contiguous() for key, x in part.state_dict().items()}
                save_file(tensors, folder / task / f"{name_of_file}.safetensors")
            steps += 2 * 47
        cost = {"step_seconds": (time.time() - started) / steps, "memory": float("nan")}
        yield name, sentences(Path(arguments.family), [folder]), cost


def judged(family: Family, seed: int) -> dict[str, float]:
    """Mean test accuracy over the tasks: tuned, merged in each way, superposed."""
    found = {"tuned": fmean(family, family.tuned, "test")}
    for name, options in WHOLE.items():
        found[name] = merged(family, family.tuned, options, seed)
    statistics_of = {task: family.calibrate(task) for task in family.tuned}
    for keep in KEEPS:
        for name, options in KEPT.items():
            found[f"{name} {keep}"] = merged(family, family.tuned, {**options, "density": keep}, seed)
        pruned = {
            task: pydelta.prune(
                family.base, weights, keep=keep, name=task, seed=seed, dense_1d=True,
                method="random", rescale="q", q="mse", calibration=statistics_of[task],
            )
            for task, weights in family.tuned.items()
        }  # fmt: skip
        found[f"DAREx-q {keep}"] = merged(family, pruned, WHOLE["task arithmetic"], seed)
    found["superposed"] = fmean(family, superposed(family, family.tuned, seed), "test")
    for keep in KEEPS:
        kept = {
            task: pydelta.prune(family.base, weights, keep=keep, method="magnitude", dense_1d=True)
            for task, weights in family.tuned.items()
        }
        found[f"superposed {keep}"] = fmean(family, superposed(family, kept, seed), "test")
    return found


def fmean(family: Family, weights: Any, split: str) -> float:
    return statistics.fmean(family.score(task, weights[task], split) for task in weights)


def merged(family: Family, models: Any, options: dict[str, Any], seed: int) -> float:
    """Test accuracy of one model for all tasks, with the coefficient that does best on other inputs."""
    lambdas: Iterable[float | None] = NORMALIZED if options.get("normalize") else LAMBDAS
    base: Weights | None = family.base
    if options["method"] == "linear":
        lambdas, base = (None,), None
    candidates = [pydelta.merge(base, models, lam=lam, seed=seed, **options) for lam in lambdas]
    if len(candidates) > 1:
        candidates.sort(key=lambda weights: fmean(family, dict.fromkeys(models, weights), "choice"))
    return fmean(family, dict.fromkeys(models, candidates[-1]), "test")


def superposed(family: Family, models: Any, seed: int) -> dict[str, Weights]:
    """Each task's model out of one superposition by signs, 1-D tensors exact, as a store keeps them."""
    tasks = sorted(models)
    found: dict[str, Weights] = {task: dict(models[task]) for task in tasks}
    for name, base in family.base.items():
        if base.dim() < 2 or not base.is_floating_point():
            continue
        keys = [pydelta.key(seed, "signs", task, name) for task in tasks]
        summed = pydelta.superpose(base, [models[task][name] for task in tasks], keys)
        for task, key in zip(tasks, keys, strict=True):
            found[task][name] = pydelta.retrieve(base, summed, key)
    return found


def _copy(network: torch.nn.Module) -> Weights:
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


if __name__ == "__main__":
    main()

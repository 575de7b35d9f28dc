"""Families of fine-tunes to judge methods on: a base, tuned models, and their accuracy."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pydelta import load_checkpoint
from pydelta.calibration import Calibration, Calibrator
from pydelta.checkpoint import Checkpoint

Weights = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Family:
    """Fine-tunes of one base, one or several a task.

    Attributes:
        name: for titles and files.
        base: the base's weights.
        tuned: model -> weights.
        tasks: model -> its task. The models of a seed stand together, one a task.
        score: (model, weights, split) -> accuracy in [0, 1]; split "test", or "choice" for choosing a lambda.
        calibrate: (model) -> statistics of its layers over some training inputs.
    """

    name: str
    base: Weights
    tuned: Mapping[str, Weights]
    tasks: Mapping[str, str]
    score: Callable[[str, Weights, str], float]
    calibrate: Callable[[str], Calibration]


def digits(seed: int = 42, seeds: int = 1) -> Family:
    """The demo's: eight views of scikit-learn's handwritten digits, trained here in half a minute a seed."""
    from pydelta.demo.data import load
    from pydelta.demo.train import Recipe, train_all, tune_again

    data, recipe = load(seed), Recipe()
    base, tuned = train_all(data, recipe, seed, lambda text: None)
    tasks = {view: view for view in tuned}
    for number in range(2, seeds + 1):
        again = tune_again(data, recipe, base, seed + number, lambda text: None)
        tuned |= {f"{view}-{number}": weights for view, weights in again.items()}
        tasks |= {f"{view}-{number}": view for view in again}
        print(f"{len(tuned)} networks are tuned", flush=True)
    return digits_family(data, base, tuned, tasks, seed)


def digits_family(
    data: Any, base: Weights, tuned: Mapping[str, Weights], tasks: Mapping[str, str], seed: int
) -> Family:
    """Networks of the demo, trained elsewhere. ``data``: the demo's splits; ``tasks``: model -> view."""
    from pydelta.demo.compare import Comparison
    from pydelta.demo.train import Network

    comparison = Comparison(data, base, dict(tuned), seed)
    splits = {"test": data.test, "choice": data.validation}

    def score(model: str, weights: Weights, split: str) -> float:
        return comparison.accuracy(weights, tasks[model], splits[split]) / 100

    def calibrate(model: str) -> Calibration:
        network = Network(len(base["0.bias"]))
        network.load_state_dict(tuned[model])
        with torch.no_grad(), Calibrator(network, base=base) as calibrator:
            network(data.train.view(tasks[model])[0][:256])
        return calibrator.calibration

    return Family("digits", base, tuned, tasks, score, calibrate)


def finetune_module(folder: Path) -> Any:
    """A folder's ``finetune.py``, imported."""
    specification = importlib.util.spec_from_file_location("finetune", folder / "finetune.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["finetune"] = module
    specification.loader.exec_module(module)
    return module


class Sentences:
    """Sentence classification with a small encoder.

    Args:
        folder: with ``finetune.py``, which has TASKS, Net(classes), load(task) -> (train, test) and
            accuracy(net, rows, tokenizer).
        tuned: folders with TASK/model.safetensors and TASK/head.safetensors, as that writes them, or
            TASK-SEED/..., as ``tune_family.py`` does.
        limit: sentences of a task that are scored, drawn at random; all by default.
        choice: of its first 300 training sentences, those for choosing a lambda, likewise.
    """

    CHOICE = 300

    def __init__(
        self, folder: Path, tuned: Sequence[Path], limit: int | None = None, choice: int | None = None
    ) -> None:
        self.module = finetune_module(folder)
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.module.MODEL)
        self.limits = {"test": limit, "choice": limit if choice is None else choice}
        folders = self._found(tuned)
        self.tasks = {folder.name: self._task(folder) for folder in folders}
        self.heads = {folder.name: load_checkpoint(folder / "head.safetensors") for folder in folders}
        self.tuned = {folder.name: _mapped(folder / "model.safetensors") for folder in folders}
        tasks = set(self.tasks.values())
        self.rows = {task: self.module.load(task) for task in tasks}
        sizes = {self.tasks[name]: len(head["bias"]) for name, head in self.heads.items()}
        self.nets = {task: self.module.Net(size) for task, size in sizes.items()}

    def _task(self, folder: Path) -> str:
        """TASK of TASK or TASK-SEED; nothing where that is no task."""
        task, _, seed = folder.name.rpartition("-")
        name = task if seed.isdecimal() else folder.name
        return name if name in self.module.TASKS else ""

    def _found(self, tuned: Sequence[Path]) -> list[Path]:
        """The folders of tuned models: those of a seed together, in the order of the tasks."""
        folders = {
            folder.name: folder
            for parent in tuned
            for folder in parent.iterdir()
            if (folder / "model.safetensors").is_file() and self._task(folder)
        }

        def order(folder: Path) -> tuple[int, int]:
            seed = folder.name.rpartition("-")[2]
            return int(seed) if seed.isdecimal() else 0, self.module.TASKS.index(self._task(folder))

        return sorted(folders.values(), key=order)

    def net(self, model: str, weights: Weights) -> torch.nn.Module:
        net: torch.nn.Module = self.nets[self.tasks[model]]
        net.enc.load_state_dict(weights)
        net.head.load_state_dict(self.heads[model])
        return net.eval()

    def score(self, model: str, weights: Weights, split: str) -> float:
        train, test = self.rows[self.tasks[model]]
        rows = test if split == "test" else train[: self.CHOICE]
        limit = self.limits[split]
        if limit is not None and limit < len(rows):
            rows = random.Random(0).sample(rows, limit)
        return float(self.module.accuracy(self.net(model, weights), rows, self.tokenizer))

    def calibrate(self, model: str) -> Calibration:
        net = self.net(model, self.tuned[model])
        with Calibrator(net.enc, base=self.base()) as calibrator:
            self.module.accuracy(net, self.rows[self.tasks[model]][0][:256], self.tokenizer)
        return calibrator.calibration

    def base(self) -> Weights:
        net = self.module.Net(2)
        return {name: x.detach().clone() for name, x in net.enc.state_dict().items()}


def sentences(
    folder: Path, tuned: Sequence[Path], limit: int | None = None, choice: int | None = None
) -> Family:
    """Fine-tunes that a folder's ``finetune.py`` or ``tune_family.py`` made."""
    found = Sentences(folder, tuned, limit, choice)
    return Family("sentences", found.base(), found.tuned, found.tasks, found.score, found.calibrate)


def _mapped(path: Path) -> Weights:
    """A checkpoint's tensors, which are read from the file where they are used: many models fit so."""
    checkpoint = Checkpoint(path)
    return {name: checkpoint.tensor(name) for name in checkpoint.names}

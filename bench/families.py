"""Families of fine-tunes to judge methods on: a base, tuned models, and their accuracy."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pydelta import load_checkpoint
from pydelta.calibration import Calibration, Calibrator

Weights = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Family:
    """Fine-tunes of one base, one a task.

    Attributes:
        name: for titles and files.
        base: the base's weights.
        tuned: task -> weights.
        score: (task, weights, split) -> accuracy in [0, 1]; split "test", or "choice" for choosing a lambda.
        calibrate: (task) -> statistics of the tuned model's layers over some training inputs.
    """

    name: str
    base: Weights
    tuned: Mapping[str, Weights]
    score: Callable[[str, Weights, str], float]
    calibrate: Callable[[str], Calibration]


def digits(seed: int = 42) -> Family:
    """The demo's: eight views of scikit-learn's handwritten digits, trained here in half a minute."""
    from pydelta.demo.compare import Comparison
    from pydelta.demo.data import load
    from pydelta.demo.train import Network, Recipe, train_all

    data = load(seed)
    base, tuned = train_all(data, Recipe(), seed, lambda text: None)
    comparison = Comparison(data, base, tuned, seed)
    splits = {"test": data.test, "choice": data.validation}

    def score(task: str, weights: Weights, split: str) -> float:
        return comparison.accuracy(weights, task, splits[split]) / 100

    def calibrate(task: str) -> Calibration:
        network = Network(len(base["0.bias"]))
        network.load_state_dict(tuned[task])
        with torch.no_grad(), Calibrator(network, base=base) as calibrator:
            network(data.train.view(task)[0][:256])
        return calibrator.calibration

    return Family("digits", base, tuned, score, calibrate)


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
        tuned: where that wrote TASK/model.safetensors and TASK/head.safetensors.
    """

    CHOICE = 300

    def __init__(self, folder: Path, tuned: Path) -> None:
        self.module = finetune_module(folder)
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.module.MODEL)
        self.tasks = [task for task in self.module.TASKS if (tuned / task / "model.safetensors").is_file()]
        self.heads = {task: load_checkpoint(tuned / task / "head.safetensors") for task in self.tasks}
        self.tuned = {task: load_checkpoint(tuned / task / "model.safetensors") for task in self.tasks}
        self.rows = {task: self.module.load(task) for task in self.tasks}
        self.nets = {task: self.module.Net(len(self.heads[task]["bias"])) for task in self.tasks}

    def net(self, task: str, weights: Weights) -> torch.nn.Module:
        net: torch.nn.Module = self.nets[task]
        net.enc.load_state_dict(weights)
        net.head.load_state_dict(self.heads[task])
        return net.eval()

    def score(self, task: str, weights: Weights, split: str) -> float:
        train, test = self.rows[task]
        rows = test if split == "test" else train[: self.CHOICE]
        return float(self.module.accuracy(self.net(task, weights), rows, self.tokenizer))

    def calibrate(self, task: str) -> Calibration:
        net = self.net(task, self.tuned[task])
        with Calibrator(net.enc, base=self.base()) as calibrator:
            self.module.accuracy(net, self.rows[task][0][:256], self.tokenizer)
        return calibrator.calibration

    def base(self) -> Weights:
        net = self.module.Net(2)
        return {name: x.detach().clone() for name, x in net.enc.state_dict().items()}


def sentences(folder: Path, tuned: Path) -> Family:
    """Fine-tunes that a folder's ``finetune.py`` made."""
    found = Sentences(folder, tuned)
    return Family("sentences", found.base(), found.tuned, found.score, found.calibrate)

"""The networks of the demo: one base, and one fine-tune of it per view."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from pydelta.demo.data import PIXELS, VIEWS, Digits

Weights = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Sizes and dials; the defaults are the demo's.

    Wide layers and deltas much smaller than the weights are what real models have, and what random
    transforms need: the interference of a superposition averages out over a layer's inputs.
    """

    hidden: int = 1024
    batch: int = 128
    base_epochs: int = 40
    base_rate: float = 1e-3
    tune_epochs: int = 20
    tune_rate: float = 4e-4


class Network(nn.Sequential):
    """A perceptron with two hidden layers: (n, PIXELS**2) -> (n, 10)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(
            nn.Linear(PIXELS**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 10),
        )


def train_all(
    digits: Digits, recipe: Recipe, seed: int, say: Callable[[str], None]
) -> tuple[Weights, dict[str, Weights]]:
    """A base trained on the plain view, and a fine-tune of it for every view (the plain one too).

    Returns:
        The base's weights and, by view, the tuned weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(recipe.hidden)
        say("training the base network")
        train(network, *digits.train.view("plain"), recipe.batch, recipe.base_epochs, recipe.base_rate)
        base = _copy(network)
        return base, _tune_all(network, digits, recipe, base, say)


def twin(view: str) -> str:
    """The name of a view's second fine-tune."""
    return f"{view}-2"


def tune_again(
    digits: Digits, recipe: Recipe, base: Weights, seed: int, say: Callable[[str], None]
) -> dict[str, Weights]:
    """Further fine-tunes of a base, by view, which see the digits in another order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _tune_all(Network(recipe.hidden), digits, recipe, base, say)


def _tune_all(
    network: Network, digits: Digits, recipe: Recipe, base: Weights, say: Callable[[str], None]
) -> dict[str, Weights]:
    tuned = {}
    for name in VIEWS:
        say(f"fine-tuning: {name}")
        network.load_state_dict(base)
        train(network, *digits.train.view(name), recipe.batch, recipe.tune_epochs, recipe.tune_rate)
        tuned[name] = _copy(network)
    return tuned


def train(
    network: nn.Module, x: torch.Tensor, digits: torch.Tensor, batch: int, epochs: int, rate: float
) -> None:
    """AdamW on the cross entropy; the learning rate falls to zero along a cosine."""
    batches = len(x) // batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: batches * batch].view(batches, batch):
            loss = nn.functional.cross_entropy(network(x[rows]), digits[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def _copy(network: Network) -> Weights:
    return {name: x.detach().clone() for name, x in network.state_dict().items()}

"""Further fine-tunes of a family's tasks, one for each seed: what the quality scripts need for many models.

    python experiments/tune_family.py --family FOLDER --out DIR --seeds 2

Every seed draws its own sentences, order and head. DIR/TASK-SEED gets model.safetensors and head.safetensors;
what is there already is left alone, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from families import finetune_module
from safetensors.torch import save_file
from transformers import AutoTokenizer

BATCH = 32  # sentences in a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--sentences", type=int, default=1500, help="for each model")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    arguments = parser.parse_args()
    module = finetune_module(arguments.family)
    tokenizer = AutoTokenizer.from_pretrained(module.MODEL)
    for seed in range(1, arguments.seeds + 1):
        for task in module.TASKS:
            folder = arguments.out / f"{task}-{seed}"
            if (folder / "model.safetensors").is_file():
                continue
            started = time.time()
            net = tune(module, tokenizer, task, seed, arguments)
            save(net, folder)
            accuracy = module.accuracy(net, module.load(task)[1], tokenizer)
            print(f"{task}-{seed}: {accuracy:.3f}, {time.time() - started:.0f} s", flush=True)


def adamw(net: torch.nn.Module, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=0.01, fused=True)


def tune(
    module: Any,
    tokenizer: Any,
    task: str,
    seed: int,
    options: argparse.Namespace,
    optimizer_of: Callable[..., torch.optim.Optimizer] = adamw,
) -> Any:
    """A tuned network. ``optimizer_of``: (network, groups of named parameters)."""
    train, _ = module.load(task)
    classes = 1 + max(label for _, label in train)
    rows = random.Random(seed).sample(train, min(options.sentences, len(train)))
    torch.manual_seed(seed)
    net = module.Net(classes)
    net.train()
    optimizer = optimizer_of(net, groups_of(net, options.lr))
    steps = options.epochs * -(-len(rows) // BATCH)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for epoch in range(options.epochs):
        for batch in module.batches(rows, tokenizer, BATCH, True, 1000 * seed + epoch):
            optimizer.step(gradient_of(net, optimizer, batch))  # type: ignore[arg-type]
            rate.step()
    return net


def groups_of(net: Any, lr: float) -> list[dict[str, Any]]:
    """Named parameters: the encoder at ``lr``, the new head faster."""
    return [
        {"params": list(net.enc.named_parameters("enc")), "lr": lr},
        {"params": list(net.head.named_parameters("head")), "lr": 1e-3},
    ]


def gradient_of(
    net: Any, optimizer: torch.optim.Optimizer, batch: Sequence[torch.Tensor]
) -> Callable[[], None]:
    """A closure that computes the gradient of a batch (ids, mask, labels)."""
    ids, mask, labels = batch

    def gradient() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(net(ids, mask).float(), labels)
        torch.autograd.backward(loss)

    return gradient


def save(net: Any, folder: Path) -> None:
    """FOLDER/head.safetensors, then FOLDER/model.safetensors, the encoder: where that is, all is."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_state(net.head), folder / "head.safetensors")
    save_file(_state(net.enc), folder / "model.tmp", metadata={"format": "pt"})
    (folder / "model.tmp").replace(folder / "model.safetensors")


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.contiguous() for name, x in module.state_dict().items()}


if __name__ == "__main__":
    main()

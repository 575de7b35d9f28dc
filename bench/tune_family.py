"""Further fine-tunes of a family's tasks, one for each seed: what the quality scripts need for many models.

    python bench/tune_family.py --family FOLDER --out DIR --seeds 2

Every seed draws its own sentences, order and head. DIR/TASK-SEED gets model.safetensors and head.safetensors;
what is there already is left alone, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from families import finetune_module
from safetensors.torch import save_file
from transformers import AutoTokenizer

BATCH = 32


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
            net, accuracy = tune(module, tokenizer, task, seed, arguments)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(_state(net.head), folder / "head.safetensors")
            save_file(_state(net.enc), folder / "model.safetensors", metadata={"format": "pt"})
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
) -> tuple[Any, float]:
    """A tuned network and its test accuracy. ``optimizer_of``: (network, groups of named parameters)."""
    train, test = module.load(task)
    classes = 1 + max(label for _, label in train)
    rows = random.Random(seed).sample(train, min(options.sentences, len(train)))
    torch.manual_seed(seed)
    net = module.Net(classes)
    net.train()
    groups = [
        {"params": list(net.enc.named_parameters("enc")), "lr": options.lr},
        {"params": list(net.head.named_parameters("head")), "lr": 1e-3},
    ]
    optimizer = optimizer_of(net, groups)
    steps = options.epochs * -(-len(rows) // BATCH)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for epoch in range(options.epochs):
        for ids, mask, labels in module.batches(rows, tokenizer, BATCH, True, 1000 * seed + epoch):

            def gradient(ids: Any = ids, mask: Any = mask, labels: Any = labels) -> None:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = torch.nn.functional.cross_entropy(net(ids, mask).float(), labels)
                torch.autograd.backward(loss)

            optimizer.step(gradient)  # type: ignore[arg-type]
            rate.step()
    return net, module.accuracy(net, test, tokenizer)


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.contiguous() for name, x in module.state_dict().items()}


if __name__ == "__main__":
    main()

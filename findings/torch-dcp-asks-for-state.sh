#!/usr/bin/env bash
# Asking a fresh optimizer for its state through torch.distributed.checkpoint takes a step.
#
# Versions: torch 2.13.0 (CPU), Python 3.11.
# Expected: get_optimizer_state_dict reads; training that begins after it is the same as without it.
# Seen: it makes a step with zero gradients and rate 0 to have state, and leaves the counter at 1. The
# bias correction of the first real AdamW step is then that of the second: weights differ by a
# quarter of the learning rate.
# The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

asked, plain = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
plain.load_state_dict(asked.state_dict())
optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in (asked, plain)]
get_optimizer_state_dict(asked, optimizers[0])
steps = [float(state["step"]) for state in optimizers[0].state.values()]
print("step after asking:", steps)
assert steps == [1.0, 1.0]
for model, optimizer in zip((asked, plain), optimizers, strict=True):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
gap = float((asked.weight - plain.weight).detach().abs().max())
print(f"largest difference of the weights after one real step: {gap:.4f}")
assert gap > 0.02
PY

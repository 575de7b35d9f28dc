#!/usr/bin/env bash
# State set by name into an optimizer of another order keeps the names of the old order.
#
# Versions: torch 2.13.0 (CPU), Python 3.11.
# Expected: set_optimizer_state_dict maps moments by name, and the group's param_names go with its params.
# Seen: moments land on the right parameters, but param_names are the saved ones: each name now stands
# beside another parameter, and whoever reads state_dict() by these names mixes them up.
# The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict


def made(backwards):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    named = list(model.named_parameters())
    return model, torch.optim.AdamW(named[::-1] if backwards else named)


model, optimizer = made(backwards=False)
for p in model.parameters():
    p.grad = torch.ones_like(p)
optimizer.step()
other, turned = made(backwards=True)
set_optimizer_state_dict(other, turned, get_optimizer_state_dict(model, optimizer))
group, by_name = turned.param_groups[0], dict(other.named_parameters())
shapes = [tuple(p.shape) for p in group["params"]]
named = [tuple(by_name[name].shape) for name in group["param_names"]]
print("shapes of the parameters:        ", shapes)
print("shapes of what param_names names:", named)
assert all(turned.state[p]["exp_avg"].shape == p.shape for p in group["params"])
assert shapes == named[::-1] != named
PY

#!/usr/bin/env bash
# An optimizer that loads another's state shares its moments.
#
# Versions: torch 2.13.0 (CPU), Python 3.11.
# Expected: optimizer.load_state_dict(other.state_dict()) copies, as module.load_state_dict does.
# Seen: the moments are the same memory: the next step of one moves the moments of the other. Only a
# deep copy, or a file between them, parts the two.
# The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import torch

models = [torch.nn.Linear(3, 2) for _ in range(2)]
one, two = (torch.optim.AdamW(model.parameters(), lr=0.1) for model in models)
for p in models[0].parameters():
    p.grad = torch.ones_like(p)
one.step()
two.load_state_dict(one.state_dict())
moments = [o.state[m.weight]["exp_avg"] for o, m in zip((one, two), models, strict=True)]
before = moments[1].clone()
one.step()
print("same memory:", moments[0].data_ptr() == moments[1].data_ptr())
print("the second's moments after a step of the first:", "moved" if (before != moments[1]).any() else "as before")
assert moments[0].data_ptr() == moments[1].data_ptr()
assert (before != moments[1]).any()
PY

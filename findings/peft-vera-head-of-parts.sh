#!/usr/bin/env bash
# PEFT trains a head of several layers beside VeRA, and cannot unload the merged model.
#
# Versions: torch 2.13.0, peft 0.21.2 (CPU), Python 3.11.
# Expected: what modules_to_save takes, merge_and_unload puts back, as merge_adapter merges it.
# Seen: for a head that is a Sequential, training and merge_adapter work; merge_and_unload stops with an
# AttributeError over the head's weight.
# The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 peft==0.21.2 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
import warnings

import torch

warnings.simplefilter("ignore")
from peft import VeraConfig, get_peft_model


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(12, 12))
        self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(12), torch.nn.Linear(12, 3))

    def forward(self, x):
        return self.head(self.body(x))


config = VeraConfig(target_modules=["body.0"], modules_to_save=["head"], r=4)
model = get_peft_model(Net(), config)
model(torch.randn(4, 12)).sum().backward()
model.merge_adapter()
model.unmerge_adapter()
try:
    model.merge_and_unload()
except AttributeError as error:
    print("merge_and_unload:", error)
    assert "has no attribute 'weight'" in str(error)
else:
    raise SystemExit("merge_and_unload works now")
PY

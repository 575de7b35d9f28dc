"""Calibrated factors on live modules: in swaps and in mixed batches."""

import copy

import pytest
import torch
from checkpoints import paths
from serving import IDS, NAMES, Toy, assert_swaps_and_mixes, loaded, moved, state_of

from pydelta import Superposition, save_checkpoint
from pydelta.calibration import Calibrator

SERVED = [
    {},
    {"transform": "hadamard", "shuffle_layers": True},
    {"bits": 1, "buckets": 2},
    {"bits": 4, "shuffle_layers": True},
]


def served(folder, **options):
    """(the store, a bank on a copy of the base, name -> a module with the retrieved weights)."""
    torch.manual_seed(0)
    toy = Toy().eval()
    base = state_of(toy)
    save_checkpoint(base, folder / "base")
    calibrations, where = {}, paths(folder, NAMES)
    for i, name in enumerate(NAMES):
        tuned = moved(base, i + 1, 0.05)
        save_checkpoint(tuned, where[name])
        module = loaded(toy, tuned)
        with torch.no_grad(), Calibrator(module, base=base, layers=["layers.*.weight"]) as calibrator:
            module(IDS)
        if name != "b":
            calibrations[name] = calibrator.calibration
    store = Superposition.create(
        folder / "base", where, folder / "store", calibration=calibrations, weights={"c": 2.0}, **options
    )
    models = {name: loaded(toy, store.retrieve(name)) for name in NAMES}
    return store, store.attach(copy.deepcopy(toy)), models


@pytest.mark.parametrize("options", SERVED)
def test_swaps_and_mixed_batches_use_them(tmp_path, options):
    store, bank, models = served(tmp_path, **options)
    entries = store.manifest.models
    assert (list(entries["a"].lams), entries["b"].lams) == (["layers.0.weight", "layers.1.weight"], {})
    assert all(0 < lam < 0.9 for lam in entries["c"].lams.values())
    assert_swaps_and_mixes(bank, models)

"""What a serving engine reads of a store."""

import pytest
import torch
from checkpoints import family, paths

import pydelta
from pydelta import Superposition


@pytest.mark.parametrize("shuffle", [False, True])
def test_source_is_what_retrieve_needs(tmp_path, shuffle):
    base, models = family(tmp_path, 3)
    store = Superposition.create(
        tmp_path / "base",
        paths(tmp_path, models),
        tmp_path / "store",
        shuffle_layers=shuffle,
        weights={"m1": 2.0},
        lam=0.5,
    )
    for model in models:
        found = store.retrieve(model)
        for name, rule in store.manifest.rules.items():
            if rule.rule == "superposed":
                superposed, key, lam = store.source(model, name)
                assert torch.equal(
                    pydelta.retrieve(base[name], superposed, key, lam=lam, dim=rule.dim), found[name]
                )
        exact = store.exact(model)
        assert exact.keys() == {name for name, rule in store.manifest.rules.items() if rule.rule == "exact"}
        assert all(torch.equal(x, models[model][name]) for name, x in exact.items())


def test_what_is_not_there(tmp_path):
    _, models = family(tmp_path, 1)
    store = Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store")
    for call in (
        lambda: store.source("m9", "embed.weight"),
        lambda: store.exact("m9"),
        lambda: store.bucket("m9"),
    ):
        with pytest.raises(ValueError, match=r"store: holds no model 'm9'; it holds m0$"):
            call()
    for tensor in ("scale", "nothing"):
        with pytest.raises(ValueError, match=f"tensor '{tensor}' is not superposed"):
            store.source("m0", tensor)

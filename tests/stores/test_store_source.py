"""What a serving engine reads of a store."""

import pytest
import torch
from checkpoints import equal, family, paths

import pydelta
from pydelta import Superposition, save_checkpoint


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


@pytest.mark.parametrize(
    "options",
    [{"bits": 1, "buckets": 2}, {"rate": 0.25, "transform": "hadamard"}, {"bits": 4}, {"exact": True}],
)
def test_a_bank_of_every_form(tmp_path, options):
    """A live module gets the weights that retrieve gives, also when the store changes meanwhile."""
    base = {"weight": torch.randn(24, 40), "bias": torch.randn(24)}
    save_checkpoint(base, tmp_path / "base")
    where = paths(tmp_path, ["m0", "m1", "m2"])
    for path in where.values():
        save_checkpoint({name: x + 0.01 * torch.randn(x.shape) for name, x in base.items()}, path)
    given = {name: where[name] for name in ("m0", "m1")}
    store = Superposition.create(tmp_path / "base", given, tmp_path / "store", **options)
    module = torch.nn.Linear(40, 24)
    bank = store.attach(module)
    expected = {name: store.retrieve(name) for name in given}
    store.add("m2", where["m2"])
    for name in ("m0", "m1", "m0"):
        bank.activate(name)
        assert equal(module.state_dict(), expected[name])


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

"""``transform="auto"``: signs or a rotation for each tensor, chosen once and kept."""

import copy
import json
import re

import pytest
import torch
from checkpoints import listing, paths
from serving import NAMES, Toy, assert_swaps_and_mixes, loaded, moved, state_of

import pydelta
from pydelta import Superposition, save_checkpoint
from pydelta.calibration import Calibration, LayerStatistics
from pydelta.cli import main

ROWS, WIDTH = 48, 128


def deltas(kind, count, generator):
    """``count`` deltas whose columns are alike, share outliers, have outliers of their own, are apart or
    come in copies."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    shared = torch.ones(WIDTH)
    shared[::17] = 8.0
    for k in range(count):
        apart = torch.zeros(WIDTH)
        apart[k * WIDTH // count : (k + 1) * WIDTH // count] = 1.0
        own = torch.ones(WIDTH)
        own[k::17] = 8.0
        columns = {"plain": torch.ones(WIDTH), "shared": shared, "own": own, "apart": apart}
        if kind == "copies":
            yield normal(ROWS, WIDTH // 16).repeat_interleave(16, 1)
        else:
            yield normal(ROWS, WIDTH) * columns[kind]


def made(folder, kinds, count, **options):
    """(base, store): a matrix for each kind of delta, and a vector."""
    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(ROWS, WIDTH, generator=generator) for name in kinds} | {"v": torch.ones(3)}
    save_checkpoint(base, folder / "base", force=True)
    models = [dict(base) for _ in range(count)]
    for name, kind in kinds.items():
        for model, delta in zip(models, deltas(kind, count, generator), strict=True):
            model[name] = base[name] + 1e-2 * delta
    where = paths(folder, [f"m{k}" for k in range(count)])
    for path, model in zip(where.values(), models, strict=True):
        save_checkpoint(model, path, force=True)
    options = {"transform": "auto", "force": True, **options}
    return base, Superposition.create(folder / "base", where, folder / "store", **options)


def transforms(store):
    return {name: rule.transform for name, rule in store.manifest.rules.items() if rule.dim is not None}


@pytest.mark.parametrize(
    ("count", "options", "plain", "shared", "apart", "copies"),
    [
        (4, {}, "sign", "hadamard", "sign", "sign"),
        (4, {"dtype": "bf16"}, "sign", "hadamard", "sign", "sign"),
        (4, {"exact": True}, "sign", "hadamard", "sign", "sign"),
        (4, {"mask": "random", "keep": 0.5}, "sign", "hadamard", "sign", "sign"),
        (4, {"mask": "magnitude", "keep": 0.5}, "sign", "hadamard", "sign", "sign"),
        (1, {}, "sign", "sign", "sign", "sign"),
        (2, {"rate": 1}, "hadamard", "hadamard", "hadamard", "hadamard"),
        (4, {"rate": 0.25}, "hadamard", "hadamard", "sign", "hadamard"),
    ],
)
def test_what_is_chosen(tmp_path, count, options, plain, shared, apart, copies):
    """Signs where nothing speaks for a rotation or columns are apart; a rotation for shared outliers, and for
    codes, but where columns are apart."""
    kinds = {kind: kind for kind in ("plain", "shared", "apart", "copies")}
    _, store = made(tmp_path, kinds, count, **options)
    assert store.manifest.transform == "auto"
    assert transforms(store) == {"plain": plain, "shared": shared, "apart": apart, "copies": copies}


@pytest.mark.parametrize("options", [{}, {"rate": 0.25}])
def test_what_is_chosen_leaves_less(tmp_path, options):
    """Of the errors of outputs on inputs with the deltas' outliers."""
    kinds = {"shared": "shared", "apart": "apart"}
    base, store = made(tmp_path, kinds, 4, **options)
    where = paths(tmp_path, store.models)
    errors = {}
    for transform in ("auto", "sign", "hadamard"):
        out = tmp_path / transform
        other = Superposition.create(tmp_path / "base", where, out, transform=transform, **options)
        for name in kinds:
            tuned = {model: pydelta.load_checkpoint(path)[name] for model, path in where.items()}
            errors[transform, name] = sum(
                float(((x - base[name]) @ (other.retrieve(model)[name] - x).T).square().sum())
                for model, x in tuned.items()
            )
    for name in kinds:
        few, many = sorted(errors[transform, name] for transform in ("sign", "hadamard"))
        assert few < 0.5 * many
        assert errors["auto", name] == few


def test_a_calibration_decides(tmp_path):
    """Outliers of each model's own disturb the others where these have large inputs."""
    kinds = {"own": "own"}
    base, store = made(tmp_path, kinds, 3)
    assert transforms(store) == {"own": "sign"}
    where = paths(tmp_path, store.models)
    norms = [(pydelta.load_checkpoint(path)["own"] - base["own"]).norm(dim=0) for path in where.values()]
    calibrations = {
        model: Calibration({"own": LayerStatistics(sum(norms) - own, torch.zeros(WIDTH), 9, 1, 1.0)})
        for model, own in zip(where, norms, strict=True)
    }
    _, store = made(tmp_path, kinds, 3, calibration=calibrations)
    assert transforms(store) == {"own": "hadamard"}
    assert all(0 < model.lams["own"] < 1 for model in store.manifest.models.values())


def mixed(folder, **options):
    """A store with both transforms, whose layers may change places."""
    kinds = {f"layers.{i}.weight": kind for i, kind in enumerate(("plain", "shared", "shared"))}
    return made(folder, kinds | {"a": "plain", "b": "shared"}, 4, **options)


@pytest.mark.parametrize(
    "options", [{}, {"shuffle_layers": True}, {"dtype": "bf16"}, {"bits": 2, "buckets": 2}, {"exact": True}]
)
def test_every_tensor_comes_back_by_its_own(tmp_path, options):
    base, store = mixed(tmp_path, **options)
    if "bits" not in options:
        assert set(transforms(store).values()) == {"sign", "hadamard"}
    if "shuffle_layers" in options:
        assert len({transforms(store)[f"layers.{i}.weight"] for i in range(3)}) == 1
    for model in store.models:
        found = store.retrieve(model)
        for name, transform in transforms(store).items():
            assert store.manifest.transform_of(name) == transform
            superposed, key, lam = store.source(model, name)
            call = {"lam": lam, "transform": transform, "backend": "reference"}
            assert torch.equal(found[name], pydelta.retrieve(base[name], superposed, key, **call))
    assert Superposition.verify(store.path, base=tmp_path / "base") == []


@pytest.mark.parametrize("options", [{}, {"rate": 0.5, "room": 4}, {"exact": True}])
def test_models_come_and_go(tmp_path, options):
    _, store = mixed(tmp_path, **options)
    chosen = transforms(store)
    more = store.add("m4", tmp_path / "m0.safetensors")
    assert transforms(more) == chosen
    found, true = more.retrieve("m4"), pydelta.load_checkpoint(tmp_path / "m0.safetensors")
    measured = more.measure("m4", tmp_path / "m0.safetensors")
    assert all(
        measured[name] == pytest.approx(e, rel=0.5)
        for name, e in more.describe()["models"]["m4"]["tensors"].items()
    )
    assert torch.equal(found["v"], true["v"])
    less = more.remove("m4", tmp_path / "m0.safetensors")
    assert less.manifest.rules == store.manifest.rules
    if options.get("exact"):
        assert less.manifest.buckets == store.manifest.buckets
    assert Superposition.verify(less.path) == []


def test_it_does_not_depend_on_threads_or_the_order(tmp_path):
    _, store = mixed(tmp_path)
    where = paths(tmp_path, store.models)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        turned = dict(reversed(where.items()))
        Superposition.create(tmp_path / "base", turned, tmp_path / "other", transform="auto")
    finally:
        torch.set_num_threads(threads)
    one, two = listing(store.path), listing(tmp_path / "other")
    assert {n: one[n] for n in one if n != "log.jsonl"} == {n: two[n] for n in two if n != "log.jsonl"}


@pytest.mark.parametrize("options", [{}, {"shuffle_layers": True}, {"bits": 1}])
def test_swaps_and_mixed_batches(tmp_path, options):
    """Layers of both kinds; with codes everything is rotated but what has columns apart."""
    torch.manual_seed(0)
    toy = Toy().eval()
    base, where = state_of(toy), paths(tmp_path, NAMES)
    save_checkpoint(base, tmp_path / "base")
    for k, path in enumerate(where.values()):
        tuned = moved(base, k, 0.05)
        shared, apart = torch.ones(32), torch.zeros(32)
        shared[::9], apart[k * 10 : k * 10 + 10] = 10.0, 1.0
        columns = {"embed.weight": shared, "layers.1.weight": shared}
        columns |= {"layers.0.weight": apart} if "bits" in options else {}
        for tensor, factors in columns.items():
            tuned[tensor] = base[tensor] + (tuned[tensor] - base[tensor]) * factors
        save_checkpoint(tuned, path)
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", transform="auto", **options)
    assert set(transforms(store).values()) == {"sign", "hadamard"}
    models = {name: loaded(toy, store.retrieve(name)) for name in NAMES}
    assert_swaps_and_mixes(store.attach(copy.deepcopy(toy)), models)


def test_the_command_and_inspect(tmp_path, monkeypatch, capsys):
    _, expected = mixed(tmp_path)
    monkeypatch.chdir(tmp_path)
    models = [word for name in expected.models for word in ("--model", f"{name}={name}.safetensors")]
    assert main(["compress", "--base", "base", *models, "-o", "new", "--transform", "auto", "--quiet"]) == 0
    assert transforms(Superposition.open("new")) == transforms(expected)
    assert main(["inspect", "new", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["transform"]) == (3, "auto")
    given = {row["name"]: row["transform"] for row in found["tensors"]}
    assert given == {**transforms(expected), "v": ""}
    assert main(["inspect", "new"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(row[:2] == ["b", "superposed"] and "hadamard" in row for row in rows)


LIES = {
    "none for a tensor": (
        lambda c: c["tensors"]["a"].pop("transform"),
        "transform must be a JSON value of type str",
    ),
    "an unknown one": (
        lambda c: c["tensors"]["a"].update(transform="auto"),
        "transform must be one of none, sign, hadamard, got 'auto'",
    ),
    "in version 2": (
        lambda c: c.update(version=2),
        "transform must be one of none, sign, hadamard, got 'auto'",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_store_json_that_lies(tmp_path, lie):
    change, message = LIES[lie]
    _, store = mixed(tmp_path)
    content = json.loads((store.path / "store.json").read_text())
    change(content)
    (store.path / "store.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        Superposition.open(store.path)


def test_an_unknown_transform(tmp_path):
    with pytest.raises(ValueError, match="transform must be one of none, sign, hadamard, auto, got 'haar'"):
        made(tmp_path, {"a": "plain"}, 1, transform="haar")

"""Elements that a store keeps exactly, beside its sums."""

import json
import math
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family, listing, paths
from tensors import assert_same_bits

import pydelta
from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.cli import main

FORMS = {
    "full": {},
    "bf16": {"dtype": "bf16", "shuffle_layers": True, "lam": 0.5},
    "codes": {"bits": 1, "room": 4},
    "exact": {"exact": True, "mask": "magnitude", "keep": 0.5},
}
FRACTION = 0.07


def make(folder, count=3, *, names=None, kind=torch.float32, **options):
    _, models = family(folder, count, dtype=kind)
    where = paths(folder, models)
    given = {name: where[name] for name in names or models}
    options = {"residual": FRACTION, **options}
    return models, where, Superposition.create(folder / "base", given, folder / "store", **options)


def superposed(store):
    return [name for name, rule in store.manifest.rules.items() if rule.rule == "superposed"]


def right(found, true):
    """Where the bits of two tensors agree."""
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[true.element_size()]
    return (found.view(word) == true.view(word)).view(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_farthest_is_exact(tmp_path, monkeypatch, form, dtype):
    """Against a sort by hand of what a store without a residual retrieves, in many parts."""
    monkeypatch.setattr("pydelta.superposition.format.parts.PART_BYTES", 512)
    models, where, store = make(tmp_path, kind=dtype, input_dims={"layers.1.*": 0}, **FORMS[form])
    plain = Superposition.create(
        tmp_path / "base", where, tmp_path / "plain", input_dims={"layers.1.*": 0}, **FORMS[form]
    )
    for name, true in models.items():
        without, found = plain.retrieve(name), store.retrieve(name)
        for tensor in superposed(store):
            far = (true[tensor].double() - without[tensor].double()).abs().view(-1)
            count = math.floor(FRACTION * far.numel())
            chosen = far.argsort(descending=True, stable=True)[:count]
            expected = without[tensor].clone()
            expected.view(-1)[chosen] = true[tensor].view(-1)[chosen]
            assert_same_bits(found[tensor], expected)
            assert int(right(found[tensor], true[tensor]).sum()) >= count
        assert equal(
            {n: x for n, x in found.items() if n not in superposed(store)},
            {n: x for n, x in true.items() if n not in superposed(store)},
        )


def test_places_and_values(tmp_path):
    """What a serving engine reads: the source alone, and the elements over it."""
    models, _, store = make(tmp_path, bits=1)
    base = load_checkpoint(tmp_path / "base")["embed.weight"]
    superposed, stream, lam = store.source("m1", "embed.weight")
    transform = store.manifest.transform_of("embed.weight")
    found = pydelta.retrieve(base, superposed, stream, lam=lam, transform=transform)
    places, values = store.residual("m1", "embed.weight")
    assert torch.equal(values, models["m1"]["embed.weight"].view(-1)[places])
    found.view(-1)[places] = values
    assert torch.equal(found, store.retrieve("m1")["embed.weight"])
    with pytest.raises(ValueError, match="holds no model 'm7'"):
        store.residual("m7", "embed.weight")
    with pytest.raises(ValueError, match="tensor 'scale' is not superposed"):
        store.residual("m1", "scale")
    bare = Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "bare")
    assert bare.residual("m1", "embed.weight") is None


def test_ties_go_to_the_first(tmp_path):
    base = {"w": torch.zeros(4, 8)}
    save_checkpoint(base, tmp_path / "base")
    tuned = torch.zeros(4, 8)
    tuned[0, 3], tuned[1, 0], tuned[2, 2], tuned[3, 7] = 1.0, -1.0, 1.0, -1.0
    save_checkpoint({"w": tuned}, tmp_path / "m.safetensors")
    options = {"mask": "magnitude", "keep": 1 / 64, "residual": 2 / 32}
    store = Superposition.create(
        tmp_path / "base", {"m": tmp_path / "m.safetensors"}, tmp_path / "store", **options
    )
    found = store.retrieve("m")["w"]
    assert found.nonzero().tolist() == [[0, 3], [1, 0]]


@pytest.mark.parametrize("form", FORMS)
def test_whatever_joins_later_they_stay_exact(tmp_path, form):
    models, where, store = make(tmp_path, 4, names=["m0"], **FORMS[form])
    kept = {name: content for name, content in listing(store.path).items() if name.startswith("residual/")}
    # Values are read from the file itself: what is kept must come back, bit for bit.
    values = load_checkpoint(store.path / "residual" / "m0.safetensors")
    for name in ("m1", "m2", "m3"):
        store = store.add(name, where[name], weight=3.0)
        assert listing(store.path)["residual/m0.safetensors"] == kept["residual/m0.safetensors"]
    found = store.retrieve("m0")
    for tensor in superposed(store):
        stored = values.get(f"values/{tensor}")
        if stored is not None:
            same = right(found[tensor], models["m0"][tensor])
            assert int(same.sum()) >= len(stored)
    for name in ("m1", "m2", "m3"):
        same = [right(store.retrieve(name)[t], models[name][t]).double().mean() for t in superposed(store)]
        assert min(same) >= 0.9 * FRACTION
    before = files(store)
    if form == "exact":
        less = store.remove("m3", where["m3"])
        assert not (store.path / "residual" / "m3.safetensors").exists()
        assert files(less.add("m3", where["m3"], weight=3.0)) == before
    assert Superposition.verify(store.path, base=tmp_path / "base") == []


def files(store):
    return {name: content for name, content in listing(store.path).items() if name != "log.jsonl"}


def test_adding_the_last_gives_the_bits_of_compress(tmp_path):
    _, where, store = make(tmp_path, 2, names=["m0"], bits=1, room=3)
    store = store.add("m1", where["m1"])
    both = Superposition.create(
        tmp_path / "base", where, tmp_path / "both", residual=FRACTION, bits=1, room=3
    )
    assert files(store)["residual/m1.safetensors"] == files(both)["residual/m1.safetensors"]
    assert equal(store.retrieve("m1"), both.retrieve("m1"))


def test_retrieval_in_another_process_and_export(tmp_path):
    _, _, store = make(tmp_path, bits=2)
    program = "import sys, pydelta; pydelta.Superposition.open(sys.argv[1]).retrieve('m1', sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", program, str(store.path), str(tmp_path / "out.safetensors")], check=True
    )
    expected = store.retrieve("m1")
    assert equal(load_checkpoint(tmp_path / "out.safetensors"), expected)
    (folder,) = store.export(tmp_path / "all", ["m1"])
    assert equal(load_checkpoint(folder), expected)


@pytest.mark.parametrize("form", ["full", "codes", "exact"])
def test_expected_errors_and_bytes(tmp_path, form):
    models, where, store = make(tmp_path, **FORMS[form])
    found = store.describe()
    assert found["residual"] == FRACTION
    for name in models:
        measured = store.measure(name, where[name])[""]
        assert measured == pytest.approx(found["models"][name]["expected_error"], rel=0.1)
    sizes = found["sizes"]
    stored = [Checkpoint(store.path / "residual" / f"{name}.safetensors") for name in models]
    assert sizes["residual"] == sum(file.nbytes for file in stored)
    assert sum(n for kind, n in sizes.items() if kind not in ("base", "per_model")) == found["bytes"]
    assert found["bytes"] == sum(map(len, listing(store.path).values()))
    total = sum(math.prod(store.manifest.rules[t].shape) for t in superposed(store)) * 3 * FRACTION
    # A value of four bytes, and less than a byte for its place.
    assert 4 * 0.95 * total <= sizes["residual"] <= 5.2 * total
    plain = Superposition.create(tmp_path / "base", where, tmp_path / "plain", **FORMS[form])
    for mine, theirs in zip(found["tensors"], plain.describe()["tensors"], strict=True):
        own = sum(
            info.nbytes
            for file in stored
            for kind in ("values/", "places/")
            if (info := file.tensors.get(kind + mine["name"]))
        )
        assert mine["bytes"] == theirs["bytes"] + own


def test_one_model_without_loss_keeps_nothing(tmp_path):
    models, _, store = make(tmp_path, 1, kind=torch.bfloat16)
    assert Checkpoint(store.path / "residual" / "m0.safetensors").names == ()
    assert equal(store.retrieve("m0"), models["m0"])
    assert store.describe()["models"]["m0"]["expected_error"] == 0


PLACES, VALUES = "places/embed.weight", "values/embed.weight"
DAMAGES = {
    "parameter": (PLACES, 0, b"\x7f", r"m1\.safetensors: tensor 'places/embed\.weight': .* have no code"),
    "low bits": (PLACES, 5, b"\x55", None),  # places that may be: the digest alone knows better
    "unary": (PLACES, -1, b"\x7f", r"m1\.safetensors: tensor 'places/embed\.weight': the code has"),
    "value": (VALUES, 0, b"\x00\x00\xc0\x7f", r"m1\.safetensors: tensor 'values/embed\.weight' holds NaN"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file(tmp_path, kind):
    _, _, store = make(tmp_path, 2)
    path = store.path / "residual" / "m1.safetensors"
    name, at, new, message = DAMAGES[kind]
    info = Checkpoint(path).tensors[name]
    content = bytearray(path.read_bytes())
    first = info.offset + at % info.nbytes
    content[first : first + len(new)] = new
    path.write_bytes(content)
    expected = f"{path}: tensor {name!r} has other bytes than those that were stored"
    assert Superposition.verify(store.path) == [expected]
    damaged = Superposition.open(store.path)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            damaged.retrieve("m1")
        with pytest.raises(ValueError, match=message):
            damaged.retrieve("m1", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert equal(damaged.retrieve("m0"), store.retrieve("m0"))


def edited(path, change):
    values = load_checkpoint(path)
    change(values)
    save_checkpoint(values, path, force=True)


BAD = {
    "more than its room": lambda v: v.update({"values/embed.weight": torch.ones(90)}),
    "another dtype": lambda v: v.update({"values/embed.weight": v["values/embed.weight"].half()}),
    "no places": lambda v: v.pop("places/embed.weight"),
    "an exact tensor": lambda v: v.update(
        {"values/scale": torch.ones(1), "places/scale": v["places/embed.weight"]}
    ),
    "an empty code": lambda v: v.update({"places/embed.weight": torch.ones(1, dtype=torch.uint8)}),
    "a matrix": lambda v: v.update({"values/embed.weight": torch.ones(2, 3)}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_does_not_hold_what_it_must(tmp_path, kind):
    _, _, store = make(tmp_path, 1, bits=1)
    edited(store.path / "residual" / "m0.safetensors", BAD[kind])
    tensor = "scale" if kind == "an exact tensor" else r"embed\.weight"
    message = rf"m0\.safetensors: does not hold what store\.json says: .*{tensor}"
    with pytest.raises(ValueError, match=message):
        Superposition.open(store.path)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1, ValueError, r"residual must lie in \[0, 1\), got 1.0"),
        (-0.1, ValueError, r"residual must lie in \[0, 1\), got -0.1"),
        (float("nan"), ValueError, "residual must be finite, got nan"),
        ("1", TypeError, "residual must be a number, got str"),
    ],
)
def test_bad_arguments(tmp_path, value, error, message):
    with pytest.raises(error, match=rf"^\[compress\] {message}"):
        Superposition.create("base", {"a": "a"}, tmp_path / "store", residual=value)
    assert listing(tmp_path) == {}


def test_a_store_json_that_lies(tmp_path):
    _, _, store = make(tmp_path, 1)
    content = json.loads((store.path / "store.json").read_text())
    for value, message in (
        (1, r"residual must lie in \[0, 1\), got 1"),
        ("a", "residual must be a finite number"),
        (0, "files must be those of the buckets and models"),
    ):
        (store.path / "store.json").write_text(json.dumps({**content, "residual": value}))
        with pytest.raises(ValueError, match=message):
            Superposition.open(store.path)


def test_the_command(tmp_path, monkeypatch, capsys):
    family(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    words = ["compress", "--base", "base", "--model", "m0.safetensors", "--rate", "0.5"]
    assert main([*words, "-o", "store", "--residual", "0.05", "--quiet"]) == 0
    assert main(["add", "store", "--model", "m1=m1.safetensors", "--quiet"]) == 0
    assert main(["inspect", "store"]) == 0
    text = capsys.readouterr().out
    assert ", residual 0.05\n" in text
    assert any(line.startswith("residual ") for line in text.splitlines())
    assert main(["retrieve", "store", "m1", "-o", "out.safetensors", "--quiet"]) == 0
    found, true = load_checkpoint("out.safetensors"), load_checkpoint("m1.safetensors")
    assert right(found["embed.weight"], true["embed.weight"]).double().mean() >= 0.05
    with pytest.raises(SystemExit) as caught:
        main([*words, "-o", "new", "--residual", "2"])
    assert caught.value.code == 2
    assert "argument --residual: must lie in [0, 1], got 2" in capsys.readouterr().err
    assert main([*words, "-o", "new", "--residual", "1"]) == 1
    assert "[compress] residual must lie in [0, 1), got 1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_torch_to_open(tmp_path):
    _, _, store = make(tmp_path, 1)
    program = (
        "import sys; from pydelta import Superposition; "
        "print(Superposition.open(sys.argv[1]).describe()['residual']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.path)], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) == FRACTION
    assert pydelta.__version__ == store.manifest.made_by

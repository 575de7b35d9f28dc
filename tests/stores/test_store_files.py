"""What lies in a store: golden files, a distrustful reader, the log, the base."""

import errno
import json
import os
import re
import shutil

import pytest
import torch
from checkpoints import equal, family, listing, paths, sums, tuned
from paths import GOLDEN
from store_forms import DEPARTING, LATEST

from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.superposition.format.manifest import exact_name
from pydelta.superposition.reading import retrieve

FIRST = {
    "signs": {"shuffle_layers": True, "seed": 7},
    "hadamard": {"transform": "hadamard", "dtype": "bf16", "lam": 0.5, "seed": 2**64 - 1},
}
OPTIONS = {
    "full": FIRST["signs"],
    "codes": {"bits": 2, "buckets": 2, "transform": "hadamard", "lam": 0.5},
    "open": {"bits": 1, "room": 3, "transform": "sign", "shuffle_layers": True},
    "exact": {"exact": True, "seed": 2**64 - 1},
}
"""Golden stores of the present version; those of version 2 are above."""
LATER = {"version": 3, "mask": None, "keep": None, "drop_large": None, "residual": 0.0}
"""What ``store.json`` says since version 3 of stores that use nothing of it."""


@pytest.fixture
def store(tmp_path):
    _, models = family(tmp_path, 2)
    return Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store")


WRITTEN = {f"v2/{kind}": given for kind, given in OPTIONS.items()}
WRITTEN |= {f"v3/{kind}": given for kind, given in LATEST.items()}
GOLDENS = [*FIRST, *WRITTEN]
MODELS = {"b": GOLDEN / "b.safetensors", "a/ä": GOLDEN / "a.safetensors"}


@pytest.mark.parametrize("kind", GOLDENS)
def test_golden_stores_are_still_read(tmp_path, kind):
    shutil.copytree(GOLDEN / kind, tmp_path / "store")
    store = Superposition.open(tmp_path / "store")
    assert store.models == ["a/ä", "b"]
    for name, file in MODELS.items():
        found = store.retrieve(name, base=GOLDEN / "base")
        assert equal(found, load_checkpoint(GOLDEN / f"{kind}-{file.name}"))
    assert Superposition.verify(store.path, base=GOLDEN / "base") == []


@pytest.mark.parametrize("kind", FIRST)
def test_sums_are_those_of_version_1(tmp_path, kind):
    Superposition.create(GOLDEN / "base", MODELS, tmp_path / "store", **FIRST[kind])
    assert equal(sums(tmp_path / "store"), sums(GOLDEN / kind))


@pytest.mark.parametrize("kind", WRITTEN)
def test_golden_stores_are_still_written(tmp_path, kind):
    Superposition.create(GOLDEN / "base", MODELS, tmp_path / "store", **WRITTEN[kind])
    found, expected = listing(tmp_path / "store"), listing(GOLDEN / kind)
    assert found.keys() == expected.keys()
    for name in found:
        if name.endswith(".safetensors"):
            assert found[name] == expected[name], name
    ours, theirs = (json.loads(files["store.json"]) for files in (found, expected))
    for content in (ours, theirs):
        del content["base"]["path"], content["base"]["stamps"], content["pydelta"]
    norms = [
        [x for model in content["models"].values() for x in norms_of(model)] for content in (ours, theirs)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)  # sums, whose order torch may choose
    assert ours == theirs | (LATER if kind.startswith("v2") else {})


@pytest.mark.parametrize("kind", DEPARTING)
def test_golden_stores_of_departing_models_are_read_and_written(tmp_path, kind):
    inputs, golden = GOLDEN / "departing", GOLDEN / "v4" / kind
    shutil.copytree(golden, tmp_path / "old")
    old = Superposition.open(tmp_path / "old")
    assert equal(
        old.retrieve("a", base=inputs / "base"), load_checkpoint(GOLDEN / f"v4/{kind}-a.safetensors")
    )
    assert Superposition.verify(old.path, base=inputs / "base") == []
    Superposition.create(inputs / "base", {"a": inputs / "a"}, tmp_path / "store", **DEPARTING[kind])
    found, expected = listing(tmp_path / "store"), listing(golden)
    for files in (found, expected):
        del files["store.json"], files["log.jsonl"]
    assert found == expected


def norms_of(model):
    """All numbers that are norms, taken out of a model's entry."""
    losses = [x for row in model.pop("losses", []) for x in row]
    lams = [x for x in model.pop("lams", []) if x is not None]
    return [model.pop("norm2"), *model.pop("norms"), *losses, *lams]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("plain-1.0_x", "plain-1.0_x"),
        ("../../etc", "..%2F..%2Fetc"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a b~c", "a%20b%7Ec"),
        ("ä", "%C3%A4"),
        ("%2E", "%252E"),
    ],
)
def test_file_names_of_models(name, file):
    assert exact_name(name) == f"exact/{file}.safetensors"


def test_no_model_name_leads_out_of_the_store(tmp_path):
    _, models = family(tmp_path, 1)
    before = set(listing(tmp_path))
    names = ["..", ".", "../../up", "/etc/passwd", "a\\b", "exact"]
    where = dict.fromkeys(names, tmp_path / "m0.safetensors")
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store")
    assert {name.split("/")[0] for name in set(listing(tmp_path)) - before} == {"store"}
    assert len(os.listdir(tmp_path / "store" / "exact")) == len(names)
    assert torch.equal(store.retrieve("../../up")["scale"], models["m0"]["scale"])


def edit(path, change):
    content = json.loads((path / "store.json").read_text())
    change(content)
    (path / "store.json").write_text(json.dumps(content))


BAD_FIELDS = {
    "format": (lambda c: c.update(format="zip"), "format must be 'pydelta-superposition'"),
    "newer": (
        lambda c: c.update(version=5, pydelta="9.9"),
        "version 5 of the format was written by a newer pydelta",
    ),
    "version": (lambda c: c.update(version="1"), "version must be a JSON value of type int, got '1'"),
    "version 0": (lambda c: c.update(version=0), "version must be positive, got 0"),
    "mask": (
        lambda c: c.update(mask="wanda", keep=0.5),
        "mask must be one of random, magnitude, breadcrumbs, got 'wanda'",
    ),
    "keep": (
        lambda c: c.update(mask="random", keep=float("nan")),
        "keep must lie in (0, 1], got nan",
    ),
    "keep kind": (
        lambda c: c.update(mask="random", keep="1"),
        "keep must be a number, got str",
    ),
    "mask alone": (lambda c: c.update(mask="random"), "mask and keep must be given together"),
    "losses": (
        lambda c: c["models"]["m0"].update(losses=[[1, 2]]),
        "models.m0.losses must be three numbers a superposed tensor",
    ),
    "transform": (
        lambda c: c.update(transform="haar"),
        "transform must be one of none, sign, hadamard, auto, got 'haar'",
    ),
    "seed": (lambda c: c.update(seed=1 << 64), r"seed must lie in [0, 2**64)"),
    "seed kind": (lambda c: c.update(seed=True), "seed must be a JSON value of type int, got True"),
    "lam": (lambda c: c.update(lam="1"), "lam must be a finite number, got '1'"),
    "lam size": (lambda c: c.update(lam=10**400), "lam must be a finite number"),
    "lam nan": (lambda c: c.update(lam=float("nan")), "lam must be a finite number, got nan"),
    "base": (lambda c: c.update(base=[]), "base must be a JSON value of type dict, got []"),
    "fingerprint": (
        lambda c: c["base"].update(fingerprint="0"),
        "fingerprint must be a SHA-256 in hex, got '0'",
    ),
    "stamps": (lambda c: c["base"].update(stamps={"x": ["y"]}), "base.stamps.x must be a list of integers"),
    "shards": (lambda c: c.update(version=1, shards=-1), "shards must lie in [0, 99999], got -1"),
    "missing": (lambda c: c.pop("tensors"), "tensors must be a JSON value of type dict, got None"),
    "tensor": (lambda c: c["tensors"].update(x=1), "tensors.x must be an object, got 1"),
    "rule": (lambda c: c["tensors"]["scale"].update(rule="x"), "rule must be one of superposed, exact, base"),
    "shape": (
        lambda c: c["tensors"]["scale"].update(shape=[-1]),
        "tensors.scale.shape must be sizes, got [-1]",
    ),
    "dim": (
        lambda c: c["tensors"]["embed.weight"].update(dim=2),
        "tensors.embed.weight.dim must be the input axis",
    ),
    "dtype": (lambda c: c["tensors"]["scale"].update(dtype="f4"), "dtype must be a dtype of safetensors"),
    "model": (
        lambda c: c["models"].update({"a\n": {}}),
        "models must have printable names that fit a file name",
    ),
    "weight": (lambda c: c["models"]["m0"].update(weight=0), "models.m0.weight must be positive, got 0"),
    "norm": (lambda c: c["models"]["m0"].update(norm2=-1), "models.m0.norm2 must not be negative, got -1"),
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_store_json_that_lies(store, field):
    change, message = BAD_FIELDS[field]
    edit(store.path, change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Superposition.open(store.path)
    assert str(caught.value).startswith(f"{store.path / 'store.json'}: ")


def test_a_store_json_that_is_none(store):
    (store.path / "store.json").write_text("{")
    with pytest.raises(ValueError, match=r"store\.json: not sound JSON"):
        Superposition.open(store.path)
    with pytest.raises(FileNotFoundError, match=r"not a store: it has no store\.json"):
        Superposition.open(store.path.parent)


def test_files_that_do_not_hold_what_store_json_says(store):
    (file,) = store.path.glob("superposed-*.safetensors")
    kept = load_checkpoint(file)
    save_checkpoint({**kept, "embed.weight": kept["embed.weight"][1:]}, file, force=True)
    with pytest.raises(ValueError, match=r"does not hold what store\.json says: embed\.weight"):
        Superposition.open(store.path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file.name}: no such file"):
        Superposition.open(store.path)
    save_checkpoint(kept, file)
    save_checkpoint({}, store.path / "exact" / "m1.safetensors", force=True)
    with pytest.raises(ValueError, match=r"m1\.safetensors: does not hold what store\.json says: .*scale"):
        Superposition.open(store.path)


def test_an_unknown_model(store):
    with pytest.raises(ValueError, match=r"store: holds no model 'm7'; it holds m0, m1$"):
        store.retrieve("m7")


def test_another_base_is_refused_and_nothing_written(store, tmp_path):
    base = load_checkpoint(tmp_path / "base")
    save_checkpoint(tuned(base, 9), tmp_path / "other")
    for change in ("embed.weight", "scale", "position_ids"):
        other = {name: x.clone() for name, x in base.items()}
        other[change].view(-1)[-1] += 1
        save_checkpoint(other, tmp_path / "other", force=True)
        before = listing(tmp_path)
        with pytest.raises(ValueError, match=f"other: not the base of .*store: tensor '{change}' differs"):
            store.retrieve("m0", tmp_path / "out", base=tmp_path / "other")
        assert listing(tmp_path) == before
    del other["scale"]
    save_checkpoint(other, tmp_path / "other", force=True)
    with pytest.raises(ValueError, match="scale differ in name, shape or dtype"):
        store.retrieve("m0", tmp_path / "out", base=tmp_path / "other")


def test_a_base_changed_in_place_is_noticed(store, tmp_path):
    """Also where size and modification time are as they were."""
    file = tmp_path / "base" / "model.safetensors"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=times)
    with pytest.raises(ValueError, match=r"not the base of .*store: tensor '"):
        store.retrieve("m0")


def test_a_base_left_alone_is_not_hashed_again(store, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(retrieve, "tensor_digest", lambda checkpoint, name: hashed.append(name))
    store.retrieve("m0")
    assert hashed == []
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    with pytest.raises(ValueError, match="not the base of"):
        store.retrieve("m0", base=tmp_path / "copy")
    assert hashed


def test_a_base_that_has_moved(store, tmp_path):
    expected = store.retrieve("m0")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"its base is no longer at .*base; say where it is with --base"
    ):
        store.retrieve("m0")
    assert equal(store.retrieve("m0", base=tmp_path / "elsewhere"), expected)


def test_outputs_never_touch_inputs(store, tmp_path):
    for out in ("base", "base/deeper", "store", "store/exact"):
        with pytest.raises(ValueError, match="the output must be apart from the input"):
            store.retrieve("m0", tmp_path / out, force=True)
    where = paths(tmp_path, ["m0"])
    for out in ("base", "m0.safetensors"):
        with pytest.raises(ValueError, match="the output must be apart from the input"):
            Superposition.create(tmp_path / "base", where, tmp_path / out, force=True)


def test_force(store, tmp_path):
    with pytest.raises(ValueError, match="already exists"):
        Superposition.create(tmp_path / "base", paths(tmp_path, ["m1"]), tmp_path / "store")
    assert Superposition.open(store.path).models == ["m0", "m1"]
    Superposition.create(tmp_path / "base", paths(tmp_path, ["m1"]), tmp_path / "store", force=True)
    assert Superposition.open(store.path).models == ["m1"]
    assert sorted(os.listdir(tmp_path)) == ["base", "m0.safetensors", "m1.safetensors", "store"]


def test_log(store, tmp_path):
    store.retrieve("m0", tmp_path / "out", lam=0.5)
    store.retrieve("m1")
    lines = [json.loads(line) for line in (store.path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["create", "retrieve", "retrieve"]
    assert lines[0]["models"] == {name: str(path) for name, path in paths(tmp_path, ["m0", "m1"]).items()}
    assert (lines[1]["model"], lines[1]["lam"], lines[1]["out"]) == ("m0", 0.5, str(tmp_path / "out"))


def test_a_read_only_store_is_retrieved_without_a_log(store, monkeypatch):
    from pydelta.superposition.format import log

    def refuses(*args, **options):
        raise PermissionError(13, "Permission denied")

    before = (store.path / "log.jsonl").read_bytes()
    monkeypatch.setattr(log, "open", refuses, raising=False)
    assert "scale" in store.retrieve("m0")
    assert (store.path / "log.jsonl").read_bytes() == before


def test_a_file_system_without_locks_is_read_on_with_a_warning(store, monkeypatch):
    from pydelta.superposition.format import log

    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    before = (store.path / "log.jsonl").read_bytes()
    monkeypatch.setattr(log.fcntl, "flock", refuses)
    with pytest.warns(UserWarning, match="read without a lock: No locks available"):
        opened = Superposition.open(store.path)
    assert "scale" in opened.retrieve("m0")
    assert (store.path / "log.jsonl").read_bytes() == before
    with pytest.raises(OSError, match="No locks available"):
        opened.seal()

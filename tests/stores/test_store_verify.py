"""``verify`` names the tensor that is truncated, edited or not finite."""

import json
import re
import shutil

import pytest
import torch
from checkpoints import family, listing, paths
from paths import GOLDEN

from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.cli import main

FORMS = {"full": {}, "codes": {"bits": 2, "room": 3}, "exact": {"exact": True}}


@pytest.fixture(params=FORMS)
def store(request, tmp_path):
    _, models = family(tmp_path, 2)
    options = FORMS[request.param]
    return Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store", **options)


def places(store):
    """(file, tensor) of everything that is stored."""
    for file in store.manifest.files:
        for info in Checkpoint(store.path / file).tensors.values():
            if info.nbytes:
                yield store.path / file, info


def test_one_bit_of_any_tensor(store):
    assert Superposition.verify(store.path) == []
    for path, info in places(store):
        content = bytearray(path.read_bytes())
        content[info.offset + info.nbytes // 2] ^= 1
        whole, _ = path.read_bytes(), path.write_bytes(content)
        expected = f"{path}: tensor {info.name!r} has other bytes than those that were stored"
        assert Superposition.verify(store.path) == [expected]
        path.write_bytes(whole)
    assert Superposition.verify(store.path) == []


def test_a_sum_that_was_edited_takes_no_model(store, tmp_path):
    kind = "open" if store.manifest.form.bits else "superposed"
    (path,) = store.path.glob(f"{kind}-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = listing(store.path)
    for change in (
        lambda: store.add("m2", tmp_path / "m1.safetensors"),
        lambda: store.remove("m1", tmp_path / "m1.safetensors"),
    ):
        with pytest.raises(
            ValueError, match=f"{path.name}: tensor '.*' has other bytes than those that were"
        ):
            change()
        assert listing(store.path) == before


def test_a_truncated_file(store, capsys):
    for file in store.manifest.files:
        path = store.path / file
        whole = path.read_bytes()
        last = Checkpoint(path).names[-1]
        path.write_bytes(whole[:-1])
        (problem,) = Superposition.verify(store.path)
        assert re.fullmatch(rf"{re.escape(str(path))}: truncated: .*, in '{re.escape(last)}'", problem)
        assert main(["verify", str(store.path), "--quiet"]) == 1
        assert capsys.readouterr().err == f"pydelta verify: {problem}\n"
        with pytest.raises(ValueError, match="truncated"):
            Superposition.open(store.path)
        path.unlink()
        assert "no such file" in Superposition.verify(store.path)[0]
        path.write_bytes(whole)


def test_what_is_not_finite_though_its_digest_agrees(tmp_path):
    _, models = family(tmp_path, 1)
    where = paths(tmp_path, models)
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", bits=1)
    (file,) = store.path.glob("superposed-*")
    tensors = load_checkpoint(file)
    tensors["scales/embed.weight"][3] = torch.inf
    save_checkpoint(tensors, file, metadata={}, force=True)
    from pydelta.checkpoint.digest import tensor_digest

    content = json.loads((store.path / "store.json").read_text())
    made = Checkpoint(file)
    content["files"][file.name] = {name: tensor_digest(made, name) for name in made.names}
    (store.path / "store.json").write_text(json.dumps(content))
    assert Superposition.verify(store.path) == [f"{file}: tensor 'scales/embed.weight' holds NaN or Inf"]
    with pytest.raises(ValueError, match=r"tensor 'scales/embed\.weight' holds NaN or Inf"):
        Superposition.open(store.path).retrieve("m0")


def test_a_store_of_version_1(tmp_path):
    shutil.copytree(GOLDEN / "signs", tmp_path / "store")
    store = Superposition.open(tmp_path / "store")
    assert Superposition.verify(store.path) == []
    assert store.interference().keys() == {"a/ä", "b"}
    assert store.describe()["models"]["b"]["tensors"] == {}
    for change in (
        lambda: store.add("c", GOLDEN / "b.safetensors", base=GOLDEN / "base"),
        lambda: store.remove("b", GOLDEN / "b.safetensors", base=GOLDEN / "base"),
        store.seal,
    ):
        with pytest.raises(ValueError, match="a store of version 1 is only read: compress its models anew"):
            change()


BAD_FIELDS = {
    "bits": (lambda c: c.update(bits=3), "bits must be of 1, 2, 4, 8, got 3"),
    "group": (lambda c: c.update(group=0), "group must be 'row' or a number of elements, got 0"),
    "group size": (lambda c: c.update(group=7), "does not hold what store.json says"),
    "room": (lambda c: c.update(room=None), "room must be a number of models, got None"),
    "more than the room": (lambda c: c.update(room=1), "buckets[0] must hold 1 to 1 models, its room, got 2"),
    "exact": (lambda c: c.update(exact=True), "exact must be false where there are bits"),
    "a model twice": (
        lambda c: c["buckets"][0].update(models=["m0", "m0"]),
        "buckets must hold every model once",
    ),
    "a file elsewhere": (
        lambda c: c["buckets"][0].update(files=["../m0.safetensors"]),
        "buckets[0].files must be names of files of sums",
    ),
    "a file not listed": (lambda c: c["files"].popitem(), "files must be those of the buckets and models"),
    "a file too many": (lambda c: c["files"].update({"exact/x": {}}), "files must be those of the buckets"),
    "a path": (lambda c: c["files"].update({"../x": {}}), "files must have names of files of a store"),
    "digest": (
        lambda c: c["files"]["exact/m0.safetensors"].update(scale="0"),
        "scale must be a SHA-256 in hex",
    ),
    "norms": (
        lambda c: c["models"]["m0"].update(norms=[1]),
        "models.m0.norms must be one number a superposed",
    ),
    "norm": (lambda c: c["models"]["m0"]["norms"].__setitem__(0, -1), "models.m0.norms must be one number"),
    "bucket": (lambda c: c.update(buckets=[1]), "buckets.0 must be an object, got 1"),
    "names": (lambda c: c["buckets"][0].update(models=[1]), "buckets[0].models must be names, got [1]"),
    "dropped sum": (
        lambda c: (
            [c["files"].pop(file) for file in c["buckets"][0]["files"]] and c["buckets"][0].update(files=[])
        ),
        "does not hold what store.json says: codes/",
    ),
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_store_json_that_lies(tmp_path, field):
    _, models = family(tmp_path, 2)
    where = paths(tmp_path, models)
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", bits=1, room=3)
    change, message = BAD_FIELDS[field]
    content = json.loads((store.path / "store.json").read_text())
    change(content)
    (store.path / "store.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        Superposition.open(store.path)

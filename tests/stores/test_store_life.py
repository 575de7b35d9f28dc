"""Models join a store and leave it; what others have open stays what it was."""

import itertools
import json
import re
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family, listing, paths, sums

from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.cli import main


def start(folder, count, names=("m0",), kind=torch.float32, **options):
    """(models, paths, store): ``count`` models on disk, those of ``names`` in the store."""
    _, models = family(folder, count, dtype=kind)
    where = paths(folder, models)
    given = {name: where[name] for name in names}
    return models, where, Superposition.create(folder / "base", given, folder / "store", **options)


def files(store):
    """What lies in a store, but for the log."""
    return {name: content for name, content in listing(store.path).items() if name != "log.jsonl"}


@pytest.mark.parametrize(
    ("shuffle", "dtype"), [(False, torch.float32), (True, torch.bfloat16), (False, torch.float64)]
)
def test_an_exact_store_does_not_depend_on_the_order(tmp_path, shuffle, dtype):
    _, where, store = start(tmp_path, 4, kind=dtype, exact=True, shuffle_layers=shuffle)
    first = files(store)
    found = []
    orders = list(itertools.permutations(("m1", "m2", "m3")))
    for order, back in zip(orders, reversed(orders), strict=True):
        for name in order[: 3 if len(found) < 3 else 2]:
            store = store.add(name, where[name])
        found.append(files(store))
        for name in back:
            store = store.remove(name, where[name]) if name in store.models else store
        assert files(store) == first
    assert found[0] == found[1] == found[2]
    whole = Superposition.create(
        tmp_path / "base", where, tmp_path / "whole", exact=True, shuffle_layers=shuffle
    )
    assert files(whole) == found[0]


def test_one_bf16_model_comes_back_exactly_from_an_exact_store(tmp_path):
    models, _, store = start(tmp_path, 1, kind=torch.bfloat16, exact=True)
    assert equal(store.retrieve("m0"), models["m0"])


def test_an_exact_sum_is_near_that_in_fp32(tmp_path):
    models, where, store = start(tmp_path, 3, ["m0", "m1", "m2"], exact=True)
    plain = Superposition.create(tmp_path / "base", where, tmp_path / "plain")
    for name in models:
        for tensor, rule in store.manifest.rules.items():
            if rule.rule == "superposed":
                ours, theirs = store.source(name, tensor)[0], plain.source(name, tensor)[0]
                # Half a unit per model, and a rounding to fp32.
                unit = 2.0 ** -store.manifest.exponents[tensor]
                assert ((ours - theirs).abs() <= 1.5 * unit + theirs.abs() * 2**-22).all()


@pytest.mark.parametrize("options", [{"dtype": "fp32"}, {"dtype": "bf16"}, {"buckets": 2}])
def test_sums_in_full_are_accurate_to_rounding(tmp_path, options):
    _, where, store = start(tmp_path, 4, ["m0", "m1"], **options)
    tensors = [name for name, rule in store.manifest.rules.items() if rule.rule == "superposed"]
    before = [store.source("m0", name)[0].float() for name in tensors]
    after = store.add("m2", where["m2"], weight=2.0)
    assert after.manifest.models["m2"].weight == 2.0
    back = after.remove("m2", where["m2"])
    precision = 2**-8 if options.get("dtype") == "bf16" else 2**-23
    for name, x in zip(tensors, before, strict=True):
        # Two roundings, of sums no larger than the sum with m2 in it.
        size = max(float(after.source(m, name)[0].float().abs().max()) for m in after.models)
        assert float((back.source("m0", name)[0].float() - x).abs().max()) <= 2 * precision * size
    assert back.models == ["m0", "m1"]


def test_adding_the_last_by_name_gives_the_bits_of_compress(tmp_path):
    _, where, store = start(tmp_path, 3, ["m0", "m1"], shuffle_layers=True)
    added = store.add("m2", where["m2"])
    whole = Superposition.create(tmp_path / "base", where, tmp_path / "whole", shuffle_layers=True)
    assert files(added) == files(whole)


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_an_open_bucket_never_requantises(tmp_path, transform):
    """Filled one by one it has the codes of models that came at once; then the next bucket begins."""
    options = {"rate": 0.25, "transform": transform}
    _, where, store = start(tmp_path, 6, **options)
    for count in range(2, 7):
        name = f"m{count - 1}"
        store = store.add(name, where[name])
        assert store.bucket(name) == (count - 1) // 4
        assert (
            [bool(bucket.open) for bucket in store.manifest.buckets] == [count < 4]
            if count <= 4
            else [False, True]
        )
        assert len(list(store.path.glob("open-*"))) == (count != 4)
    first = {name: where[name] for name in ("m0", "m1", "m2", "m3")}
    whole = Superposition.create(tmp_path / "base", first, tmp_path / "whole", **options)
    for name in first:
        assert equal(whole.retrieve(name), store.retrieve(name))
    assert Superposition.verify(store.path) == []


def test_removing_from_an_open_bucket(tmp_path):
    _, where, store = start(tmp_path, 3, ["m0", "m1", "m2"], bits=1, room=4)
    less = store.remove("m1", where["m1"])
    kept = {name: where[name] for name in ("m0", "m2")}
    whole = Superposition.create(tmp_path / "base", kept, tmp_path / "whole", bits=1, room=4)
    ours, theirs = sums(less.path), sums(whole.path)
    for name, x in theirs.items():
        same = x == ours[name] if name.startswith("codes/") else (x - ours[name]).abs() <= 2**-7 * x
        assert same.float().mean() > 0.999
    assert less.models == ["m0", "m2"]
    assert less.remove("m0", where["m0"]).models == ["m2"]


def test_a_sealed_bucket_says_what_would_be_needed(tmp_path):
    _, where, store = start(tmp_path, 5, ["m0", "m1", "m2"], rate=0.25)
    sealed = store.seal()
    assert not list(store.path.glob("open-*"))
    before = files(sealed)
    message = (
        "bucket 0, which holds 'm1', is sealed: .* needed are the tuned models of its others.*: 'm0', 'm2'$"
    )
    with pytest.raises(ValueError, match=message):
        sealed.remove("m1", where["m1"])
    assert files(sealed) == before
    assert files(sealed.seal()) == before
    more = sealed.add("m3", where["m3"])
    assert [bucket.models for bucket in more.manifest.buckets] == [("m0", "m1", "m2"), ("m3",)]
    assert files(more.remove("m3", where["m3"])) == before
    plain = Superposition.create(tmp_path / "base", {"m4": where["m4"]}, tmp_path / "plain")
    with pytest.raises(ValueError, match="keeps its sums in full, so there is nothing to seal"):
        plain.seal()


def test_a_model_with_codes_of_its_own_can_go(tmp_path):
    _, where, store = start(tmp_path, 3, ["m0", "m1", "m2"], rate=2)
    kept = {name: store.retrieve(name) for name in ("m0", "m2")}
    less = store.remove("m1", where["m1"])
    assert [bucket.models for bucket in less.manifest.buckets] == [("m0",), ("m2",)]
    assert all(equal(less.retrieve(name), found) for name, found in kept.items())
    assert less.bucket("m2") == 1
    assert less.add("m1", where["m1"]).bucket("m1") == 2


@pytest.mark.parametrize("options", [{}, {"rate": 0.25}, {"rate": 1}, {"exact": True}])
def test_a_reader_keeps_its_version(tmp_path, options):
    _, where, old = start(tmp_path, 3, ["m0", "m1"], **options)
    expected = old.retrieve("m0")
    source = old.source("m0", "embed.weight")[0]
    held = source if isinstance(source, torch.Tensor) else source.codes
    copy = held.clone()
    new = old.add("m2", where["m2"])
    if old.manifest.form.bits != 1 or options == {"rate": 1}:
        new = new.remove("m1", where["m1"])
    assert old.models == ["m0", "m1"]
    assert equal(old.retrieve("m0"), expected)
    assert torch.equal(held, copy)
    assert old.exact("m1").keys() == old.exact("m0").keys()
    assert "m2" in new.models


def test_what_is_refused_changes_nothing(tmp_path):
    models, where, store = start(tmp_path, 3, ["m0", "m1"], exact=True, room=2)
    torn = {**models["m2"], "scale": torch.tensor(float("nan"))}
    save_checkpoint(torn, tmp_path / "torn.safetensors")
    far = {**models["m2"], "embed.weight": models["m2"]["embed.weight"] + 1e6}
    save_checkpoint(far, tmp_path / "far.safetensors")
    save_checkpoint({"scale": torch.ones(())}, tmp_path / "other.safetensors")
    almost = {n: x.clone() for n, x in models["m1"].items()}
    almost["embed.weight"][7, 7] += 1
    save_checkpoint(almost, tmp_path / "almost.safetensors")
    save_checkpoint(models["m0"], tmp_path / "tuned")
    before = listing(store.path)
    base = tmp_path / "tuned"
    refused = [
        (lambda: store.add("m1", where["m2"]), "already holds a model 'm1'; remove it first"),
        (lambda: store.add("m2", where["m2"]), "its exact sum has room for 2 models, and holds as many"),
        (lambda: store.add("a\n", where["m2"]), "a model's name must be printable text"),
        (lambda: store.add("m2", where["m2"], weight=0), "must be positive, got 0"),
        (lambda: store.remove("m9", where["m1"]), "holds no model 'm9'; it holds m0, m1"),
        (lambda: store.remove("m1", where["m2"]), "not the model 'm1' of .*: its fingerprint differs"),
        (lambda: store.remove("m1", tmp_path / "almost.safetensors"), "its fingerprint differs"),
        (lambda: store.remove("m1", where["m1"], base=base), r"9 of 11 tensors differ, .*% of the bytes: "),
        (lambda: store.remove("m1", tmp_path / "other.safetensors"), "differs from the base in name, shape"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
        assert listing(store.path) == before
    one = store.remove("m1", where["m1"])
    before = files(one)
    for call, message in [
        (
            lambda: one.add("m2", tmp_path / "torn.safetensors"),
            r"torn\.safetensors: tensor 'scale' holds NaN",
        ),
        (
            lambda: one.add("m2", tmp_path / "far.safetensors"),
            r"tensor 'embed\.weight' is too far from the base",
        ),
        (lambda: one.remove("m0", where["m0"]), "'m0' is its only model; delete the folder instead"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
        assert files(one) == before


def test_every_change_has_a_line_in_the_log(tmp_path):
    _, where, store = start(tmp_path, 2, bits=1, room=3)
    store.add("m1", where["m1"]).remove("m1", where["m1"]).seal().export(tmp_path / "out")
    lines = [json.loads(line) for line in (store.path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["create", "add", "remove", "seal", "export"]
    assert lines[1]["model"] == lines[2]["model"] == "m1"
    assert lines[1]["path"] == str(where["m1"])


def test_two_writers_at_once(tmp_path):
    _, where, store = start(tmp_path, 5, exact=True)
    command = [sys.executable, "-m", "pydelta", "add", str(store.path), "--quiet", "--model"]
    running = [subprocess.Popen([*command, f"m{i}={where[f'm{i}']}"]) for i in range(1, 5)]
    assert [process.wait() for process in running] == [0] * 4
    whole = Superposition.create(tmp_path / "base", where, tmp_path / "whole", exact=True)
    assert files(Superposition.open(store.path)) == files(whole)


def test_the_commands(tmp_path, monkeypatch, capsys):
    start(tmp_path, 3, ["m0", "m1"], bits=1, room=3)
    monkeypatch.chdir(tmp_path)
    assert main(["list", "store"]) == 0
    assert capsys.readouterr().out == "m0\nm1\n"
    assert main(["remove", "store", "m1", "--base", "base", "--model", "m1=m1.safetensors"]) == 0
    assert re.fullmatch(r"store: 1 models in [\d,]+ bytes\n", capsys.readouterr().out)
    assert main(["add", "store", "--base", "base", "--model", "m2=m2.safetensors", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"]) == ["m0", "m2"]
    assert main(["seal", "store", "--quiet"]) == 0
    assert main(["verify", "store", "--base", "base"]) == 0
    assert capsys.readouterr().out == "store: sound\n"
    assert main(["export", "store", "-o", "all"]) == 0
    assert capsys.readouterr().out == "all/m0\nall/m2\n"
    assert main(["export", "store", "-o", "one", "m2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == ["one/m2"]
    assert equal(load_checkpoint("one/m2"), Superposition.open("store").retrieve("m2"))
    for words, message in [
        (["export", "store", "-o", "two", "m7"], "export: store: holds no model 'm7'; it holds m0, m2"),
        (["export", "store", "-o", "all"], "export: all: already exists"),
        (["add", "base", "--model", "m2.safetensors"], "add: base: not a store: it has no store.json"),
        (
            ["verify", "store", "--base", "m0.safetensors"],
            "verify: m0.safetensors: not the base of store: 9 of",
        ),
    ]:
        assert main(words) == 1
        assert capsys.readouterr().err.startswith(f"pydelta {message}")
    with pytest.raises(SystemExit):
        main(["remove", "store", "m1", "--model", "m2=m2.safetensors"])
    assert not (tmp_path / "two").exists()

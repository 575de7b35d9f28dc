"""What a model has otherwise than its base comes back with it, and nothing of it is summed."""

import json
import os

import pytest
import torch
from checkpoints import equal

from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.cli.main import main

BASE = {
    "embed_tokens.weight": torch.arange(24.0).reshape(6, 4).bfloat16(),
    "layers.0.mlp.weight": torch.arange(16.0).reshape(4, 4).bfloat16(),
    "norm.weight": torch.ones(4).bfloat16(),
}


def moved(tensors, by=0.5):
    return {name: (x.float() + by).to(x.dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def make(folder, base, *, buckets=None, **models):
    """A store in which every model has a sum of its own, so that it comes back to rounding."""
    save_checkpoint(base, folder / "base", force=True)
    for name, tensors in models.items():
        save_checkpoint(tensors, folder / name, force=True)
    where = {name: folder / name for name in models}
    count = len(models) if buckets is None else buckets
    return Superposition.create(folder / "base", where, folder / "store", buckets=count, force=True)


def test_integers_that_differ_are_the_models_own(tmp_path):
    packed = {f"{name}.qweight": torch.arange(8, dtype=torch.int32).reshape(2, 4) for name in ("q", "k")}
    scales = {f"{name}.scales": torch.ones(1, 4).half() for name in ("q", "k")}
    base = {**BASE, **packed, **scales}
    model = {**moved(BASE), **scales, "q.qweight": packed["q.qweight"] + 1, "k.qweight": packed["k.qweight"]}
    model["q.scales"] = torch.full((1, 4), 3.0).half()
    store = make(tmp_path, base, a=model, b=moved(base))
    assert [store.manifest.rules[name].rule for name in ("q.qweight", "q.scales")] == ["base", "exact"]
    assert set(store.manifest.models["a"].departs.own) == {"q.qweight"}
    assert equal(store.retrieve("a"), model)
    assert Superposition.verify(store.path) == []


@pytest.mark.parametrize("rate", [None, 1, 0.5])
def test_block_scales_stay_with_their_bytes(tmp_path, rate):
    base = {
        **BASE,
        "up.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "up.weight_scale_inv": torch.ones(2, 2),
    }
    model = {**moved(BASE), "up.weight": base["up.weight"], "up.weight_scale_inv": torch.full((2, 2), 7.0)}
    other = {**model, "up.weight_scale_inv": torch.full((2, 2), 5.0)}
    save_checkpoint(base, tmp_path / "base")
    for name, tensors in (("a", model), ("b", other)):
        save_checkpoint(tensors, tmp_path / name)
    where = {name: tmp_path / name for name in "ab"}
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", rate=rate)
    assert torch.equal(store.retrieve("a")["up.weight_scale_inv"], model["up.weight_scale_inv"])
    assert torch.equal(store.retrieve("b")["up.weight_scale_inv"], other["up.weight_scale_inv"])


def test_heads_and_other_shapes_are_kept_exactly(tmp_path):
    heads = {name: {"head.weight": torch.full((n, 4), 0.1 * n)} for name, n in (("a", 2), ("b", 3))}
    models = {name: {**moved(BASE), **head} for name, head in heads.items()}
    for base in (BASE, {**BASE, "head.weight": torch.zeros(5, 4)}):
        store = make(tmp_path, base, **models)
        for name, model in models.items():
            assert equal(store.retrieve(name), model)
            out = store.retrieve(name, tmp_path / f"{name}.safetensors", force=True)
            assert equal(load_checkpoint(out), model)
        assert store.unlike_base("a") == ["head.weight"]


@pytest.mark.parametrize("count", [4, 9])
@pytest.mark.parametrize("options", [{}, {"rate": 4, "residual": 0.2}, {"exact": True}])
def test_common_rows_of_a_vocabulary_are_superposed(tmp_path, count, options):
    name, wide = "embed_tokens.weight", torch.arange(36.0).reshape(9, 4).bfloat16() + 1
    model = {**moved(BASE), name: wide[:count]}
    save_checkpoint(BASE, tmp_path / "base")
    save_checkpoint(model, tmp_path / "a")
    store = Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store", **options)
    assert store.manifest.models["a"].departs.rows == {name: count}
    back = store.retrieve("a")
    assert back[name].shape == (count, 4)
    assert torch.equal(back[name][6:], model[name][6:])
    assert torch.allclose(back[name].float(), model[name].float(), atol=0.3)
    assert store.measure("a", tmp_path / "a")[name] < 0.1
    if options != {"rate": 4, "residual": 0.2}:
        save_checkpoint(moved(BASE), tmp_path / "b")
        grown = store.add("b", tmp_path / "b")
        assert grown.remove("b", tmp_path / "b").retrieve("a")[name].shape == (count, 4)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("options", [{}, {"mask": "magnitude", "keep": 1.0}, {"shuffle_layers": True}])
def test_another_float_dtype(tmp_path, dtypes, options):
    low, high = ({name: x.to(dtype) for name, x in BASE.items()} for dtype in dtypes)
    model = moved(high, 0.25)
    save_checkpoint(low, tmp_path / "base")
    save_checkpoint(model, tmp_path / "a")
    store = Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store", **options)
    assert equal(store.retrieve("a"), {name: x.to(dtypes[0]) for name, x in model.items()})
    assert equal(store.retrieve("a", out_dtype="model"), model)
    with pytest.raises(ValueError, match=r"\[retrieve\] out_dtype must be"):
        store.retrieve("a", out_dtype="fp8")


def test_index_tensors_are_the_bases_where_they_are_equal(tmp_path):
    name = "embeddings.position_ids"
    for base, model in ((torch.arange(7)[None], torch.float16), (torch.arange(7.0)[None], torch.int64)):
        ids = torch.arange(7).to(model)[None]
        store = make(tmp_path, {**BASE, name: base}, a={**moved(BASE), name: ids})
        assert torch.equal(store.retrieve("a")[name], base)
        store = make(tmp_path, {**BASE, name: base}, a={**moved(BASE), name: ids + 1})
        assert torch.equal(store.retrieve("a")[name], ids + 1)


def test_what_a_model_lacks_is_allowed_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(
        {**BASE, "mtp.weight": torch.ones(4, 4), "tied.weight": BASE["embed_tokens.weight"]}, "base"
    )
    save_checkpoint(moved(BASE), "a")
    command = ["compress", "--base", "base", "--model", "a", "-o", "store"]
    assert main(command) == 1
    assert "a lacks tensors of the base: mtp.weight; --allow-missing PATTERN" in capsys.readouterr().err
    assert main([*command, "--allow-missing", "mtp.*"]) == 0
    assert "a: it lacks: mtp.weight, tied.weight" in capsys.readouterr().err
    assert equal(Superposition.open("store").retrieve("a"), moved(BASE))


def test_a_model_has_its_own_small_files(tmp_path):
    save_checkpoint(BASE, tmp_path / "base")
    save_checkpoint(moved(BASE), tmp_path / "a")
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "vocab.txt").write_text("x")
    own = {"config.json": '{"eos": 9}', "chat_template.jinja": "{{ x }}", "1_Pooling/config.json": "{}"}
    for file, text in own.items():
        (tmp_path / "a" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / file).write_text(text)
    (tmp_path / "a" / "trainer_state.json").write_text("{}")
    store = Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store")
    assert store.manifest.models["a"].departs.files.keys() == own.keys()
    for out in (store.retrieve("a", tmp_path / "out"), *store.export(tmp_path / "all")):
        assert {file: (out / file).read_text() for file in own} == own
        assert (out / "vocab.txt").read_text() == "x"
    (store.path / "files" / "a" / "config.json").write_text("{}")
    assert Superposition.verify(store.path) == [
        f"{store.path / 'files/a/config.json'}: has other bytes than those that were stored"
    ]
    with pytest.raises(ValueError, match=r"config\.json: has other bytes"):
        store.retrieve("a", tmp_path / "other")


def test_a_plain_store_keeps_its_version(tmp_path):
    store = make(tmp_path, BASE, a=moved(BASE))
    assert json.loads((store.path / "store.json").read_text())["version"] == 3
    store = make(tmp_path, BASE, a={**moved(BASE), "head.weight": torch.ones(2, 4)})
    assert json.loads((store.path / "store.json").read_text())["version"] == 4


BAD = {
    "own": (lambda m: m.update(own={"x": {"dtype": "f32", "shape": []}}), "own.x.dtype must be a dtype"),
    "lacks": (lambda m: m.update(lacks=["no"]), "lacks must be tensors of the base"),
    "dtypes": (lambda m: m.update(dtypes={"norm.weight": "F32"}), "dtypes must be of superposed tensors"),
    "rows": (lambda m: m.update(rows={"layers.0.mlp.weight": 0}), "rows must be of superposed tensors"),
    "files": (lambda m: m.update(files={"../x": "0" * 64}), "files must be named by paths below"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_store_json_that_lies(tmp_path, field):
    store = make(tmp_path, BASE, a={**moved(BASE), "head.weight": torch.ones(2, 4)})
    content = json.loads((store.path / "store.json").read_text())
    change, message = BAD[field]
    change(content["models"]["a"])
    (store.path / "store.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"models.a.{message}"):
        Superposition.open(store.path)


def test_a_store_of_many_models_holds_few_files(tmp_path):
    save_checkpoint({"w": torch.ones(2, 2), "b": torch.zeros(2)}, tmp_path / "base.safetensors")
    save_checkpoint({"w": torch.zeros(2, 2), "b": torch.ones(2)}, tmp_path / "a.safetensors")
    models = {f"m{i}": tmp_path / "a.safetensors" for i in range(80)}
    before = len(os.listdir("/dev/fd"))
    store = Superposition.create(tmp_path / "base.safetensors", models, tmp_path / "store")
    assert len(os.listdir("/dev/fd")) - before < 5
    assert torch.equal(store.retrieve("m7")["b"], torch.ones(2))
    changed = store.remove("m9", tmp_path / "a.safetensors").add("m9", tmp_path / "a.safetensors")
    assert "m9" in changed.models
    with pytest.raises(ValueError, match="the store has changed since it was opened"):
        store.retrieve("m9")

"""Folders as people have them: indices, variants, sub-folders, the hub's cache, and what is no checkpoint."""

import json

import pytest
import torch
from checkpoints import equal, listing

from pydelta import load_checkpoint, merge, prune, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.folders.beside import differing
from pydelta.checkpoint.folders.locate import name_of, resolve
from pydelta.deltafile import describe, diff

COMMIT = "0123456789abcdef0123456789abcdef01234567"
A, B = {"a": torch.arange(6.0).view(2, 3)}, {"b": torch.full((4,), 2.5)}


def put(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def index(folder, name, **files):
    (folder / name).write_text(json.dumps({"weight_map": files}))


def test_the_index_decides(tmp_path):
    save_checkpoint({**A, "old": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_checkpoint({**B, "a": torch.zeros(9)}, tmp_path / "two.safetensors")
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.names == ("a", "b")
    assert [list(header.tensors) for header in checkpoint.shards.values()] == [["a"], ["b"]]
    assert equal(load_checkpoint(tmp_path), {**A, **B})
    save_checkpoint(load_checkpoint(tmp_path), tmp_path.with_name("out"), like=tmp_path)
    assert equal(load_checkpoint(tmp_path.with_name("out")), {**A, **B})


def test_shards_in_sub_folders(tmp_path):
    model = tmp_path / "model"
    (model / "weights").mkdir(parents=True)
    save_checkpoint(A, model / "weights/one.safetensors")
    save_checkpoint(B, model / "two.safetensors")
    index(model, "model.safetensors.index.json", a="weights/one.safetensors", b="two.safetensors")
    assert equal(load_checkpoint(model), {**A, **B})
    save_checkpoint({**A, **B}, tmp_path / "out", like=model)
    assert sorted(listing(tmp_path / "out")) == [
        "model.safetensors.index.json",
        "two.safetensors",
        "weights/one.safetensors",
    ]
    assert equal(load_checkpoint(tmp_path / "out"), {**A, **B})


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors", "model.fp16.safetensors", "my-own_name.safetensors"]
)
def test_a_single_file_of_any_name(tmp_path, name):
    put(tmp_path / "m")
    save_checkpoint(A, tmp_path / "m" / name)
    assert equal(load_checkpoint(tmp_path / "m"), A)
    save_checkpoint(A, tmp_path / "out", like=tmp_path / "m")
    assert list(listing(tmp_path / "out")) == [name]


def test_a_file_goes_before_its_variant(tmp_path):
    save_checkpoint(A, tmp_path / "diffusion_pytorch_model.safetensors")
    save_checkpoint(B, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert equal(load_checkpoint(tmp_path), A)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("model.fp16", "model.safetensors.index.fp16.json"),
        ("diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json"),
    ],
)
def test_shards_with_an_index_of_another_name(tmp_path, stem, name):
    model = tmp_path / "m"
    put(model)
    files = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_checkpoint(A, model / files[0])
    save_checkpoint(B, model / files[1])
    index(model, name, a=files[0], b=files[1])
    assert equal(load_checkpoint(model), {**A, **B})
    save_checkpoint({**A, **B}, tmp_path / "out", like=model)
    assert sorted(listing(tmp_path / "out")) == sorted([*files, name])
    (model / name).unlink()  # a complete set of shards needs no index
    assert equal(load_checkpoint(model), {**A, **B})
    (model / files[0]).unlink()
    with pytest.raises(ValueError, match=f"shards without an index, and not all of them: {files[1]}"):
        Checkpoint(model)
    for other in ("x", "y"):
        save_checkpoint(A, model / f"{other}.safetensors")
    with pytest.raises(ValueError, match="several safetensors files and no index; name one of"):
        Checkpoint(model)


def test_folders_that_are_no_checkpoint_say_what_to_do(tmp_path):
    pipeline = tmp_path / "pipeline"
    put(pipeline, **{"model_index.json": "{}"})
    for part in ("unet", "vae"):
        put(pipeline / part)
        save_checkpoint(A, pipeline / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="a diffusers pipeline; name one of its components: unet, vae"):
        Checkpoint(pipeline)
    put(tmp_path / "dcp", **{".metadata": "", "__0_0.distcp": ""})
    with pytest.raises(ValueError, match=r"torch\.distributed\.checkpoint\.format_utils dcp_to_torch"):
        Checkpoint(tmp_path / "dcp")
    put(tmp_path / "adapter", **{"adapter_config.json": "{}"})
    save_checkpoint(A, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ValueError, match="an adapter, not a model; merge it into its base first"):
        Checkpoint(tmp_path / "adapter")
    put(tmp_path / "outer/inner")
    save_checkpoint(A, tmp_path / "outer/inner/model.safetensors")
    with pytest.raises(ValueError, match=r"is in this folder; did you mean .*outer/inner\?"):
        Checkpoint(tmp_path / "outer")
    slices = tmp_path / "slices"
    put(slices)
    for i in (1, 2):
        file = slices / f"shard-0000{i}-model-0000{i}-of-00002.safetensors"
        save_checkpoint({f"x{i}": torch.zeros(2)}, file, metadata={"DCP_SHARDING_INFO": "{}"})
    index(
        slices,
        "model.safetensors.index.json",
        **{f"x{i}": f"shard-0000{i}-model-0000{i}-of-00002.safetensors" for i in (1, 2)},
    )
    with pytest.raises(ValueError, match="each file holds slices of tensors"):
        Checkpoint(slices)


def cached(cache, repository, tensors):
    folder = cache / ("models--" + repository.replace("/", "--"))
    put(folder / "refs", main=COMMIT)
    put(folder / "snapshots" / COMMIT)
    save_checkpoint(tensors, folder / "snapshots" / COMMIT / "model.safetensors")
    return folder


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_names_of_the_hub_are_looked_up_in_the_cache(tmp_path, monkeypatch, variable):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    below = {"HF_HUB_CACHE": ".", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    repository = cached(tmp_path / "cache" / below[variable], "org/some-model", A)
    snapshot = repository / "snapshots" / COMMIT
    assert Checkpoint("org/some-model").path == snapshot
    assert Checkpoint(repository).path == snapshot
    assert equal(load_checkpoint("org/some-model"), A)
    assert [name_of(x) for x in ("org/some-model", repository, snapshot)] == ["some-model"] * 3
    assert name_of(snapshot / "model.safetensors") == "some-model"
    diff(repository, snapshot, tmp_path / "x.delta", lossless=True)
    assert describe(tmp_path / "x.delta")["model"] == "some-model"
    with pytest.raises(FileNotFoundError, match=r"org/other: no such file or folder, nor a model in .*cache"):
        Checkpoint("org/other")
    put(tmp_path / "org/some-model")  # a path goes first
    save_checkpoint(B, tmp_path / "org/some-model/model.safetensors")
    assert equal(load_checkpoint("org/some-model"), B)
    (repository / "refs/main").unlink()
    assert resolve(repository) == snapshot


def sentences(folder, tensors, dense):
    """A folder as sentence-transformers writes it."""
    save_checkpoint(tensors, folder)
    put(folder, **{"config.json": "{}", "modules.json": json.dumps([{"path": p} for p in ("", "2_Dense")])})
    put(folder / "1_Pooling", **{"config.json": '{"mean": true}'})
    put(folder / "2_Dense", **{"config.json": '{"in": 3}'})
    save_checkpoint(dense, folder / "2_Dense/model.safetensors")
    put(folder / "additional_chat_templates", **{"tools.jinja": "{{ tools }}"})
    put(folder / "onnx", **{"model.onnx": "x", "config.json": "{}"})
    put(folder / "checkpoint-10", **{"config.json": "{}", "optimizer.pt": "x"})
    put(folder / ".cache", x="x")


def test_sub_folders_come_along_or_are_named(tmp_path):
    for name, factor in (("base", 1.0), ("a", 2.0)):
        sentences(tmp_path / name, {"a": factor * A["a"] + 1}, B)
    with pytest.warns(UserWarning, match=r"2_Dense|onnx") as said:
        merge(tmp_path / "base", {"a": tmp_path / "a"}, method="ties", out=tmp_path / "out")
    assert sorted(set(listing(tmp_path / "out")) - {"README.md"}) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "additional_chat_templates/tools.jinja",
        "config.json",
        "model.safetensors",
        "modules.json",
        "onnx/config.json",
    ]
    assert equal(load_checkpoint(tmp_path / "out/2_Dense"), B)
    texts = [str(warning.message) for warning in said]
    assert texts == [
        f"2_Dense/model.safetensors: copied as it is from {tmp_path / 'base'}",
        f"onnx/model.onnx of {tmp_path / 'base'}: weights in sub-folders are left out",
    ]


def test_small_files_that_differ_are_named(tmp_path):
    for name in ("base", "a"):
        save_checkpoint({"a": A["a"] + len(name)}, tmp_path / name)
        config = {"n": 1, "transformers_version": name}
        put(tmp_path / name, **{"config.json": json.dumps(config), "tokenizer.json": "{}", "README.md": name})
    assert differing(tmp_path / "base", tmp_path / "a") == []
    put(tmp_path / "a", **{"chat_template.jinja": "x", "tokenizer.json": "[]"})
    assert differing(tmp_path / "base", tmp_path / "a") == ["chat_template.jinja", "tokenizer.json"]
    message = r"chat_template\.jinja, tokenizer\.json differ from those of a; the result has those of .*base"
    with pytest.warns(UserWarning, match=message):
        merge(tmp_path / "base", {"a": tmp_path / "a"}, method="ties", out=tmp_path / "out")
    pruned = prune(tmp_path / "base", tmp_path / "a", method="random", keep=0.5, out=tmp_path / "pruned")
    assert (pruned / "chat_template.jinja").read_text() == "x"  # the tuned model's

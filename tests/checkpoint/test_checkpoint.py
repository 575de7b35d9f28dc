"""Reading and writing checkpoints."""

import json
import os
import resource

import pytest
import safetensors.torch
import torch
from checkpoints import entry, equal, listing, raw, state

from pydelta import load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.tensors import TORCH


@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
def test_round_trip(tmp_path, name):
    tensors = state(1)
    save_checkpoint(tensors, tmp_path / name)
    assert equal(load_checkpoint(tmp_path / name), tensors)


@pytest.mark.parametrize("code", list(ITEMSIZE))
def test_every_dtype_as_the_safetensors_package_reads_it(tmp_path, code):
    x = torch.arange(6).to(TORCH[code]).reshape(2, 3)
    save_checkpoint({"x": x}, tmp_path / "x.safetensors")
    assert Checkpoint(tmp_path / "x.safetensors").dtype("x") == code
    readers = [load_checkpoint]
    if code in safetensors.torch._TYPES:
        readers.append(safetensors.torch.load_file)
    for read in readers:
        loaded = read(tmp_path / "x.safetensors")["x"]
        assert loaded.dtype == x.dtype
        assert torch.equal(loaded.view(torch.uint8), x.view(torch.uint8))


@pytest.mark.parametrize(
    ("code", "shape", "size"),
    [("F4", (2, 8), 8), ("F6_E2M3", (4,), 3), ("F6_E3M2", (3, 4), 9), ("I4", (3,), 2), ("X_9", (), 5)],
)
def test_a_dtype_that_torch_lacks_is_carried_as_bytes(tmp_path, code, shape, size):
    header = {"w": entry("F32", (2,), (0, 8)), "x": entry(code, shape, (8, 8 + size))}
    data = bytes(range(8 + size))
    (tmp_path / "x.safetensors").write_bytes(raw(header, data))
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    assert (checkpoint.dtype("x"), checkpoint.shape("x"), checkpoint.nbytes) == (code, shape, 8 + size)
    tensors = load_checkpoint(tmp_path / "x.safetensors")
    assert tensors["x"].dtype == torch.uint8
    assert tensors["x"].tolist() == list(data[8:])
    save_checkpoint(tensors, tmp_path / "y.safetensors", like=tmp_path / "x.safetensors")
    again = Checkpoint(tmp_path / "y.safetensors")
    assert (again.dtype("x"), again.shape("x")) == (code, shape)
    assert again.tensor("x").tolist() == list(data[8:])


def test_metadata_may_be_null_and_a_header_may_have_any_length(tmp_path):
    text = b'{"__metadata__":null,"x":' + json.dumps(entry()).encode() + b" }"
    assert len(text) % 8
    (tmp_path / "x.safetensors").write_bytes(raw(text, torch.tensor([1.5, -2.0]).numpy().tobytes()))
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.shards["x.safetensors"].metadata == {}
    assert checkpoint.tensor("x").tolist() == [1.5, -2.0]


@pytest.mark.parametrize("size", [4, 10_000])
def test_tensors_keep_no_descriptors(tmp_path, size):
    tensors = {f"t{i}": torch.full((size,), float(i)) for i in range(60)}
    save_checkpoint(tensors, tmp_path / "x.safetensors")
    checkpoint = Checkpoint(tmp_path / "x.safetensors", hold=True)
    before = len(os.listdir("/proc/self/fd"))
    mapped = [checkpoint.tensor(name) for name in checkpoint.names]
    assert len(os.listdir("/proc/self/fd")) == before
    (tmp_path / "x.safetensors").unlink()
    assert [float(x[-1]) for x in mapped] == [float(i) for i in range(60)]


def test_where_no_map_is_to_be_had_a_tensor_is_read(tmp_path, monkeypatch):
    x = torch.arange(10_000)
    save_checkpoint({"x": x}, tmp_path / "x.safetensors")

    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("pydelta.checkpoint.pages.Pages", refuse)
    assert torch.equal(Checkpoint(tmp_path / "x.safetensors").tensor("x"), x)


def test_a_file_that_cannot_be_held_says_so_and_no_more(tmp_path, monkeypatch):
    save_checkpoint({"x": torch.zeros(2)}, tmp_path / "x.safetensors")

    def full(_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "dup", full)
    with pytest.raises(OSError, match="Too many open files"):
        Checkpoint(tmp_path / "x.safetensors", hold=True)


def test_reads_what_the_safetensors_package_wrote(tmp_path):
    tensors = state(2, dtype=torch.bfloat16)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert equal(load_checkpoint(tmp_path / "x.safetensors"), tensors)
    assert Checkpoint(tmp_path / "x.safetensors").shards["x.safetensors"].metadata == {"format": "pt"}


def test_opening_lists_names_shapes_and_dtypes(tmp_path):
    save_checkpoint(
        {"b": torch.zeros(2, 3), "a": torch.zeros(4, dtype=torch.int64)}, tmp_path / "x.safetensors"
    )
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.names == ("a", "b")  # wider dtypes come first, so that all are aligned
    assert checkpoint.shape("b") == (2, 3)
    assert checkpoint.dtype("a") == "I64"
    assert checkpoint.nbytes == 56
    with pytest.raises(KeyError, match="no tensor 'c'"):
        checkpoint.tensor("c")


def test_a_tensor_may_begin_anywhere(tmp_path):
    header = {"pad": entry("U8", (1,), (0, 1)), "x": entry("F32", (2,), (1, 9))}
    data = b"\0" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(raw(header, data))
    assert load_checkpoint(tmp_path / "x.safetensors")["x"].tolist() == [1.5, -2.0]


def test_writing_to_a_mapped_tensor_leaves_the_file(tmp_path):
    save_checkpoint({"x": torch.zeros(1000)}, tmp_path / "x.safetensors")
    Checkpoint(tmp_path / "x.safetensors").tensor("x").fill_(1.0)
    assert load_checkpoint(tmp_path / "x.safetensors")["x"].sum() == 0


def test_a_file_changed_after_opening_is_noticed(tmp_path):
    save_checkpoint({"x": torch.zeros(4)}, tmp_path / "x.safetensors")
    checkpoint = Checkpoint(tmp_path / "x.safetensors")
    save_checkpoint({"x": torch.ones(4)}, tmp_path / "x.safetensors", force=True)
    with pytest.raises(ValueError, match=r"x\.safetensors: the file was changed"):
        checkpoint.tensor("x")


def test_shared_memory_is_written_under_every_name(tmp_path):
    x = torch.randn(4, 6)
    tensors = {"embed": x, "head": x, "turned": x.t(), "part": x[1:3, ::2]}
    save_checkpoint(tensors, tmp_path / "x.safetensors")
    assert equal(load_checkpoint(tmp_path / "x.safetensors"), tensors)


def sharded(folder):
    """Two shards, an index, a config, a tokenizer and weights of another kind."""
    first, second = {"a": torch.randn(3, 4)}, {"b": torch.randn(5), "c": torch.zeros(2, dtype=torch.int32)}
    folder.mkdir()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, tensors in zip(names, (first, second), strict=True):
        safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt"})
    weight_map = {"a": names[0], "b": names[1], "c": names[1]}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text('{"model_type": "toy"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    return first | second


def test_shards_are_read_and_written_in_the_same_layout(tmp_path):
    tensors = sharded(tmp_path / "in")
    assert equal(load_checkpoint(tmp_path / "in"), tensors)
    doubled = {name: x * 2 for name, x in tensors.items()}
    save_checkpoint(doubled, tmp_path / "out", like=tmp_path / "in")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert equal(load_checkpoint(tmp_path / "out"), doubled)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        name: f"model-0000{1 + (name > 'a')}-of-00002.safetensors" for name in "abc"
    }
    assert index["metadata"]["total_size"] == 48 + 20 + 8
    assert Checkpoint(tmp_path / "out").shards["model-00001-of-00002.safetensors"].metadata == {
        "format": "pt"
    }


def test_shards_into_one_file(tmp_path):
    tensors = sharded(tmp_path / "in")
    save_checkpoint(tensors, tmp_path / "out.safetensors", like=tmp_path / "in")
    assert equal(load_checkpoint(tmp_path / "out.safetensors"), tensors)


def test_a_checkpoint_without_tensors(tmp_path):
    save_checkpoint({}, tmp_path / "x.safetensors", metadata={})
    assert load_checkpoint(tmp_path / "x.safetensors") == {}


def test_force_replaces_and_nothing_else_does(tmp_path):
    for name in ("x.safetensors", "folder"):
        save_checkpoint({"x": torch.zeros(2)}, tmp_path / name)
        with pytest.raises(ValueError, match="already exists; --force"):
            save_checkpoint({"x": torch.ones(2)}, tmp_path / name)
        assert load_checkpoint(tmp_path / name)["x"].sum() == 0
        save_checkpoint({"x": torch.ones(2)}, tmp_path / name, force=True)
        assert load_checkpoint(tmp_path / name)["x"].sum() == 2
    assert sorted(os.listdir(tmp_path)) == ["folder", "x.safetensors"]


def test_force_spares_a_folder_of_something_else(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="neither a checkpoint nor a store"):
        save_checkpoint({"x": torch.ones(2)}, tmp_path / "home", force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
def test_a_full_disk_leaves_nothing(tmp_path, name):
    save_checkpoint({"x": torch.zeros(2)}, tmp_path / name)
    before = listing(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint({"x": torch.zeros(1 << 16)}, tmp_path / name, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == before


def test_an_error_between_tensors_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def fails(file, data, offset):
        calls.append(offset)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pydelta.checkpoint.tensors.write_at", fails)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(state(3), tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tensors", "options", "error", "message"),
    [
        ({"x": [1.0]}, {}, TypeError, "must map names to tensors, got str -> list"),
        ({1: torch.zeros(1)}, {}, TypeError, "must map names to tensors, got int -> Tensor"),
        ({"x": torch.zeros(1, dtype=torch.complex128)}, {}, ValueError, "x must be dense and of a dtype of"),
        ({"x": torch.zeros(1)}, {"metadata": {"a": 1}}, TypeError, "metadata must map str to str"),
    ],
)
def test_what_cannot_be_saved(tmp_path, tensors, options, error, message):
    with pytest.raises(error, match=message):
        save_checkpoint(tensors, tmp_path / "x.safetensors", **options)
    assert os.listdir(tmp_path) == []


def test_like_must_have_the_same_names(tmp_path):
    sharded(tmp_path / "in")
    tensors = {name: torch.zeros(1) for name in "xbc"}
    with pytest.raises(ValueError, match="they differ in a, x"):
        save_checkpoint(tensors, tmp_path / "out", like=tmp_path / "in")
    assert os.listdir(tmp_path) == ["in"]

"""Files that are not what they should be: refused in a sentence that names them, and nothing is written."""

import json
import os
import pickle
import re

import pytest
import torch
from checkpoints import entry, family, listing, paths, raw

from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint

GOOD = raw({"x": entry()}, bytes(8))

FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, world, this is no tensor", "not a safetensors file"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "not a safetensors file"),
    "zip pickle": (b"PK\3\4" + bytes(60), "a pickle, which can run any code"),
    "plain pickle": (pickle.dumps({"x": [1.0]}), "a pickle, which can run any code"),
    "truncated header": (GOOD[:30], "truncated: the header takes"),
    "truncated data": (GOOD[:-1], "truncated: the tensors end at byte"),
    "trailing bytes": (GOOD + b"\0", "longer than its header says"),
    "huge header": (raw(b"{", length=100_000_001), "header must be at most 100000000 bytes"),
    "not JSON": (raw(b"{nonsense}"), "the header is not sound JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "the header is not sound JSON"),
    "deep JSON": (raw(b'{"x":' + b"[" * 100_000), "the header is not sound JSON"),
    "twice": (
        raw(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "'x' stands there twice",
    ),
    "metadata": (raw({"__metadata__": {"a": 1}}), "__metadata__ must map text to text"),
    "entry": (raw({"x": [1, 2]}), "tensor 'x' must have dtype, shape and data_offsets alone"),
    "extra field": (
        raw({"x": {**entry(), "y": 1}}, bytes(8)),
        "'x' must have dtype, shape and data_offsets alone",
    ),
    "dtype": (raw({"x": entry("f 4")}, bytes(8)), "tensor 'x' has dtype 'f 4', which is no name of a dtype"),
    "dtype list": (raw({"x": entry(["F32"])}, bytes(8)), "tensor 'x' has dtype ['F32']"),
    "half bytes": (raw({"x": entry("F4", (3,), (0, 1))}, bytes(1)), "'x' takes 1 bytes by shape and dtype"),
    "bytes of F4": (raw({"x": entry("F4", (4,), (0, 4))}, bytes(4)), "'x' takes 2 bytes by shape and dtype"),
    "backwards": (raw({"x": entry("X7", (2,), (8, 0))}, bytes(8)), "'x' takes -8 bytes by shape and dtype"),
    "negative shape": (raw({"x": entry(shape=(-2,))}, bytes(8)), "shape [-2], which is not a list of sizes"),
    "true shape": (raw({"x": entry(shape=(True, 2))}, bytes(8)), "shape [True, 2], which is not"),
    "offsets": (raw({"x": entry(offsets=(0, 8, 9))}, bytes(8)), "which are not two positions"),
    "length": (raw({"x": entry(offsets=(0, 7))}, bytes(7)), "tensor 'x' takes 8 bytes by shape and dtype"),
    "overflow": (
        raw({"x": entry(shape=(1 << 62, 4))}, bytes(8)),
        "tensor 'x' takes 73786976294838206464 bytes",
    ),
    "hole": (raw({"x": entry(offsets=(4, 12))}, bytes(12)), "tensor 'x' must begin at byte"),
    "overlap": (
        raw({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
        "tensor 'y' must begin at byte",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_file(tmp_path, case):
    content, message = FILES[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert os.listdir(tmp_path) == ["bad.safetensors"]


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    text = json.dumps({"x": entry()}).encode()
    text += b" " * (0x280 - len(text))  # the length's first bytes are 80 02, a pickle's of protocol 2
    (tmp_path / "x.safetensors").write_bytes(raw(text, bytes(8)))
    assert load_checkpoint(tmp_path / "x.safetensors")["x"].tolist() == [0.0, 0.0]


def test_a_pickle_of_torch_is_not_run(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(
            ValueError, match=r"pytorch_model\.bin: a pickle, .*safetensors\.torch\.save_file"
        ):
            Checkpoint(path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        Checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        Checkpoint(tmp_path)


INDEXES = {
    "not JSON": ("{", "not sound JSON"),
    "list": ("[]", "weight_map must be an object"),
    "empty": ({"weight_map": {}}, "weight_map must be an object"),
    "missing shards": (
        {"weight_map": {"x": "a.safetensors", "y": "z.safetensors", "w": "q.safetensors"}},
        "shards that the index names are missing: q.safetensors, z.safetensors",
    ),
    "outside": ({"weight_map": {"x": "../a.safetensors"}}, "must be in a .safetensors file of this folder"),
    "pickle": ({"weight_map": {"x": "a.bin"}}, "must be in a .safetensors file of this folder"),
    "not in the shard": (
        {"weight_map": {"x": "a.safetensors", "y": "a.safetensors", "v": "b.safetensors"}},
        "index and shards disagree: 'y' is not in a.safetensors",
    ),
    "another shard": (
        {"weight_map": {"v": "b.safetensors", "x": "b.safetensors"}},
        "index and shards disagree: 'x' is not in b.safetensors",
    ),
    "empty name": ({"weight_map": {"x": ".safetensors/"}}, "must be in a .safetensors file of this folder"),
    "absolute": ({"weight_map": {"x": "/a.safetensors"}}, "must be in a .safetensors file of this folder"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index(tmp_path, case):
    content, message = INDEXES[case]
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    (tmp_path / "b.safetensors").write_bytes(raw({"v": entry()}, bytes(8)))
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Checkpoint(tmp_path)


def test_a_name_in_two_shards_without_an_index(tmp_path):
    for i in (1, 2):
        (tmp_path / f"model-0000{i}-of-00002.safetensors").write_bytes(GOOD)
    message = r"model-00002-of-00002\.safetensors: tensor 'x' is also in model-00001-of-00002\.safetensors"
    with pytest.raises(ValueError, match=message):
        Checkpoint(tmp_path)


def test_every_difference_from_the_base_is_listed_before_any_computing(tmp_path):
    _, models = family(tmp_path, 2)
    odd = dict(models["m1"])
    del odd["scale"], odd["embed.weight"]
    odd |= {"more": torch.zeros(2), "conv.weight": torch.zeros(6, 4, 3, 3)}
    odd["layers.0.norm.weight"] = odd["layers.0.norm.weight"].half()
    odd["layers.1.linear.weight"] = torch.full((24, 40), float("nan"))
    save_checkpoint(odd, tmp_path / "m1.safetensors", force=True)
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="lacks tensors of the base") as caught:
        Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store")
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path / 'm1.safetensors'} lacks tensors of the base: embed.weight, scale; "
    )
    # What a store can keep is no fault: tensors of its own, other shapes and dtypes.
    assert "more" not in message
    assert "conv.weight" not in message
    assert "NaN" not in message
    assert listing(tmp_path) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", ["layers.1.linear.weight", "layers.1.norm.weight", "scale", "conv.weight"])
@pytest.mark.parametrize("where", ["base", "m1"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_nan_and_inf(tmp_path, value, tensor, where, shuffle):
    base, models = family(tmp_path, 2)
    bad = {name: x.clone() for name, x in (base if where == "base" else models["m1"]).items()}
    bad[tensor].view(-1)[-1] = value
    path = tmp_path / ("base" if where == "base" else "m1.safetensors")
    save_checkpoint(bad, path, force=True)
    file = path / "model.safetensors" if where == "base" else path
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{file}: tensor '{tensor}' holds NaN or Inf")):
        Superposition.create(
            tmp_path / "base", paths(tmp_path, models), tmp_path / "store", shuffle_layers=shuffle
        )
    assert listing(tmp_path) == before


def test_a_sum_that_overflows(tmp_path):
    big = torch.full((2, 2), 3e38)
    save_checkpoint({"x": -big}, tmp_path / "base")
    save_checkpoint({"x": big}, tmp_path / "m0.safetensors")
    with pytest.raises(ValueError, match=r"the sum of the deltas of x overflows torch\.float32"):
        Superposition.create(tmp_path / "base", paths(tmp_path, ["m0"]), tmp_path / "store")
    assert not (tmp_path / "store").exists()

"""Delta files of models that have more than other values: dtypes, scales, indices, small files."""

import json

import pytest
import torch
from checkpoints import entry, equal, raw
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pydelta import deltafile, load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.cli.main import main

SHAPE = (64, 64)


def pair(folder, low, high):
    base = {"a.weight": (torch.arange(4096) % 31).reshape(SHAPE).to(low), "norm": torch.ones(64).to(low)}
    tuned = {"a.weight": base["a.weight"].to(high) + 0.25, "norm": base["norm"].to(high) + 0.25}
    save_checkpoint(base, folder / "base")
    save_checkpoint(tuned, folder / "tuned")
    return base, tuned


@pytest.mark.parametrize(
    "dtypes",
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)],
)
@pytest.mark.parametrize(
    "how", [{"bits": 1, "transform": "none"}, {"keep": 0.1}, {"keep": 0.5, "mask": "magnitude"}]
)
def test_deltas_of_another_dtype(tmp_path, dtypes, how):
    base, tuned = pair(tmp_path, *dtypes)
    file = deltafile.diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "x.delta", **how)
    rules = {tensor["name"]: tensor["rule"] for tensor in deltafile.describe(file)["tensors"]}
    assert rules["a.weight"] != "whole" or "mask" in how
    back = load_checkpoint(deltafile.patch(tmp_path / "base", file, tmp_path / "out"))
    assert back["a.weight"].dtype == dtypes[0]
    assert torch.equal(back["norm"], tuned["norm"])
    if "bits" in how:
        assert torch.equal(back["a.weight"], tuned["a.weight"].to(dtypes[0]))
    if how == {"keep": 0.1}:
        delta = back["a.weight"].float() - base["a.weight"].float()
        assert set(delta.unique().tolist()) <= {0.0, 2.5}


def test_scales_and_indices_are_stored_as_they_are(tmp_path):
    narrow = torch.ones(SHAPE).to(torch.float8_e4m3fn)
    base = {
        "q.weight": narrow,
        "q.weight_scale_inv": torch.ones(4, 4),
        "position_ids": torch.arange(9.0)[None],
    }
    tuned = {
        **base,
        "q.weight_scale_inv": torch.full((4, 4), 3.0),
        "position_ids": torch.arange(9.0)[None] + 1,
    }
    for name, tensors in (("base", base), ("tuned", tuned)):
        save_checkpoint(tensors, tmp_path / name)
    for how in ({"bits": 1}, {"keep": 0.1}):
        file = deltafile.diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "x.delta", force=True, **how)
        out = deltafile.patch(tmp_path / "base", file, tmp_path / "out", force=True)
        assert equal(load_checkpoint(out), tuned)


def test_small_files_and_reasons(tmp_path, capsys):
    _, tuned = pair(tmp_path, torch.float32, torch.float32)
    save_checkpoint({**tuned, "head.weight": torch.ones(2, 64)}, tmp_path / "tuned", force=True)
    (tmp_path / "base" / "config.json").write_text("{}")
    own = {"config.json": '{"labels": 2}', "chat_template.jinja": "{{ x }}"}
    for name, text in own.items():
        (tmp_path / "tuned" / name).write_text(text)
    paths = [str(tmp_path / name) for name in ("base", "tuned", "x.delta")]
    assert main(["diff", *paths[:2], "-o", paths[2], "--bits", "1"]) == 0
    said = capsys.readouterr().err
    assert "the base lacks it: head.weight" in said
    assert "the model's own files: chat_template.jinja, config.json" in said
    out = deltafile.patch(tmp_path / "base", tmp_path / "x.delta", tmp_path / "out")
    assert {name: (out / name).read_text() for name in own} == own
    assert deltafile.describe(tmp_path / "x.delta")["files"] == sorted(own)


def test_a_file_whose_small_files_lie(tmp_path):
    pair(tmp_path, torch.float32, torch.float32)
    (tmp_path / "tuned" / "config.json").write_text("{}")
    file = deltafile.diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "x.delta", lossless=True)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["files/config.json"] = torch.tensor([1], dtype=torch.uint8)
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match=r"'config\.json' has other bytes"):
        deltafile.patch(tmp_path / "base", file, tmp_path / "out")
    content = json.loads(metadata["pydelta-delta"])
    content["files"] = {"../config.json": "0" * 64}
    save_file(tensors, file, {"pydelta-delta": json.dumps(content)})
    with pytest.raises(ValueError, match="files must map paths below a folder"):
        deltafile.describe(file)


@pytest.mark.parametrize(("code", "shape", "size"), [("F4", (2, 8), 8), ("F6_E2M3", (4,), 3), ("X_9", (), 5)])
@pytest.mark.parametrize("how", [{"lossless": True}, {"keep": 0.5}])
def test_dtypes_that_torch_lacks_come_back(tmp_path, code, shape, size, how):
    """Where the base has other bytes, the same ones, or none."""
    for name, first in (("base", 0), ("tuned", 1)):
        header = {"w": entry("F32", (2,), (0, 8)), "x": entry(code, shape, (8, 8 + size))}
        header |= {"same": entry(code, shape, (8 + size, 8 + 2 * size))}
        header |= {"new": entry(code, shape, (8 + 2 * size, 8 + 3 * size))} if first else {}
        data = bytes(8) + bytes(range(first, first + size)) + bytes(range(size)) + bytes(range(size)) * first
        (tmp_path / f"{name}.safetensors").write_bytes(raw(header, data))
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    file = deltafile.diff(base, tuned, tmp_path / "x.delta", **how)
    back = Checkpoint(deltafile.patch(base, file, tmp_path / "back.safetensors"))
    wanted = Checkpoint(tuned)
    for name in ("x", "same", "new"):
        assert (back.dtype(name), back.shape(name)) == (code, shape)
        assert torch.equal(back.tensor(name), wanted.tensor(name))

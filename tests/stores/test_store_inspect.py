"""What ``pydelta inspect`` says of a store: bytes, buckets, expected and true errors."""

import json

import pytest
import torch
from checkpoints import family, listing, paths

from pydelta import Superposition, load_checkpoint
from pydelta.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five models in a store of two buckets, of which the second is open; the working directory."""
    _, models = family(tmp_path, 5)
    monkeypatch.chdir(tmp_path)
    given = [word for name, path in paths(tmp_path, models).items() for word in ("--model", f"{name}={path}")]
    assert main(["compress", "--base", "base", *given, "-o", "store", "--rate", "0.25", "--quiet"]) == 0
    return tmp_path


def inspect(capsys, *words):
    assert main(["inspect", "store", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_measured_beside_expected(folder, capsys):
    found = inspect(
        capsys, "--measure", "--base", "base", "--model", "m3=m3.safetensors", "--model", "m1=m1.safetensors"
    )
    store = Superposition.open("store")
    base = load_checkpoint("base")
    for other in ("m3", "m1"):
        model = found["models"][other]
        true, got = load_checkpoint(f"{other}.safetensors"), store.retrieve(other)
        names = list(model["tensors"])
        assert names == list(model["measured_tensors"])
        squares = []
        for tensor in names:
            error = (got[tensor].double() - true[tensor].double()).square().sum()
            squares.append((error, (true[tensor].double() - base[tensor].double()).square().sum()))
            assert model["measured_tensors"][tensor] == pytest.approx(float(error / squares[-1][1]), rel=1e-9)
        error, delta = map(sum, zip(*squares, strict=True))
        assert model["measured_error"] == pytest.approx(float(error / delta), rel=1e-9)
        assert model["measured_error"] == pytest.approx(model["expected_error"], rel=0.15)


def test_the_text(folder, capsys):
    assert main(["inspect", "store", "--measure", "--model", "m1=m1.safetensors"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert "bits 1, group row, room 4" in lines[1]
    for kind, size in inspect(capsys)["sizes"].items():
        assert (f"{kind.replace('_', ' ')} " in text) == bool(size)
    assert any(line.split()[:3] == ["model", "bucket", "weight"] for line in lines)
    assert any("m1 expected" in line and "m1 measured" in line for line in lines)
    assert main(["inspect", "store"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (embed,) = [row for row in rows if row[:1] == ["embed.weight"]]
    low, high = float(embed[-3]), float(embed[-1])
    assert 1 < low < high < 6


def test_bytes(folder, capsys):
    found = inspect(capsys)
    sizes = dict(found["sizes"])
    del sizes["base"], sizes["per_model"]
    assert sum(sizes.values()) == found["bytes"] == sum(map(len, listing(folder / "store").values()))
    assert found["sizes"]["per_model"] == found["bytes"] / 5
    base = load_checkpoint("base")
    assert found["sizes"]["base"] == sum(x.nbytes for x in base.values())
    sealed = Superposition.open("store").seal().describe()
    assert sealed["sizes"]["open"] == 0
    assert sealed["bytes"] < found["bytes"] - found["sizes"]["open"]


def test_a_model_that_is_the_base(tmp_path):
    base, _ = family(tmp_path, 1)
    where = {"same": tmp_path / "base", "m0": tmp_path / "m0.safetensors"}
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", bits=1)
    assert store.describe()["models"]["same"]["expected_error"] is None
    assert set(store.measure("same", tmp_path / "base").values()) == {None}
    alone = Superposition.create(tmp_path / "base", {"same": tmp_path / "base"}, tmp_path / "alone", bits=1)
    assert set(alone.measure("same", tmp_path / "base").values()) == {0.0}
    assert torch.equal(alone.retrieve("same")["embed.weight"], base["embed.weight"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["store", "--measure"], "--measure needs the models to measure"),
        (["store", "--model", "m0.safetensors"], "--measure needs the models to measure"),
        (["base", "--measure", "--model", "m0.safetensors"], "--measure is of stores, got base"),
    ],
)
def test_usage(folder, capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "3"], "rate must be one of 16, 4, 2, 1, 0.5, 0.25, 0.125, got 3.0"),
        (["--bits", "3"], "bits must be one of 1, 2, 4, 8, got 3"),
        (["--bits", "1", "--group", "7"], "group must divide every row, got 7 for embed.weight (40)"),
        (["--exact", "--room", "0"], "room must be at least 1, got 0"),
    ],
)
def test_bad_dials_on_the_command_line(folder, capsys, words, message):
    assert main(["compress", "--base", "base", "--model", "m0.safetensors", "-o", "new", *words]) == 1
    assert capsys.readouterr().err.startswith(f"pydelta compress: [compress] {message}")
    assert not (folder / "new").exists()

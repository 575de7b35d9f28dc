"""The command line: what it prints, how it ends."""

import json
import os
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family, listing, paths

import pydelta
from pydelta import Superposition, load_checkpoint
from pydelta.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base, two models and a store of both; the working directory."""
    _, models = family(tmp_path, 2)
    Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ["--model", "m0=m0.safetensors", "--model", "m1=m1.safetensors"]


def test_compress_and_retrieve(folder, capsys):
    assert (
        main(["compress", "--base", "base", *MODELS, "-o", "new", "--transform", "hadamard", "--seed", "3"])
        == 0
    )
    printed = capsys.readouterr()
    assert printed.out.startswith("new: 2 models in ")
    assert printed.err == ""
    assert main(["retrieve", "new", "m1", "-o", "m1.out.safetensors", "--lam", "0.5"]) == 0
    assert capsys.readouterr().out == "m1.out.safetensors\n"
    store = Superposition.open("new")
    assert (store.manifest.transform, store.manifest.seed, store.manifest.form.dtype) == (
        "hadamard",
        3,
        "fp32",
    )
    assert equal(load_checkpoint("m1.out.safetensors"), store.retrieve("m1", lam=0.5))


def test_quiet_and_json(folder, capsys):
    assert main(["compress", "--base", "base", *MODELS, "-o", "new", "--quiet"]) == 0
    assert main(["retrieve", "new", "m0", "-o", "out", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (
        main(["compress", "--base", "base", *MODELS, "-o", "new", "--force", "--json", "--dtype", "bf16"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["dtype"], sorted(found["models"])) == ("bf16", ["m0", "m1"])
    assert main(["retrieve", "new", "m0", "-o", "out", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"store": "new", "model": "m0", "out": "out", "lam": 1.0}


def test_a_model_without_a_name_takes_its_paths_last_part(folder, capsys):
    where = os.path.join(folder, "m0.safetensors")
    assert main(["compress", "--base", "base", "--model", where, "--model", "base/", "-o", "new"]) == 0
    assert Superposition.open("new").models == ["base", "m0.safetensors"]


def test_inspect_a_store(folder, capsys):
    assert main(["inspect", "store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "store"
    for name, error in Superposition.open("store").interference().items():
        assert found["models"][name]["expected_error"] == error
        assert found["models"][name]["expected_cosine"] == pytest.approx((1 + error) ** -0.5)
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert tensors["embed.weight"] == {
        "name": "embed.weight",
        "rule": "superposed",
        "dtype": "F32",
        "shape": [30, 40],
        "bytes": 30 * 40 * 4,
    }
    assert tensors["scale"]["rule"] == "exact"
    assert tensors["scale"]["bytes"] == 2 * 4
    assert found["bytes"] == sum(map(len, listing(folder / "store").values()))
    assert main(["inspect", "store"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("store: store, 11 tensors, ")
    assert any(line.startswith("m0 ") for line in lines)


def test_inspect_a_checkpoint(folder, capsys):
    assert main(["inspect", "base"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("base: checkpoint, 11 tensors, ")
    assert ["embed.weight", "F32", "[30,", "40]", "4,800"] in [line.split() for line in lines]
    assert main(["inspect", "m0.safetensors", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == ["m0.safetensors"]
    assert {tensor["name"] for tensor in found["tensors"]} == load_checkpoint("m0.safetensors").keys()


def test_env(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pydelta"] == pydelta.__version__
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    present = {name for name, there in found["backends"].items() if there is True}
    assert present == {name for name, there in pydelta.backends().items() if there}
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__ in text
    assert "reference" in text


USAGE = {
    "no command": ([], "pydelta: the following arguments are required: COMMAND"),
    "unknown command": (["blend"], "pydelta: argument COMMAND: invalid choice: 'blend'"),
    "unknown flag": (["env", "--fast"], "pydelta env: unrecognized arguments: --fast"),
    "no model": (
        ["compress", "--base", "b", "-o", "s"],
        "pydelta compress: the following arguments are required",
    ),
    "two of one name": (
        [
            "compress",
            "--base",
            "base",
            "--model",
            "a=m0.safetensors",
            "--model",
            "a=m1.safetensors",
            "-o",
            "s",
        ],
        "pydelta compress: two models are named 'a': m0.safetensors and m1.safetensors; give NAME=PATH",
    ),
    "no name": (
        ["compress", "--base", "base", "--model", "=x", "-o", "s"],
        "pydelta compress: --model must be NAME=PATH or PATH, got '=x'",
    ),
    "seed": (
        ["compress", "--base", "base", *MODELS, "-o", "s", "--seed", "-1"],
        "pydelta compress: argument --seed: must lie in [0, 2**64), got -1",
    ),
    "lam": (
        ["retrieve", "store", "m0", "-o", "s", "--lam", "inf"],
        "pydelta retrieve: argument --lam: must be finite, got inf",
    ),
    "transform": (
        ["compress", "--base", "base", *MODELS, "-o", "s", "--transform", "haar"],
        "pydelta compress: argument --transform: invalid choice: 'haar'",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage_is_one_line_and_status_2(folder, capsys, case):
    args, message = USAGE[case]
    before = listing(folder)
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1
    assert listing(folder) == before


FAILURES = {
    "no base": (
        ["compress", "--base", "nowhere", *MODELS, "-o", "s"],
        "pydelta compress: nowhere: no such file or folder",
    ),
    "unknown model": (
        ["retrieve", "store", "m9", "-o", "s"],
        "pydelta retrieve: store: holds no model 'm9'; it holds m0, m1",
    ),
    "another base": (
        ["retrieve", "store", "m0", "-o", "s", "--base", "m1.safetensors"],
        "pydelta retrieve: m1.safetensors: not the base of store: tensor '",
    ),
    "existing": (
        ["retrieve", "store", "m0", "-o", "m1.safetensors"],
        "pydelta retrieve: m1.safetensors: already exists; --force (force=True) replaces it",
    ),
    "no folder": (
        ["retrieve", "store", "m0", "-o", "deep/down"],
        "pydelta retrieve: deep/down: its folder ",
    ),
    "not a store": (["retrieve", "base", "m0", "-o", "s"], "pydelta retrieve: base: not a store"),
    "nothing": (["inspect", "nowhere"], "pydelta inspect: nowhere: no such file or folder"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_status_1(folder, capsys, case):
    args, message = FAILURES[case]
    before = listing(folder)
    assert main(args) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1
    assert listing(folder) == before


def test_an_error_of_the_system_names_the_file(folder, capsys, monkeypatch):
    def full(file, offset, size):
        raise OSError(28, "No space left on device", "the/disk")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = listing(folder)
    assert main(["retrieve", "store", "m0", "-o", "s"]) == 1
    assert capsys.readouterr().err == "pydelta retrieve: the/disk: No space left on device\n"
    assert listing(folder) == before


def test_an_interrupt_cleans_up(folder, capsys, monkeypatch):

    def interrupted(*args):
        raise KeyboardInterrupt

    from pydelta.superposition.writing import create

    monkeypatch.setattr(create, "fingerprint", interrupted)
    before = listing(folder)
    assert main(["compress", "--base", "base", *MODELS, "-o", "s"]) == 130
    assert capsys.readouterr().err == "pydelta compress: interrupted\n"
    assert listing(folder) == before


def test_the_bar_is_drawn_on_a_terminal_alone(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["retrieve", "store", "m0", "-o", "s1"]) == 0
    assert "retrieve m0" in capsys.readouterr().err
    assert main(["retrieve", "store", "m0", "-o", "s2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


HEADERS_ALONE = """
import sys
from pydelta.cli import main

assert main(sys.argv[1:]) == 0
heavy = {"torch", "numpy", "triton", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("path", ["base", "m0.safetensors", "store"])
def test_inspect_reads_headers_without_torch(folder, path):
    done = subprocess.run(
        [sys.executable, "-c", HEADERS_ALONE, "inspect", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_hears_nothing(folder):
    command = [sys.executable, "-m", "pydelta", "inspect", "base"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_a_path_may_have_an_equals_sign(folder, capsys):
    run = folder / "runs" / "lr=1e-5"
    run.mkdir(parents=True)
    for name in ("m0", "m1"):
        (run / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    given = ["runs/lr=1e-5/m0.safetensors", "b=runs/lr=1e-5/m1.safetensors"]
    flags = [flag for path in given for flag in ("--model", path)]
    assert main(["compress", "--base", "base", *flags, "-o", "new", "--quiet"]) == 0
    assert list(Superposition.open("new").models) == ["b", "m0.safetensors"]
    capsys.readouterr()
    assert main(["similarity", "base", *given, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["m0.safetensors", "b"]
    assert main(["add", "new", "--model", "runs/lr=1e-6/m1"]) == 1
    assert "runs/lr=1e-6/m1: no such file or folder" in capsys.readouterr().err


def test_models_of_one_name_are_refused_with_both_paths(folder, capsys):
    (folder / "x").mkdir()
    (folder / "x/m0.safetensors").write_bytes((folder / "m1.safetensors").read_bytes())
    for args in (["compress", "--base", "base", "-o", "new", "--model"], ["similarity", "base"]):
        more = ["--model"] if args[0] == "compress" else []
        with pytest.raises(SystemExit):
            main([*args, "m0.safetensors", *more, "x/m0.safetensors"])
        assert "two models are named 'm0.safetensors': m0.safetensors and x/m0" in capsys.readouterr().err


def test_input_axes_from_the_command_line(folder, capsys):
    axes = ["--input-dims", "layers.*=0"]
    assert main(["compress", "--base", "base", *MODELS, "-o", "new", "--quiet", *axes]) == 0
    assert Superposition.open("new").manifest.rules["layers.1.linear.weight"].dim == 0
    prune = ["prune", "base", "m0.safetensors", "--method", "magnitude", "--keep", "0.5", "--group", "row"]
    assert main([*prune, "-o", "rows", "--quiet"]) == 0
    assert main([*prune, "-o", "columns", "--quiet", *axes]) == 0
    base, model = load_checkpoint("base"), load_checkpoint("columns")
    kept = model["layers.1.linear.weight"] != base["layers.1.linear.weight"]
    assert kept.sum(0).tolist() == [12] * 40
    assert main([*prune, "-o", "x", "--input-dims", "embed.weight=2"]) == 1
    message = "input_dims must lie in [-2, 1] for embed.weight of shape [30, 40], got 2"
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*prune, "-o", "x", "--input-dims", "embed.weight"])
    assert "must be PATTERN=AXIS with a whole number, got embed.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "axis"),
    [
        ({"model_type": "gpt_oss"}, 1),
        ({"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}, 1),
        ({"model_type": "mixed", "text_config": {"model_type": "llama4_text"}}, 1),
        ({"model_type": "qwen3_vl_moe"}, 2),
    ],
)
def test_fused_experts_are_known_by_the_models_type(tmp_path, config, axis):
    name = "model.layers.0.mlp.experts.down_proj"
    for folder in ("base", "a"):
        pydelta.save_checkpoint({name: torch.randn(2, 64, 128)}, tmp_path / folder)
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    Superposition.create(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s")
    assert Superposition.open(tmp_path / "s").manifest.rules[name].dim == axis

"""``pydelta diff`` and ``pydelta patch``: what they print, how they end."""

import json
import subprocess
import sys

import pytest
from checkpoints import equal, family, listing

from pydelta import load_checkpoint
from pydelta.cli import main
from pydelta.deltafile import describe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base and one model; the working directory."""
    family(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = ["base", "m0.safetensors"]


def test_there_and_back(folder, capsys):
    assert main(["diff", *MODELS, "-o", "f", "--lossless"]) == 0
    printed = capsys.readouterr()
    size = (folder / "f").stat().st_size
    assert printed.out == f"f: {size:,} bytes; tensors: 2 base, 9 whole\n"
    assert printed.err == ""
    assert main(["patch", "base", "f", "-o", "out"]) == 0
    assert capsys.readouterr().out == "out\n"
    assert equal(load_checkpoint("out"), load_checkpoint("m0.safetensors"))


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--lossless", "--name", "x"], ("x", 42, None, 1.0, 0.0, 1.0)),
        (["--keep", "0.5", "--seed", "7"], ("m0.safetensors", 7, "random", 0.5, 0.0, 2.0)),
        (["--keep", "1", "--mask", "random"], ("m0.safetensors", 42, "random", 1.0, 0.0, 1.0)),
        (["--keep", ".1", "--mask", "magnitude"], ("m0.safetensors", 42, "magnitude", 0.1, 0.0, 1.0)),
        (["--keep", ".1", "--mask", "breadcrumbs"], ("m0.safetensors", 42, "breadcrumbs", 0.1, 0.01, 1.0)),
        (
            ["--keep", ".1", "--mask", "breadcrumbs", "--drop-large", ".2"],
            ("m0.safetensors", 42, "breadcrumbs", 0.1, 0.2, 1.0),
        ),
    ],
)
def test_flags_reach_the_file(folder, capsys, flags, settings):
    assert main(["diff", *MODELS, "-o", "f", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == describe("f")
    fields = ("model", "seed", "mask", "keep", "drop_large", "factor")
    assert tuple(found[field] for field in fields) == settings


def test_quiet_and_json(folder, capsys):
    assert main(["diff", *MODELS, "-o", "f", "--lossless", "--quiet"]) == 0
    assert main(["patch", "base", "f", "-o", "out.safetensors", "--quiet"]) == 0
    assert main(["diff", *MODELS, "-o", "f", "--lossless", "--quiet", "--force"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["patch", "base", "f", "-o", "out.safetensors", "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"base": "base", "file": "f", "model": "m0.safetensors", "out": "out.safetensors"}


def test_the_bar_is_drawn_on_a_terminal_alone(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["diff", *MODELS, "-o", "f", "--lossless"]) == 0
    assert "diff" in capsys.readouterr().err
    assert main(["patch", "base", "f", "-o", "out"]) == 0
    assert "patch" in capsys.readouterr().err
    assert main(["patch", "base", "f", "-o", "out2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


DIFF = ["diff", *MODELS, "-o", "f"]
USAGE = {
    "no file": (["diff", *MODELS, "--lossless"], "diff: the following arguments are required: -o/--out"),
    "neither": (DIFF, "diff: one of the arguments --keep --lossless --bits is required"),
    "both": (
        [*DIFF, "--keep", "1", "--lossless"],
        "diff: argument --lossless: not allowed with argument --keep",
    ),
    "keep": ([*DIFF, "--keep", "1.5"], "diff: argument --keep: must lie in [0, 1], got 1.5"),
    "keep nan": ([*DIFF, "--keep", "nan"], "diff: argument --keep: must lie in [0, 1], got nan"),
    "mask": ([*DIFF, "--keep", "1", "--mask", "ties"], "diff: argument --mask: invalid choice: 'ties'"),
    "lossless mask": ([*DIFF, "--lossless", "--mask", "random"], "diff: --mask goes with --keep"),
    "drop": (
        [*DIFF, "--keep", "1", "--mask", "magnitude", "--drop-large", "0"],
        "diff: --drop-large goes with --mask breadcrumbs",
    ),
    "lossless seed": (
        [*DIFF, "--lossless", "--seed", "1"],
        "diff: --seed goes with a random mask or rotation",
    ),
    "bits": ([*DIFF, "--bits", "3"], "diff: argument --bits: invalid choice: 3 (choose from "),
    "bits mask": ([*DIFF, "--bits", "1", "--mask", "random"], "diff: --mask goes with --keep"),
    "transform": ([*DIFF, "--keep", "1", "--transform", "none"], "diff: --transform goes with --bits"),
    "plain seed": (
        [*DIFF, "--bits", "1", "--transform", "none", "--seed", "1"],
        "diff: --seed goes with a random mask or rotation",
    ),
    "group": ([*DIFF, "--keep", "1", "--group", "8"], "diff: --group goes with --bits"),
    "group 0": ([*DIFF, "--bits", "1", "--group", "0"], "diff: argument --group: must be at least 1, got 0"),
    "seed": ([*DIFF, "--keep", "1", "--seed", "-1"], "diff: argument --seed: must lie in [0, 2**64), got -1"),
    "patch": (["patch", "base", "-o", "x"], "patch: the following arguments are required: FILE"),
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
    assert printed.err.startswith(f"pydelta {message}")
    assert printed.err.count("\n") == 1
    assert listing(folder) == before


FAILURES = {
    "no base": (
        ["diff", "nowhere", "base", "-o", "f", "--lossless"],
        "diff: nowhere: no such file or folder",
    ),
    "existing": (
        ["diff", *MODELS, "-o", "m0.safetensors", "--lossless"],
        "diff: m0.safetensors: the output must",
    ),
    "name": ([*DIFF, "--keep", "1", "--name", ""], "diff: [diff] name must be printable text, got ''"),
    "no delta": (["patch", *MODELS, "-o", "x"], "patch: m0.safetensors: not a delta file"),
    "another base": (
        ["patch", "m0.safetensors", "f0", "-o", "x"],
        "patch: m0.safetensors: not the base of f0: tensor '",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_status_1(folder, capsys, case):
    args, message = FAILURES[case]
    assert main(["diff", *MODELS, "-o", "f0", "--lossless", "--quiet"]) == 0
    before = listing(folder)
    assert main(args) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"pydelta {message}")
    assert printed.err.count("\n") == 1
    assert listing(folder) == before


HEADERS_ALONE = """
import sys
from pydelta.cli import main
from pydelta.deltafile import describe

assert describe("f")["kind"] == "delta"
heavy = {"torch", "numpy", "triton", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""


def test_describing_needs_no_torch(folder):
    assert main(["diff", *MODELS, "-o", "f", "--keep", "0.5", "--quiet"]) == 0
    done = subprocess.run([sys.executable, "-c", HEADERS_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inspect_knows_a_delta_file(folder, capsys):
    assert main(["diff", *MODELS, "-o", "f", "--keep", "0.5", "--quiet"]) == 0
    assert main(["inspect", "f", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe("f")
    assert main(["inspect", "f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"f: delta, 11 tensors, {(folder / 'f').stat().st_size:,} bytes"
    assert lines[1] == "model m0.safetensors, mask random, keep 0.5, drop_large 0.0, factor 2.0, seed 42"
    assert len(lines) == 4 + 11

"""The bytes of delta files: golden ones, ones that are not sound, killed processes, memory."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family
from delta_files import OPTIONS, manifest, refused, rewrite
from paths import GOLDEN

from pydelta import load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.deltafile import apply, describe, diff, patch
from pydelta.deltafile.manifest import FORMAT

MIB = 1 << 20


def golden(kind):
    """A golden delta file, and the model that it gives."""
    file = GOLDEN / "deltafile" / f"{kind}.safetensors"
    model = GOLDEN / "a.safetensors" if kind == "lossless" else file.with_name(f"{kind}-a.safetensors")
    return file, load_checkpoint(model)


@pytest.mark.parametrize("kind", OPTIONS)
def test_golden_files_are_still_read(tmp_path, kind):
    file, model = golden(kind)
    assert equal(load_checkpoint(patch(GOLDEN / "base", file, tmp_path / "out")), model)
    live = load_checkpoint(GOLDEN / "base")
    apply(file, live)
    assert equal(live, model)


@pytest.mark.parametrize("kind", OPTIONS)
def test_golden_files_are_still_written(tmp_path, kind):
    expected, _ = golden(kind)
    file = diff(GOLDEN / "base", GOLDEN / "a.safetensors", tmp_path / expected.name, **OPTIONS[kind])
    assert equal(load_checkpoint(file), load_checkpoint(expected))
    ours, theirs = manifest(file), manifest(expected)
    assert ours.pop("pydelta")
    assert theirs.pop("pydelta")
    assert ours == theirs
    assert list(Checkpoint(file).tensors.values()) == list(Checkpoint(expected).tensors.values())


def test_the_format_is_as_written_down(tmp_path):
    """docs/formats.md, example by example, without the package's own decoder."""
    base = {"w": torch.zeros(4, 10), "b": torch.zeros(2)}
    model = {"w": torch.zeros(4, 10), "b": torch.ones(2)}
    model["w"].view(-1)[[3, 20, 21]] = torch.tensor([1.0, 2.0, 3.0])
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint(model, tmp_path / "tuned")
    file = diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "f", lossless=True)
    stored = load_checkpoint(file)
    assert stored.keys() == {"values/w", "places/w", "values/b"}
    assert stored["values/w"].tolist() == [1.0, 2.0, 3.0]
    rules = manifest(file)["tensors"]
    assert rules == {"w": {"rule": "coded", "rice": 2}, "b": {"rule": "whole"}}
    # Gaps 3, 16, 0: low bits 3, 0, 0 in one byte; then unary 0, 4, 0, that is 1 00001 1, in the next.
    assert stored["places/w"].tolist() == [0b11, 0b1100001, 0, 0, 0, 0, 0, 0]


FIELDS = {
    "format": (lambda c: c.update(format="zip"), "format must be 'pydelta-delta'"),
    "newer": (
        lambda c: c.update(version=4, pydelta="9.9"),
        "version 4 of the format was written by a newer pydelta, '9.9'; this one reads versions up to 3",
    ),
    "version": (lambda c: c.update(version=True), "version must lie in [1, 3], got True"),
    "pydelta": (lambda c: c.pop("pydelta"), "pydelta must be text, got None"),
    "model": (lambda c: c.update(model="a\0b"), r"model must be printable text, got 'a\x00b'"),
    "seed": (lambda c: c.update(seed=1 << 64), "seed must lie in [0, 2**64), got 18446744073709551616"),
    "mask": (lambda c: c.update(mask="ties"), "mask must be null or one of random, magnitude, breadcrumbs"),
    "keep": (lambda c: c.update(keep=1.5), "keep must lie in [0, 1], got 1.5"),
    "keep kind": (lambda c: c.update(keep=True), "keep must lie in [0, 1], got True"),
    "drop_large": (lambda c: c.update(drop_large="0"), "drop_large must lie in [0, 1], got '0'"),
    "factor": (lambda c: c.update(factor=float("nan")), "factor must be a finite number, got nan"),
    "huge factor": (lambda c: c.update(factor=10**400), "factor must be a finite number, got 1000"),
    "bits": (lambda c: c.update(version=2, bits=3), "bits must be one of 1, 2, 4, 8, got 3"),
    "no bits": (lambda c: c.update(version=2), "bits must be one of 1, 2, 4, 8, got None"),
    "group": (
        lambda c: c.update(version=2, bits=1, group=0),
        "group must be 'row' or a positive number, got 0",
    ),
    "transform": (
        lambda c: c.update(version=2, bits=1, group="row", transform="sign"),
        "transform must be one of hadamard, none, got 'sign'",
    ),
    "mask and bits": (
        lambda c: c.update(version=2, bits=1, group="row", mask="random"),
        "mask must be null in a file of codes, got 'random'",
    ),
    "base": (lambda c: c.update(base=[]), "base must be an object, got []"),
    "fingerprint": (lambda c: c["base"].update(fingerprint="0"), "base.fingerprint must be a SHA-256 in hex"),
    "base tensor": (lambda c: c["base"]["tensors"].update(w=1), "base.tensors.w must be an object, got 1"),
    "base dtype": (
        lambda c: c["base"]["tensors"]["w"].update(dtype="F4"),
        "base.tensors.w.dtype must be a dtype of safetensors, got 'F4'",
    ),
    "base shape": (
        lambda c: c["base"]["tensors"]["w"].update(shape=[-1]),
        "base.tensors.w.shape must be a list of sizes, got [-1]",
    ),
    "sha256": (
        lambda c: c["base"]["tensors"]["w"].update(sha256="é" * 64),
        "w.sha256 must be a SHA-256 in hex",
    ),
    "tensors": (lambda c: c.pop("tensors"), "tensors must be an object, got None"),
    "tensor": (lambda c: c["tensors"].update(w=[]), "tensors.w must be an object, got []"),
    "rule": (
        lambda c: c["tensors"]["w"].update(rule=["x"]),
        "tensors.w.rule must be one of base, whole, coded",
    ),
    "rice": (lambda c: c["tensors"]["w"].update(rice=-1), "tensors.w.rice must be a natural number, got -1"),
    "no rice": (lambda c: c["tensors"]["w"].pop("rice"), "tensors.w.rice must be a natural number, got None"),
    "odd rice": (
        lambda c: c["tensors"]["b"].update(rice=1),
        "tensors.b.rice must be absent with the rule base",
    ),
}


@pytest.fixture
def file(tmp_path):
    """A lossless delta file of a coded tensor w, an unchanged one b, and a whole one n."""
    w, n = torch.arange(60.0).view(6, 10), torch.zeros(3, 2)
    save_checkpoint({"w": w, "b": torch.zeros(2, dtype=torch.int32), "n": n}, tmp_path / "base")
    tuned = {"w": w.clone(), "b": torch.zeros(2, dtype=torch.int32), "n": n + 1}
    tuned["w"].view(-1)[[5, 30, 59]] += 0.5
    save_checkpoint(tuned, tmp_path / "tuned.safetensors")
    return diff(tmp_path / "base", tmp_path / "tuned.safetensors", tmp_path / "f.safetensors", lossless=True)


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_are_not_sound(file, case):
    change, message = FIELDS[case]
    rewrite(file, lambda content, tensors: change(content))
    refused(file, message)
    with pytest.raises(ValueError, match=re.escape(message)):
        describe(file)


TEXTS = {
    "nothing": ("", "pydelta-delta is not sound JSON"),
    "broken": ("{", "pydelta-delta is not sound JSON"),
    "list": ("[]", "format must be 'pydelta-delta'"),
    "twice": ('{"format": 1, "format": 2}', "pydelta-delta is not sound JSON ('format' stands there twice)"),
    "half a character": ("\ud800", "pydelta-delta is not sound JSON"),
    "deep": ("[" * 100_000, "pydelta-delta is not sound JSON (it is nested too deeply)"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_manifest_that_is_no_json_object(file, case):
    text, message = TEXTS[case]
    save_checkpoint(load_checkpoint(file), file, metadata={FORMAT: text}, force=True)
    refused(file, message)


def code(*values):
    return torch.tensor(values, dtype=torch.uint8)


def set_tensor(name, value):
    return lambda content, tensors: tensors.update({name: value})


def set_rule(name, **rule):
    return lambda content, tensors: content["tensors"].update({name: rule})


def random_rule(name, count, mask="random"):
    def change(content, tensors):
        content.update(mask=mask, keep=0.5)
        content["tensors"][name] = {"rule": "random"}
        tensors.pop(f"places/{name}", None)
        tensors[f"values/{name}"] = torch.zeros(count, dtype=torch.int32 if name == "b" else torch.float32)

    return change


CONTENTS = {
    "missing values": (lambda c, t: t.pop("values/w"), "tensor 'w': 'values/w' is missing"),
    "missing places": (lambda c, t: t.pop("places/w"), "tensor 'w': 'places/w' is missing"),
    "missing whole": (lambda c, t: t.pop("values/n"), "tensor 'n': 'values/n' is missing"),
    "extra": (
        set_tensor("values/b", torch.zeros(2)),
        "holds tensors that its manifest does not explain: values/b",
    ),
    "unexplained": (lambda c, t: c["tensors"].pop("w"), "does not explain: places/w, values/w"),
    "no base": (lambda c, t: c["base"]["tensors"].pop("w"), "tensor 'w': the base has no such tensor"),
    "nothing of a base": (set_rule("z", rule="base"), "tensor 'z': the base has no such tensor"),
    "dtype of values": (
        set_tensor("values/w", torch.zeros(3).half()),
        "tensor 'w': its values must be F32, at most 60 of them, got F16 of shape [3]",
    ),
    "axes of values": (
        set_tensor("values/w", torch.zeros(3, 1)),
        "at most 60 of them, got F32 of shape [3, 1]",
    ),
    "too many values": (set_tensor("values/w", torch.zeros(61)), "at most 60 of them, got F32 of shape [61]"),
    "dtype of places": (
        set_tensor("places/w", torch.zeros(8, dtype=torch.int8)),
        "tensor 'w': its places must be a list of bytes",
    ),
    "axes of places": (
        set_tensor("places/w", torch.zeros(2, 4, dtype=torch.uint8)),
        "tensor 'w': its places must be a list of bytes",
    ),
    "no values": (set_tensor("values/w", torch.zeros(0)), "tensor 'w': 0 places among 60 have no code"),
    "fewer values": (set_tensor("values/w", torch.zeros(2)), "tensor 'w': the code"),
    "parameter": (set_rule("w", rule="coded", rice=63), "tensor 'w': 3 places among 60 have no code with"),
    "huge parameter": (set_rule("w", rule="coded", rice=10**30), "have no code with parameter 1000"),
    "popcount": (set_tensor("places/w", code(255, 255, 3, 0, 0, 0, 0, 0)), "tensor 'w': the code has "),
    "no code": (set_tensor("places/w", code()), "tensor 'w': the code has 0 places, but 3 values are there"),
    "long code": (set_tensor("places/w", code(*[0] * 64)), "tensor 'w': the code takes 64 bytes, more than"),
    "outside": (
        set_tensor("places/w", code(255, 15, 0b101001, 0, 0, 0, 0, 0)),
        "tensor 'w': a place must lie below",
    ),
    "mask": (random_rule("w", 20, "magnitude"), "tensor 'w': its rule is random, but the file's mask is not"),
    "mask of integers": (random_rule("b", 1), "tensor 'b': no mask applies to I32"),
    "values of a mask": (random_rule("w", 60), "tensor 'w': its mask keeps "),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents_that_are_not_sound(file, case):
    change, message = CONTENTS[case]
    rewrite(file, change)
    refused(file, message)


def test_the_rewritten_file_is_else_good(file):
    """The cases above fail for what they changed, not for being rewritten."""
    rewrite(file, lambda content, tensors: None)
    tuned = load_checkpoint(file.parent / "tuned.safetensors")
    assert equal(load_checkpoint(patch(file.parent / "base", file, file.parent / "out")), tuned)


@pytest.mark.parametrize(
    ("size", "message"),
    [(0, "the file is empty"), (7, "not a safetensors"), (100, "truncated"), (-1, "truncated")],
)
def test_a_truncated_file(file, size, message):
    file.write_bytes(file.read_bytes()[:size])
    refused(file, message)


def test_every_problem_of_the_places_is_listed_by_apply(tmp_path):
    base = {name: torch.zeros(8, 8) for name in "ab"}
    model = {name: torch.eye(8) for name in "ab"}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint(model, tmp_path / "tuned")
    file = diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "f.safetensors", lossless=True)
    rewrite(file, lambda content, tensors: tensors.update({f"places/{name}": code() for name in "ab"}))
    with pytest.raises(ValueError, match=r"tensor 'a': the code has .*; .*tensor 'b': the code has "):
        apply(file, base)


KILLED = """
import os, signal, sys
from pydelta.checkpoint import writer
from pydelta.cli import main

whole = writer.TensorFile.write

def dies(self, name, part, start=0):
    whole(self, name, part, start)
    os.kill(os.getpid(), signal.SIGKILL)

writer.TensorFile.write = dies
main(sys.argv[1:])
"""


def python(*args, cwd=None):
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("command", ["diff", "patch"])
def test_killed_in_the_middle(tmp_path, command):
    family(tmp_path, 1)
    base, model = tmp_path / "base", tmp_path / "m0.safetensors"
    args = ["diff", base, model, "--lossless", "-o", tmp_path / "out"]
    if command == "patch":
        args = ["patch", base, diff(base, model, tmp_path / "file", lossless=True), "-o", tmp_path / "out"]
    before = set(os.listdir(tmp_path))
    assert python("-c", KILLED, *args).returncode == -signal.SIGKILL
    left = set(os.listdir(tmp_path)) - before
    assert left
    assert all(name.startswith(".out.new-") and name.endswith(".tmp") for name in left)


PEAK = """
import sys
from pydelta.cli import main


def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def run(base, tuned, file, out):
    assert main(["diff", base, tuned, "--lossless", "-o", file, "--quiet"]) == 0
    assert main(["patch", base, file, "-o", out, "--quiet"]) == 0


run("small", "small", "warm", "up")
before = peak()
run(*sys.argv[1:])
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_is_bounded_by_the_largest_tensor(tmp_path):
    """12 times that and 8 MiB; the models take 40 MiB each."""
    x = torch.randn(1024, 1024).bfloat16()
    y = torch.where(torch.rand(x.shape) < 0.35, x + 1, x)
    save_checkpoint({"w": x}, tmp_path / "small")
    for folder, tensor in (("base", x), ("tuned", y)):
        save_checkpoint({f"layers.{i}.weight": tensor for i in range(20)}, tmp_path / folder)
    done = python("-c", PEAK, "base", "tuned", "file", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 12 * x.nbytes + 8 * MIB
    files = [tmp_path / folder / "model.safetensors" for folder in ("out", "tuned")]
    assert files[0].read_bytes() == files[1].read_bytes()

"""Stores across processes: other hash seeds, killed processes, bounded memory."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family, listing, paths

from pydelta import Superposition, load_checkpoint, save_checkpoint

MIB = 1 << 20


def python(*args, hash_seed="0"):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, *args], env=environment, capture_output=True, text=True, check=False
    )


def pydelta(*args, hash_seed="0"):
    done = python("-m", "pydelta", *map(str, args), hash_seed=hash_seed)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [["--shuffle-layers"], ["--rate", "0.5"]])
def test_bits_do_not_depend_on_the_process_or_the_order(tmp_path, options):
    _, models = family(tmp_path, 3)
    where = paths(tmp_path, models)
    for store, seed, names in (("one", "1", ["m0", "m1", "m2"]), ("two", "2", ["m2", "m0", "m1"])):
        given = [word for name in names for word in ("--model", f"{name}={where[name]}")]
        out = tmp_path / store
        pydelta("compress", "--base", tmp_path / "base", *given, "-o", out, *options, hash_seed=seed)
    one, two = listing(tmp_path / "one"), listing(tmp_path / "two")
    assert {n: one[n] for n in one if n != "log.jsonl"} == {n: two[n] for n in two if n != "log.jsonl"}
    pydelta("retrieve", tmp_path / "one", "m1", "-o", tmp_path / "out", hash_seed="3")
    assert equal(load_checkpoint(tmp_path / "out"), Superposition.open(tmp_path / "two").retrieve("m1"))


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


@pytest.mark.parametrize("command", ["compress", "retrieve"])
def test_killed_in_the_middle(tmp_path, command):
    _, models = family(tmp_path, 1)
    base, where = tmp_path / "base", paths(tmp_path, models)
    out = tmp_path / "out"
    if command == "compress":
        args = ["compress", "--base", base, "--model", f"m0={where['m0']}", "-o", out]
    else:
        Superposition.create(base, where, tmp_path / "store")
        args = ["retrieve", tmp_path / "store", "m0", "-o", out]
    before = set(os.listdir(tmp_path))
    done = python("-c", KILLED, *map(str, args))
    assert done.returncode == -signal.SIGKILL
    left = set(os.listdir(tmp_path)) - before
    assert left
    assert all(name.startswith(".out.new-") and name.endswith(".tmp") for name in left)
    pydelta(*args)
    assert out.is_dir()


PEAK = """
import sys
from pydelta.cli import main

assert main(sys.argv[1:]) == 0
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_is_bounded_by_the_largest_tensor(tmp_path):
    """300 MiB, which holds torch itself, and 2 (K + 1) times the largest tensor."""
    count, rows, width, models = 16, 2048, 1024, 2
    base = {f"layers.{i}.weight": torch.randn(rows, width).bfloat16() for i in range(count)}
    save_checkpoint(base, tmp_path / "base")
    given = []
    for k in range(models):
        save_checkpoint({name: x + 0.01 for name, x in base.items()}, tmp_path / f"m{k}.safetensors")
        given += ["--model", f"m{k}={tmp_path / f'm{k}.safetensors'}"]
    bound = 300 * MIB + 2 * (models + 1) * rows * width * 2
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    for args in (
        ["compress", "--base", str(tmp_path / "base"), *given, "-o", store],
        ["retrieve", store, "m0", "-o", out],
    ):
        done = python("-c", PEAK, *args, "--quiet")
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) * 1024 < bound

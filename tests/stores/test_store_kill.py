"""A kill at any moment of a change leaves the store as it was before or as it is after."""

import json
import subprocess
import sys

import pytest
import torch
from checkpoints import paths

from pydelta import Superposition, save_checkpoint

# A child is killed before its n-th step that the disk would see, n = 1, 2, ..., until one comes to its end.
# Forking is many times faster than starting Python anew; no thread runs in the parent.
DRIVER = """
import json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path
import pydelta
from pydelta import Superposition
from pydelta.superposition.reading import verify
from pydelta.superposition.writing import change, models

folder, action = Path(sys.argv[1]), sys.argv[2]

def act(store):
    if action == "add":
        path = folder / "m2.safetensors"
        change.add(store, "m2", path, base=None, weight=1.0, calibration=None, show=False)
    elif action == "remove":
        change.remove(store, "m1", folder / "m1.safetensors", base=None, show=False)
    else:
        change.seal(store)

def count_down(left):
    def wrapped(step):
        def run(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **options)
        return run
    for name in ("replace", "rename", "unlink", "mkdir", "rmdir", "fsync", "pwrite", "posix_fallocate"):
        setattr(os, name, wrapped(getattr(os, name)))

def child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def content(store):
    found = json.loads((store / "store.json").read_text())
    return sorted(found["models"]), found["files"], found["buckets"]

def check(store):
    assert verify.verify(store, None, show=False) == [], "not sound"
    assert content(store) in (before, after)
    # The next change goes through, and leaves nothing behind.
    if kills % 4:
        return
    if content(store) == before:
        act(store)
    assert content(store) == after
    change.add(store, "m3", folder / "m3.safetensors", base=None, weight=1.0, calibration=None, show=False)
    named = {"store.json", "log.jsonl", *json.loads((store / "store.json").read_text())["files"]}
    assert {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()} == named

first, last, work = folder / "store", folder / "last", folder / "work"
shutil.copytree(first, last)
assert ended(child(lambda: act(last))) == 0
before, after = content(first), content(last)
assert before != after
seen = {"before": 0, "after": 0}
kills = 0
while True:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(first, work)
    pid = child(lambda: (count_down(kills + 1), act(work)) and None)
    if kills % 3 == 2:  # and at no step at all: whenever it happens
        time.sleep(random.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
    status = ended(pid)
    if status == 0 and kills % 3 != 2:
        break
    assert status in (0, -signal.SIGKILL), status
    seen["before" if content(work) == before else "after"] += 1
    assert ended(child(lambda: check(work))) == 0
    kills += 1
print(json.dumps({"kills": kills, **seen}))
"""


@pytest.mark.parametrize(
    ("action", "options"),
    [
        ("add", {"bits": 1, "room": 3}),
        ("add", {"mask": "random", "keep": 0.5, "residual": 0.2}),
        ("remove", {"exact": True, "residual": 0.2}),
        ("seal", {"bits": 1, "room": 3}),
    ],
)
def test_killed_at_every_step(tmp_path, action, options):
    base = {"w": torch.randn(4, 8), "b": torch.randn(8)}
    save_checkpoint(base, tmp_path / "base")
    for i in range(4):
        save_checkpoint(
            {n: x + 0.1 * torch.randn(x.shape) for n, x in base.items()}, tmp_path / f"m{i}.safetensors"
        )
    given = paths(tmp_path, ["m0", "m1"])
    Superposition.create(tmp_path / "base", given, tmp_path / "store", **options)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), action], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= (4 if action == "seal" else 12), found
    assert found["before"] > 0
    assert found["after"] > 0

"""The way of a model's path through the making of a store: every module is entered once."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from checkpoints import family, paths

from pydelta import Superposition


def _carries(value, tuned):
    """Whether an argument is one of the models' paths, or a mapping or list that holds one."""
    if isinstance(value, Mapping):
        return any(_carries(x, tuned) for x in value.values())
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(x, str | Path) and os.fspath(x) in tuned for x in values)


def test_a_path_enters_each_module_once(tmp_path):
    """From another module, as an argument; helpers of one module may hand it on among themselves."""
    family(tmp_path, 1)
    models = paths(tmp_path, ["m0"])
    tuned = {os.fspath(path) for path in models.values()}
    entered = Counter()

    def watch(frame, event, _):
        if event != "call":
            return
        module, caller = (f.f_globals.get("__name__", "") for f in (frame, frame.f_back))
        if not module.startswith("pydelta.superposition") or module == caller:
            return
        # When a call begins, its arguments are all that the frame has.
        if any(_carries(value, tuned) for value in list(frame.f_locals.values())):
            entered[module.removeprefix("pydelta.superposition.")] += 1

    sys.setprofile(watch)
    try:
        Superposition.create(tmp_path / "base", models, tmp_path / "store")
    finally:
        sys.setprofile(None)
    assert entered == {"store": 1, "writing.options": 1, "writing.create": 1, "format.log": 1}

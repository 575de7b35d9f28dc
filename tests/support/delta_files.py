"""Delta files opened, changed and refused."""

import json
import re

import pytest
from checkpoints import equal, listing

from pydelta import load_checkpoint, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.deltafile import apply, describe, diff, patch
from pydelta.deltafile.manifest import FORMAT

OPTIONS = {
    "lossless": {"lossless": True},
    "random": {"keep": 0.25, "seed": 2**64 - 1, "name": "a/ä"},
    "magnitude": {"keep": 0.3, "mask": "magnitude"},
    "breadcrumbs": {"keep": 0.125, "mask": "breadcrumbs", "drop_large": 0.0625},
    "one-bit": {"bits": 1},
    "four-bits": {"bits": 4, "group": 3, "transform": "none"},
}


def manifest(path):
    return json.loads(Checkpoint(path).shards[path.name].metadata[FORMAT])


def rewrite(path, change):
    """A delta file with another manifest and other tensors."""
    content, tensors = manifest(path), load_checkpoint(path)
    change(content, tensors)
    save_checkpoint(tensors, path, metadata={FORMAT: json.dumps(content)}, force=True)


def refused(file, message):
    """Patch and apply name the file and say what is wrong, and change nothing."""
    base = load_checkpoint(file.parent / "base")
    before = listing(file.parent)
    for run in (
        lambda: patch(file.parent / "base", file, file.parent / "out"),
        lambda: apply(file, base),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            run()
        assert str(file) in str(caught.value)
    assert listing(file.parent) == before
    assert equal(base, load_checkpoint(file.parent / "base"))


def round_trip(folder, base, model, **options):
    """(what patch gives, what describe says by tensor) of two state dicts."""
    save_checkpoint(base, folder / "base", force=True)
    save_checkpoint(model, folder / "tuned", force=True)
    file = diff(folder / "base", folder / "tuned", folder / "file", force=True, **options)
    out = patch(folder / "base", file, folder / "out", force=True)
    return load_checkpoint(out), {entry.pop("name"): entry for entry in describe(file)["tensors"]}

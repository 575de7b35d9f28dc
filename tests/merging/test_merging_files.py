"""Merges of checkpoints: the same bits as in memory, however the work is cut, and whole or not at all."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from checkpoints import equal, family, listing, paths

from pydelta import load_checkpoint, merge, save_checkpoint
from pydelta.checkpoint import Checkpoint
from pydelta.cli import main
from pydelta.merging.methods import METHODS
from pydelta.merging.running import checkpoints

MIB = 1 << 20
GIVEN = {
    "linear": {},
    "task_arithmetic": {"lam": 0.5},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.4},
    "dare_ties": {"density": 0.4, "rescale": "l1"},
    "della": {"density": 0.5, "epsilon": 0.2},
    "della_linear": {"density": 0.5, "epsilon": 0.2, "rescale": "l1"},
    "breadcrumbs": {"density": 0.4, "gamma": 0.1, "group": "row"},
    "breadcrumbs_ties": {"density": 0.4, "gamma": 0.1},
}
MORE = [
    ("ties", {"density": 0.4, "group": "model"}),
    ("ties", {"density": 0.4, "group": "row", "dense_1d": True}),
    ("ties", {"density": 0.4, "rescale": True}),
    ("dare_linear", {"density": 0.4, "rescale": "q", "q": "mse"}),
]
CASES = [*GIVEN.items(), *MORE]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(folder, base, models)."""
    folder = tmp_path_factory.mktemp("models")
    return folder, *family(folder, 3, dtype=torch.bfloat16)


def on_files(folder, names, out, method, **given):
    base = None if method == "linear" else folder / "base"
    merge(base, paths(folder, names), method=method, out=out, **given)
    return load_checkpoint(out)


@pytest.mark.parametrize(("method", "given"), CASES)
def test_files_give_what_memory_gives(models, tmp_path, monkeypatch, method, given):
    folder, base, tuned_models = models
    wanted = merge(None if method == "linear" else base, tuned_models, method=method, **given)
    monkeypatch.setattr(checkpoints, "PART_BYTES", 3000)
    assert equal(on_files(folder, tuned_models, tmp_path / "a", method, **given), wanted)
    monkeypatch.setattr(checkpoints, "PART_BYTES", 700)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        back = list(reversed(tuned_models))
        assert equal(on_files(folder, back, tmp_path / "b", method, **given), wanted)
    finally:
        torch.set_num_threads(threads)


def test_every_method_is_tried():
    assert set(GIVEN) == set(METHODS.names)


def sharded(folder, tensors):
    """A checkpoint in two files with their index."""
    folder.mkdir()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in files.items():
        save_checkpoint({name: tensors[name] for name in members}, folder / file)
    index = {"weight_map": {name: file for file, members in files.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "toy", "torch_dtype": "float32"}')
    (folder / "README.md").write_text("the base's own")


def test_layouts(tmp_path):
    base, models = family(tmp_path, 2)
    sharded(tmp_path / "shards", base)
    wanted = merge(base, models, method="dare_linear", density=0.3)
    given = {"method": "dare_linear", "density": 0.3}
    merge(tmp_path / "shards", paths(tmp_path, models), out=tmp_path / "same", **given)
    assert listing(tmp_path / "same").keys() == listing(tmp_path / "shards").keys()
    assert equal(load_checkpoint(tmp_path / "same"), wanted)
    merge(tmp_path / "shards", paths(tmp_path, models), out=tmp_path / "one.safetensors", **given)
    assert equal(load_checkpoint(tmp_path / "one.safetensors"), wanted)
    merge(tmp_path / "base", paths(tmp_path, models), out=tmp_path / "many", max_shard_bytes=6000, **given)
    assert equal(load_checkpoint(tmp_path / "many"), wanted)
    sizes = [header.tensors.values() for header in Checkpoint(tmp_path / "many").shards.values()]
    assert len(sizes) == 4
    assert all(sum(info.nbytes for info in infos) <= 6000 for infos in sizes)
    merge(
        tmp_path / "shards", paths(tmp_path, models), out=tmp_path / "whole", max_shard_bytes=1 << 30, **given
    )
    assert list(Checkpoint(tmp_path / "whole").shards) == ["model.safetensors"]


def test_dtype_config_and_card(tmp_path):
    base, models = family(tmp_path, 1)
    sharded(tmp_path / "shards", base)
    out = tmp_path / "out"
    given = {"method": "ties", "density": 0.3, "dtype": "bfloat16"}
    merge(tmp_path / "shards", paths(tmp_path, models), out=out, **given)
    found = load_checkpoint(out)
    wanted = merge(base, models, **given)
    assert equal(found, wanted)
    assert found["embed.weight"].dtype is torch.bfloat16
    assert found["position_ids"].dtype is torch.int64
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    card = (out / "README.md").read_text()
    assert "the base's own" not in card
    for part in ("A merge by ties", "seed 42", "| model | m0 |", "merge_method: ties", "density: 0.3"):
        assert part in card


def test_a_second_run_gives_the_same_bytes(tmp_path):
    _, models = family(tmp_path, 2)
    for out in ("a", "b"):
        on_files(tmp_path, models, tmp_path / out, "dare_ties", density=0.2)
    assert listing(tmp_path / "a") == listing(tmp_path / "b")
    with pytest.raises(ValueError, match="already exists"):
        on_files(tmp_path, models, tmp_path / "a", "dare_ties", density=0.3)
    on_files(tmp_path, models, tmp_path / "a", "dare_ties", density=0.3, force=True)
    assert listing(tmp_path / "a") != listing(tmp_path / "b")


def test_tied_embeddings(tmp_path):
    base = {"embed.weight": torch.randn(9, 8), "x.weight": torch.zeros(9, 8)}
    model = {name: x + torch.randn(9, 8) for name, x in base.items()}
    given = {"method": "dare_linear", "density": 0.5}
    for name, tensors in (("base", base), ("m0", model)):
        save_checkpoint(
            tensors | {"lm_head.weight": tensors["embed.weight"]}, tmp_path / f"{name}.safetensors"
        )
    path = merge(tmp_path / "base.safetensors", paths(tmp_path, ["m0"]), out=tmp_path / "out", **given)
    found = load_checkpoint(path)
    assert torch.equal(found["lm_head.weight"], found["embed.weight"])
    assert not torch.equal(found["lm_head.weight"], model["embed.weight"])
    save_checkpoint(
        model | {"lm_head.weight": model["embed.weight"] + 1}, tmp_path / "m0.safetensors", force=True
    )
    path = merge(tmp_path / "base.safetensors", paths(tmp_path, ["m0"]), out=tmp_path / "apart", **given)
    found = load_checkpoint(path)
    kept = [found[name] != base["embed.weight"] for name in ("lm_head.weight", "embed.weight")]
    assert not torch.equal(*kept)


def test_conv1d_weights_are_known_by_the_config(tmp_path):
    base = {"h.0.mlp.c_fc.weight": torch.zeros(40, 24), "wte.weight": torch.zeros(30, 24)}
    model = {name: torch.randn_like(x) for name, x in base.items()}
    for name, tensors in (("base", base), ("m0", model)):
        save_checkpoint(tensors, tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "gpt2"}')
    given = {"method": "ties", "density": 0.5, "group": "row"}
    path = merge(tmp_path / "base", {"m0": tmp_path / "m0"}, out=tmp_path / "out", **given)
    kept = load_checkpoint(path)["h.0.mlp.c_fc.weight"] != 0
    assert (kept.sum(0) == 20).all()
    assert equal(load_checkpoint(path), merge(base, {"m0": model}, input_dims={"*c_fc.weight": 0}, **given))


def test_a_larger_vocabulary_in_files(tmp_path):
    base, models = family(tmp_path, 1)
    longer = models["m0"] | {"embed.weight": torch.cat([models["m0"]["embed.weight"], torch.ones(3, 40)])}
    save_checkpoint(longer, tmp_path / "m0.safetensors", force=True)
    given = {"method": "ties", "density": 0.5}
    with pytest.raises(
        ValueError, match=r"m0: embed.weight has shape \[33, 40\], not \[30, 40\]; vocabulary"
    ):
        on_files(tmp_path, models, tmp_path / "out", **given)
    found = on_files(tmp_path, models, tmp_path / "out", vocabulary="common", **given)
    assert equal(found, merge(base, models, **given))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_names_the_file_and_the_tensor(tmp_path, bad):
    _, models = family(tmp_path, 2)
    models["m1"]["layers.2.linear.weight"][0, 0] = bad
    save_checkpoint(models["m1"], tmp_path / "m1.safetensors", force=True)
    for method in ("task_arithmetic", "breadcrumbs", "dare_linear"):
        with pytest.raises(
            ValueError, match=r"m1.safetensors: tensor 'layers.2.linear.weight' holds NaN or Inf"
        ):
            on_files(tmp_path, models, tmp_path / "out", method)
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_fp16_that_sums_to_infinity_is_finite(tmp_path):
    base = {"x": torch.full((400,), 1000.0, dtype=torch.float16)}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint(base, tmp_path / "m0.safetensors")
    assert equal(on_files(tmp_path, ["m0"], tmp_path / "out", "task_arithmetic"), base)


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


def test_killed_in_the_middle(tmp_path):
    family(tmp_path, 1)
    args = ["prune", tmp_path / "base", tmp_path / "m0.safetensors", "-o", tmp_path / "out"]
    args = [str(word) for word in [*args, "--method", "random", "--keep", "0.5"]]
    before = set(os.listdir(tmp_path))
    done = subprocess.run([sys.executable, "-c", KILLED, *args], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = set(os.listdir(tmp_path)) - before
    assert left
    assert all(name.startswith(".out.new-") and name.endswith(".tmp") for name in left)
    assert main([*args, "--quiet"]) == 0


PEAK = """
import sys
from pydelta.cli import main

assert main(sys.argv[1:]) == 0
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """350 MiB hold torch itself, but not the 192 MiB of base, model and result beside it."""
    base = {f"layers.{i}.weight": torch.randn(1024, 1024).bfloat16() for i in range(32)}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint({name: x + 0.01 for name, x in base.items()}, tmp_path / "m0")
    args = ["prune", "base", "m0", "-o", "out", "--method", "magnitude", "--keep", "0.5", "--quiet"]
    done = subprocess.run([sys.executable, "-c", PEAK, *args], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 350 * MIB

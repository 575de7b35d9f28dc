"""Delta files: what comes back, what is stored, what is refused."""

import math
import os
import re

import numpy as np
import oracles
import pytest
import torch
from checkpoints import equal, family, listing, state, tuned
from delta_files import round_trip

from pydelta import MagnitudeMask, RandomMask, key, load_checkpoint, merge_into, save_checkpoint
from pydelta.checkpoint.tensors import TORCH
from pydelta.deltafile import describe, diff, patch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASKS = [("random", {}), ("magnitude", {}), ("breadcrumbs", {"drop_large": 0.05})]


def same_bits(a, b):
    """Same names, dtypes, shapes and bytes, NaN's too."""
    return a.keys() == b.keys() and all(
        (a[n].dtype, a[n].shape) == (b[n].dtype, b[n].shape)
        and torch.equal(a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8))
        for n in a
    )


def random_bytes(dtype, shape, generator):
    """(N, itemsize), any bit pattern."""
    size = math.prod(shape), dtype.itemsize
    return generator.integers(0, 2 if dtype is torch.bool else 256, size, dtype=np.uint8)


@pytest.mark.parametrize("dtype", TORCH.values())
def test_lossless_is_bit_for_bit_in_every_dtype(tmp_path, dtype):
    """Every bit pattern: NaNs with payloads, infinities, both zeros."""
    generator = np.random.default_rng(0)
    base, model = {}, {}
    for shape in ((), (0, 3), (7,), (13, 31), (3, 1, 40)):
        for fraction in (0.0, 0.02, 0.5, 1.0):
            name = f"{shape} {fraction}"
            old, new = (random_bytes(dtype, shape, generator) for _ in range(2))
            new = np.where(generator.random((len(old), 1)) < fraction, new, old)
            for tensors, content in ((base, old), (model, new)):
                tensors[name] = torch.tensor(content).view(-1).view(dtype).view(shape)
    found, stored = round_trip(tmp_path, base, model, lossless=True)
    assert same_bits(found, model)
    for name, entry in stored.items():
        assert entry["bytes"] <= model[name].nbytes
        assert (entry["rule"] == "base") == same_bits({"": base[name]}, {"": model[name]})
    if dtype.itemsize > 1:
        assert {entry["rule"] for entry in stored.values()} == {"base", "coded", "whole"}


def test_lossless_restores_a_fine_tune_of_any_layout(tmp_path):
    _, models = family(tmp_path, 1)
    file = diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "file", lossless=True)
    assert file == tmp_path / "file"
    (tmp_path / "base" / "config.json").write_text("{}")
    for out in ("out", "out.safetensors"):
        assert patch(tmp_path / "base", file, tmp_path / out) == tmp_path / out
        assert same_bits(load_checkpoint(tmp_path / out), models["m0"])
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_tensors_that_do_not_fit_the_base_are_stored_whole(tmp_path):
    base = {
        "embed": torch.randn(10, 8),
        "gone": torch.zeros(3),
        "half": torch.randn(4, 4),
        "w": torch.randn(9, 9),
    }
    model = {
        "embed": torch.randn(12, 8),
        "half": base["half"].half(),
        "head": torch.randn(3, 3),
        "w": base["w"] + torch.eye(9),
    }
    found, stored = round_trip(tmp_path, base, model, lossless=True)
    assert same_bits(found, model)
    whole = {name: entry["why"] for name, entry in stored.items() if entry["rule"] == "whole"}
    assert whole == {
        "embed": "shape [12, 8], in the base [10, 8]",
        "half": "dtype F16, in the base F32",
        "head": "the base lacks it",
    }
    found, stored = round_trip(tmp_path, base, model, keep=1, rescale=False)
    assert same_bits(found, {**model, "half": model["half"].float()})
    assert {name for name, entry in stored.items() if entry["rule"] == "whole"} == {"embed", "head"}


def test_new_tensors_go_into_the_last_shard(tmp_path):
    base = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    save_checkpoint(base, tmp_path / "one.safetensors")
    (tmp_path / "base").mkdir()
    for i, names in enumerate(["a", "bc"]):
        save_checkpoint({n: base[n] for n in names}, tmp_path / "base" / f"model-{i}.safetensors")
    weight_map = '{"a": "model-0.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}'
    (tmp_path / "base" / "model.safetensors.index.json").write_text(f'{{"weight_map": {weight_map}}}')
    save_checkpoint({"b": base["b"], "new": torch.ones(3)}, tmp_path / "tuned.safetensors")
    file = diff(tmp_path / "base", tmp_path / "tuned.safetensors", tmp_path / "file", lossless=True)
    out = patch(tmp_path / "base", file, tmp_path / "out")
    assert set(os.listdir(out)) == {"model-1.safetensors", "model.safetensors.index.json"}
    assert same_bits(load_checkpoint(out), {"b": base["b"], "new": torch.ones(3)})


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_random_mask_is_dares(tmp_path, dtype):
    """The mask from Python's integers, the values from fp32 (fp64) arithmetic with one rounding."""
    base = state(0, dtype=dtype, layers=1)
    model = tuned(base, 1)
    found, stored = round_trip(tmp_path, base, model, keep=0.3, seed=9, name="näme")
    for name, x in base.items():
        if x.dim() < 2 or not x.numel() or not x.is_floating_point():
            assert same_bits({"": found[name]}, {"": model[name]})
            continue
        stream = key(9, "mask", "näme", name)
        kept = np.array([oracles.u32(stream, i) < math.floor(0.3 * 2**32) for i in range(x.numel())])
        compute = torch.float64 if dtype is torch.float64 else torch.float32
        wide = x.to(compute)
        moved = (wide + (model[name].to(compute) - wide) * (1 / 0.3)).to(dtype)
        expected = torch.where(torch.from_numpy(kept).view(x.shape), moved, x)
        assert torch.equal(found[name], expected)
        merged = merge_into(x, [model[name]], masks=[RandomMask(0.3, stream)])
        assert torch.equal(found[name], merged)
        assert stored[name] == {
            "rule": "random",
            "dtype": stored[name]["dtype"],
            "shape": list(x.shape),
            "bytes": int(kept.sum()) * dtype.itemsize,
        }


@pytest.mark.parametrize(("rescale", "factor"), [(True, 4.0), (False, 1.0), (2.5, 2.5)])
def test_rescale(tmp_path, rescale, factor):
    base, model = {"w": torch.zeros(40, 8)}, {"w": torch.ones(40, 8)}
    found, _ = round_trip(tmp_path, base, model, keep=0.25, rescale=rescale)
    assert set(found["w"].unique().tolist()) == {0.0, factor}
    assert describe(tmp_path / "file")["factor"] == factor


def test_a_random_mask_depends_on_seed_model_and_tensor_alone(tmp_path):
    base = {"a": torch.zeros(30, 30), "b": torch.zeros(30, 30)}
    model = {name: torch.ones(30, 30) for name in base}
    first, _ = round_trip(tmp_path, base, model, keep=0.5, name="m")
    again, _ = round_trip(tmp_path, {"b": base["b"]}, {"b": model["b"]}, keep=0.5, name="m")
    assert torch.equal(first["b"], again["b"])
    assert not torch.equal(first["a"], first["b"])
    for other in ({"name": "n"}, {"name": "m", "seed": 43}):
        assert not torch.equal(first["a"], round_trip(tmp_path, base, model, keep=0.5, **other)[0]["a"])


def test_the_default_name_is_the_last_part_of_the_path(tmp_path, monkeypatch):
    base, model = {"w": torch.zeros(8, 8)}, {"w": torch.ones(8, 8)}
    round_trip(tmp_path, base, model, keep=0.5)
    assert describe(tmp_path / "file")["model"] == "tuned"
    monkeypatch.chdir(tmp_path / "tuned")
    assert describe(diff("../base", ".", "../file2", lossless=True))["model"] == "tuned"


def kept_by_magnitude(delta, keep, drop_large):
    """The order of magnitudes by a stable sort."""
    order = np.argsort(-np.abs(delta), kind="stable")
    top = math.floor(drop_large * delta.size)
    kept = np.zeros(delta.size, dtype=bool)
    kept[order[top:][: math.floor(keep * delta.size)]] = True
    return kept


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mask", ["magnitude", "breadcrumbs"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.15, 0.6, 1.0])
def test_masks_by_magnitude(tmp_path, dtype, mask, keep):
    """With many ties: deltas are small integers."""
    generator = torch.Generator().manual_seed(3)
    base = {"w": torch.randint(-4, 5, (37, 29), generator=generator).to(dtype)}
    model = {"w": base["w"] + torch.randint(-3, 4, (37, 29), generator=generator).to(dtype)}
    drop_large = 0.1 if mask == "breadcrumbs" else 0.0
    found, stored = round_trip(tmp_path, base, model, keep=keep, mask=mask, drop_large=0.1)
    delta = (model["w"] - base["w"]).double().numpy().reshape(-1)
    kept = kept_by_magnitude(delta, keep, drop_large)
    assert np.array_equal(
        found["w"].double().numpy().reshape(-1), base["w"].double().numpy().reshape(-1) + kept * delta
    )
    count = int((kept & (delta != 0)).sum())
    assert stored["w"]["bytes"] <= min(count * dtype.itemsize + 37 * 29 / 8 + 8, model["w"].nbytes)
    if mask == "magnitude":
        assert torch.equal(found["w"], merge_into(base["w"], [model["w"]], masks=[MagnitudeMask(keep)]))


@pytest.mark.parametrize(("mask", "options"), MASKS)
def test_what_all_masks_leave_exact(tmp_path, mask, options):
    """One axis or none, other dtypes, empty tensors."""
    base = state(0, layers=1) | {"eight": torch.randn(6, 6).to(torch.float8_e4m3fn)}
    model = {name: x + 1 if x.dtype in (torch.float32, torch.int64) else x for name, x in base.items()}
    model["eight"] = (base["eight"].float() + 1).to(torch.float8_e4m3fn)
    found, stored = round_trip(tmp_path, base, model, keep=0.1, mask=mask, **options)
    masked = {"embed.weight", "layers.0.linear.weight", "conv.weight"}
    assert same_bits(*({n: x for n, x in d.items() if n not in masked} for d in (found, model)))
    for name in masked:
        assert 0 < (found[name] != base[name]).float().mean() < 0.2
    assert stored["position_ids"]["rule"] in ("coded", "whole")
    assert stored["empty"]["rule"] == "base"


def test_sizes(tmp_path):
    """A random mask stores its kept values alone: 135 MB for 7 B parameters in bf16 at keep 0.01."""
    base = {f"layers.{i}.weight": torch.randn(128, 96).bfloat16() for i in range(3)}
    model = {name: (x.float() + 0.05 * torch.randn(x.shape)).bfloat16() for name, x in base.items()}
    sizes = {}
    for mask, options in MASKS:
        _, stored = round_trip(tmp_path, base, model, keep=0.05, mask=mask, **options)
        sizes[mask] = sum(entry["bytes"] for entry in stored.values())
        assert (tmp_path / "file").stat().st_size - sizes[mask] < 2000
    count = 3 * 128 * 96
    assert abs(sizes["random"] / (2 * 0.05 * count) - 1) < 0.1
    kept = 3 * math.floor(0.05 * 128 * 96)
    entropy = -count * (0.05 * math.log2(0.05) + 0.95 * math.log2(0.95)) / 8
    for mask in ("magnitude", "breadcrumbs"):
        assert 2 * kept + 0.95 * entropy < sizes[mask] < 2 * kept + 1.05 * entropy + 3 * 8


def test_an_unchanged_model_takes_no_bytes(tmp_path):
    base = state(0)
    for options in ({"lossless": True}, {"keep": 0.5, "mask": "magnitude"}):
        found, stored = round_trip(tmp_path, base, base, **options)
        assert same_bits(found, base)
        assert {(entry["rule"], entry["bytes"]) for entry in stored.values()} == {("base", 0)}


def test_the_files_bytes_do_not_depend_on_threads(tmp_path):
    family(tmp_path, 1)
    before = torch.get_num_threads()
    files = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = tmp_path / str(threads)
            diff(tmp_path / "base", tmp_path / "m0.safetensors", out, keep=0.2, mask="magnitude")
            files.append(out.read_bytes())
    finally:
        torch.set_num_threads(before)
    assert files[0] == files[1]


ARGUMENTS = {
    "keep": ({"keep": 1.5}, ValueError, r"\[diff\] keep must lie in \[0, 1\], got 1.5"),
    "keep nan": ({"keep": math.nan}, ValueError, r"\[diff\] keep must be finite, got nan"),
    "keep kind": ({"keep": "1"}, TypeError, r"\[diff\] keep must be a number, got str"),
    "none": (
        {},
        ValueError,
        r"\[diff\] exactly one of keep, lossless and bits must be given, got keep=None, lossless=False, b",
    ),
    "both": ({"keep": 0.5, "lossless": True}, ValueError, "exactly one of keep, lossless and bits must be"),
    "bits and keep": ({"keep": 0.5, "bits": 1}, ValueError, "exactly one of keep, lossless and bits must be"),
    "bits": ({"bits": 3}, ValueError, r"\[diff\] bits must be one of 1, 2, 4, 8, got 3"),
    "bits kind": ({"bits": True}, ValueError, r"\[diff\] bits must be one of 1, 2, 4, 8, got True"),
    "group": (
        {"bits": 1, "group": 0},
        ValueError,
        r"\[diff\] group must be positive and goes with bits, got 0",
    ),
    "transform": (
        {"bits": 1, "transform": "sign"},
        ValueError,
        r"\[diff\] transform must be one of hadamard, none, got 'sign'",
    ),
    "group alone": (
        {"keep": 1, "group": 4},
        ValueError,
        r"\[diff\] group must be positive and goes with bits",
    ),
    "group kind": (
        {"bits": 1, "group": "col"},
        TypeError,
        r"\[diff\] group must be 'row' or an int, got 'col'",
    ),
    "lossless": ({"lossless": 1}, TypeError, r"\[diff\] lossless must be a bool, got int"),
    "mask": (
        {"keep": 0.5, "mask": "wanda"},
        ValueError,
        r"\[diff\] mask must be one of random, magnitude, bread",
    ),
    "drop_large": (
        {"keep": 0.5, "drop_large": -1},
        ValueError,
        r"\[diff\] drop_large must lie in \[0, 1\], got -1",
    ),
    "seed": ({"keep": 0.5, "seed": -1}, ValueError, r"seed must lie in \[0, 2\*\*64\), got -1"),
    "seed kind": ({"keep": 0.5, "seed": 1.0}, TypeError, "seed must be an int, got float"),
    "name": ({"keep": 0.5, "name": "a\0"}, ValueError, r"\[diff\] name must be printable text, got 'a\\x00'"),
    "no name": ({"keep": 0.5, "name": ""}, ValueError, r"\[diff\] name must be printable text, got ''"),
    "rescale": ({"keep": 0.5, "rescale": "yes"}, TypeError, "rescale must be a number, got str"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments(tmp_path, case):
    options, error, message = ARGUMENTS[case]
    with pytest.raises(error, match=message):
        diff(tmp_path / "not read", tmp_path / "nor this", tmp_path / "out", **options)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("tensor", ["layers.1.linear.weight", "layers.1.norm.weight", "scale"])
@pytest.mark.parametrize("where", ["base", "m0.safetensors"])
def test_nan_and_inf_under_a_mask(tmp_path, value, tensor, where):
    base, models = family(tmp_path, 1)
    bad = {name: x.clone() for name, x in (base if where == "base" else models["m0"]).items()}
    bad[tensor].view(-1)[-1] = value
    save_checkpoint(bad, tmp_path / where, force=True)
    file = tmp_path / where / "model.safetensors" if where == "base" else tmp_path / where
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{file}: tensor '{tensor}' holds NaN or Inf")):
        diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "out", keep=0.5)
    assert listing(tmp_path) == before
    assert diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "out", lossless=True).is_file()


def test_a_rescaled_delta_that_overflows(tmp_path):
    save_checkpoint({"w": torch.zeros(20, 20).half()}, tmp_path / "base")
    save_checkpoint({"w": torch.full((20, 20), 3e4).half()}, tmp_path / "tuned")
    before = listing(tmp_path)
    message = r"tuned/model.safetensors: tensor 'w': base \+ 10.0 \* \(tuned - base\) overflows torch.float16"
    with pytest.raises(ValueError, match=message):
        diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", keep=0.1)
    assert listing(tmp_path) == before


def test_paths_that_are_refused(tmp_path):
    _, models = family(tmp_path, 1)
    base, model = tmp_path / "base", tmp_path / "m0.safetensors"
    file = diff(base, model, tmp_path / "file", lossless=True)
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="file: already exists; --force"):
        diff(base, model, file, lossless=True)
    with pytest.raises(ValueError, match="must be apart from the input"):
        diff(base, model, base / "file", lossless=True)
    with pytest.raises(ValueError, match="must be apart from the input"):
        patch(base, file, file, force=True)
    with pytest.raises(FileNotFoundError, match="its folder"):
        diff(base, model, tmp_path / "deep" / "down", lossless=True)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        diff(base, tmp_path / "nowhere", tmp_path / "out", lossless=True)
    with pytest.raises(ValueError, match="not a delta file but a folder"):
        patch(base, base, tmp_path / "out")
    with pytest.raises(ValueError, match="not a delta file: its metadata have no 'pydelta-delta'"):
        patch(base, model, tmp_path / "out")
    assert listing(tmp_path) == before
    save_checkpoint(models["m0"], tmp_path / "folder")
    with pytest.raises(ValueError, match="folder: a folder is not replaced by a delta file"):
        diff(base, model, tmp_path / "folder", lossless=True, force=True)
    save_checkpoint({f"model.{name}": x for name, x in models["m0"].items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no tensor has name, shape and kind of dtype of one of"):
        diff(base, tmp_path / "other.safetensors", tmp_path / "out", lossless=True)
    assert diff(base, model, file, keep=0.5, force=True) == file
    assert describe(file)["mask"] == "random"


def test_another_base_is_refused(tmp_path):
    base, _ = family(tmp_path, 1)
    file = diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "file", lossless=True)
    changed = {name: x.clone() for name, x in base.items()}
    changed["layers.2.norm.weight"][5] += 1e-6
    save_checkpoint(changed, tmp_path / "changed")
    fewer = {name: x for name, x in base.items() if name != "scale"} | {"position_ids": torch.arange(8)}
    save_checkpoint(fewer, tmp_path / "fewer")
    before = listing(tmp_path)
    message = f"changed: not the base of {file}: tensor 'layers.2.norm.weight' differs"
    with pytest.raises(ValueError, match=re.escape(message)):
        patch(tmp_path / "changed", file, tmp_path / "out")
    message = f"fewer: not the base of {file}: position_ids, scale differ in name, shape or dtype"
    with pytest.raises(ValueError, match=re.escape(message)):
        patch(tmp_path / "fewer", file, tmp_path / "out")
    assert listing(tmp_path) == before


def test_a_base_that_differs_only_where_the_model_has_nothing(tmp_path):
    save_checkpoint({"a": torch.zeros(4, 4), "gone": torch.zeros(4)}, tmp_path / "base")
    save_checkpoint({"a": torch.ones(4, 4)}, tmp_path / "tuned")
    file = diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "file", lossless=True)
    save_checkpoint({"a": torch.zeros(4, 4), "gone": torch.ones(4)}, tmp_path / "changed")
    with pytest.raises(ValueError, match="tensor 'gone' differs"):
        patch(tmp_path / "changed", file, tmp_path / "out")
    assert equal(load_checkpoint(patch(tmp_path / "base", file, tmp_path / "out")), {"a": torch.ones(4, 4)})

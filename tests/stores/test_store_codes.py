"""Low-bit stores: the dial, buckets, what comes back, and how near it is."""

import math
import re

import pytest
import torch
from checkpoints import equal, family, listing, paths, sums

import pydelta
from pydelta import Superposition, save_checkpoint
from pydelta.superposition.format import parts
from pydelta.superposition.writing.buckets import balance_into_buckets
from pydelta.superposition.writing.options import FormArguments


def make(folder, count, *, dtype=torch.float32, **options):
    base, models = family(folder, count, dtype=dtype)
    options = {"force": True, **options}
    return (
        base,
        models,
        Superposition.create(folder / "base", paths(folder, models), folder / "store", **options),
    )


def noise(folder, count, *, rows=96, width=1024, sizes=None):
    """Models whose deltas are Gaussian."""
    generator = torch.Generator().manual_seed(5)
    base = {"w": torch.randn(rows, width, generator=generator)}
    save_checkpoint(base, folder / "base")
    for i in range(count):
        delta = 0.01 * (sizes or [1.0] * count)[i] * torch.randn(rows, width, generator=generator)
        save_checkpoint({"w": base["w"] + delta}, folder / f"m{i}.safetensors")
    return base, paths(folder, [f"m{i}" for i in range(count)])


@pytest.mark.parametrize(
    ("rate", "count", "bits", "buckets", "room"),
    [
        (16, 7, None, 1, None),
        (4, 3, 4, 3, 1),
        (2, 3, 2, 3, 1),
        (1, 3, 1, 3, 1),
        (0.5, 32, 1, 16, 2),
        (0.25, 7, 1, 2, 4),
        (0.125, 1, 1, 1, 8),
    ],
)
def test_the_rate_chooses_bits_and_buckets(rate, count, bits, buckets, room):
    form, found = FormArguments(rate=rate).resolve(count)
    assert (form.bits, found, form.room) == (bits, buckets, room)


def test_the_dial_by_hand():
    assert FormArguments(bits=2, buckets=3).resolve(7)[0].room == 3
    assert FormArguments(bits=2).resolve(7)[0].room == 7
    assert FormArguments(buckets=3).resolve(7) == (FormArguments().resolve(7)[0], 3)
    assert FormArguments(exact=True).resolve(70)[0].room == 70


def test_norms_balance_whatever_the_order():
    powers = {f"m{i}": float(i + 1) for i in range(8)}
    found = balance_into_buckets(powers, 4)
    assert found == balance_into_buckets(dict(reversed(powers.items())), 4)
    assert [len(names) for names in found] == [2] * 4
    assert {sum(powers[name] for name in names) for names in found} == {9.0}
    assert [len(names) for names in balance_into_buckets(powers, 3)] == [3, 3, 2]
    assert balance_into_buckets({"b": 1.0, "a": 1.0, "c": 1.0}, 3) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    ("transform", "shuffle", "bits", "group", "dtype"),
    [
        ("sign", False, 1, "row", torch.float32),
        ("sign", True, 1, "row", torch.bfloat16),
        ("hadamard", False, 2, "row", torch.float32),
        ("none", True, 4, 5, torch.float16),
        ("sign", False, 8, 1, torch.float64),
    ],
)
def test_against_the_formula(tmp_path, transform, shuffle, bits, group, dtype):
    """Codes of the reference's sums, scales in bf16; and what source() gives retrieves the same."""
    options = {"transform": transform, "shuffle_layers": shuffle, "bits": bits, "group": group}
    base, models, store = make(tmp_path, 3, dtype=dtype, buckets=2, **options)
    full = {}
    for i, bucket in enumerate(store.manifest.buckets):
        where = paths(tmp_path, bucket.models)
        out = tmp_path / f"full{i}"
        full |= dict.fromkeys(
            bucket.models,
            Superposition.create(tmp_path / "base", where, out, transform=transform, shuffle_layers=shuffle),
        )
    for model in models:
        found = store.retrieve(model)
        for name, rule in store.manifest.rules.items():
            if rule.rule != "superposed":
                continue
            superposed, key, lam = full[model].source(model, name)
            q = pydelta.quantize(
                superposed.movedim(rule.dim, -1), bits=bits, group=group, backend="reference"
            )
            q.scales.copy_(q.scales.bfloat16())
            expected = pydelta.retrieve(base[name], q, key, lam=lam, transform=transform, dim=rule.dim)
            assert torch.equal(found[name], expected), name
            ours, again, _ = store.source(model, name)
            assert again == key
            assert torch.equal(ours.codes, q.codes)
            assert torch.equal(ours.scales, q.scales)


@pytest.mark.parametrize(("bits", "count"), [(1, 1), (1, 2), (1, 4), (2, 2), (4, 3)])
def test_errors_are_those_of_the_theory(tmp_path, bits, count):
    base, where = noise(tmp_path, count)
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", bits=bits)
    for name, path in where.items():
        true = pydelta.load_checkpoint(path)["w"].double() - base["w"].double()
        got = store.retrieve(name)["w"].double() - base["w"].double()
        error = float((got - true).square().sum() / true.square().sum())
        assert error == pytest.approx(store.interference()[name], rel=0.03)


def test_unequal_norms(tmp_path):
    base, where = noise(tmp_path, 2, sizes=[1.0, 2.0])
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store", bits=2)
    found = store.interference()
    for name, own in (("m0", 1), ("m1", 4)):
        assert found[name] == pytest.approx(5 / (1 - 0.1175) / own - 1, rel=0.05)
        true = pydelta.load_checkpoint(where[name])["w"] - base["w"]
        got = store.retrieve(name)["w"] - base["w"]
        assert float((got - true).square().sum() / true.square().sum()) == pytest.approx(
            found[name], rel=0.03
        )
        per_tensor = store.describe()["models"][name]["tensors"]
        assert per_tensor == {"w": pytest.approx(found[name], rel=1e-4)}


@pytest.mark.parametrize("size", [1, 1000, 1 << 30])
@pytest.mark.parametrize("room", [3, 4])
def test_the_size_of_the_parts_changes_no_bit(tmp_path, monkeypatch, size, room):
    """With the fused codes (a full bucket) and with those of an open one, which are the same."""
    _, models, store = make(tmp_path, 3, bits=1, transform="hadamard", room=3)
    monkeypatch.setattr(parts, "PART_BYTES", size)
    out = tmp_path / "other"
    other = Superposition.create(
        tmp_path / "base", paths(tmp_path, models), out, bits=1, transform="hadamard", room=room
    )
    assert equal(sums(out), sums(store.path))
    assert all(equal(other.retrieve(name), store.retrieve(name)) for name in models)


def test_only_the_newest_bucket_stays_open(tmp_path):
    _, _, store = make(tmp_path, 7, rate=0.25)
    buckets = store.describe()["buckets"]
    assert [(len(bucket["models"]), bucket["open"]) for bucket in buckets] == [(4, False), (3, True)]
    assert len(list(store.path.glob("open-*"))) == 1
    for options in ({"rate": 1}, {"bits": 1}, {"rate": 0.125, "room": 7}):
        where = paths(tmp_path, store.models)
        other = Superposition.create(tmp_path / "base", where, store.path, force=True, **options)
        assert not any(bucket.open for bucket in other.manifest.buckets)


def test_conv1d_codes_run_along_the_input_axis(tmp_path):
    base = {"w": torch.randn(40, 24)}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint({"w": base["w"] + 0.01 * torch.randn(40, 24)}, tmp_path / "m0.safetensors")
    where = paths(tmp_path, ["m0"])
    store = Superposition.create(
        tmp_path / "base", where, tmp_path / "store", bits=1, room=2, input_dims={"w": 0}
    )
    superposed, key, lam = store.source("m0", "w")
    assert superposed.shape == (24, 40)
    expected = pydelta.retrieve(
        base["w"], superposed, key, lam=lam, dim=0, transform=store.manifest.transform
    )
    assert store.manifest.transform == "hadamard"
    assert torch.equal(store.retrieve("m0")["w"], expected)


def test_bytes_are_what_inspect_says(tmp_path):
    _, models, store = make(tmp_path, 3, bits=1, room=4)
    found = store.describe()
    sizes = found["sizes"]
    assert found["bytes"] == sum(map(len, listing(store.path).values()))
    assert found["bytes"] == sum(sizes[k] for k in ("sums", "codes", "scales", "open", "exact", "heads"))
    elements = {n: x.numel() for n, x in models["m0"].items() if x.ndim > 1 and x.numel()}
    assert sizes["sums"] == 0
    assert sizes["open"] == 4 * sum(elements.values())
    assert sizes["codes"] == sum(
        x.nbytes for name, x in sums(store.path).items() if name.startswith("codes/")
    )
    assert sizes["exact"] == 3 * 4 * (3 * 40 + 1)
    assert sum(row["bytes"] for row in found["tensors"]) == found["bytes"] - sizes["heads"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 3}, ValueError, "rate must be one of 16, 4, 2, 1, 0.5, 0.25, 0.125, got 3"),
        ({"bits": 3}, ValueError, "bits must be one of 1, 2, 4, 8, got 3"),
        ({"bits": True}, ValueError, "bits must be one of 1, 2, 4, 8, got True"),
        ({"rate": 1, "bits": 1}, ValueError, "rate chooses bits and buckets: it must be given without them"),
        ({"buckets": 3}, ValueError, "buckets must be at most the number of models, 2, got 3"),
        ({"buckets": 0}, ValueError, "buckets must be at least 1, got 0"),
        ({"bits": 1, "room": "4"}, TypeError, "room must be an int, got str"),
        ({"bits": 1, "room": 1}, ValueError, "room must hold the 2 models of a bucket, got 1"),
        ({"room": 4}, ValueError, "room is of codes and exact sums, got 4: others need none"),
        ({"bits": 1, "group": 7}, ValueError, "group must divide every row, got 7 for embed.weight (40), "),
        ({"bits": 1, "group": "column"}, TypeError, "group must be an int, got str"),
        ({"group": 8}, ValueError, "group is of codes: it must be given with them, got 8"),
        ({"exact": 1}, TypeError, "exact must be a bool, got int"),
        ({"exact": True, "bits": 1}, ValueError, "exact and dtype are of sums in full"),
        ({"exact": True, "dtype": "bf16"}, ValueError, "exact keeps one int32 sum"),
        ({"bits": 1, "dtype": "bf16"}, ValueError, "exact and dtype are of sums in full"),
    ],
)
def test_bad_dials(tmp_path, options, error, message):
    _, models = family(tmp_path, 2)
    before = listing(tmp_path)
    with pytest.raises(error, match=re.escape(f"[compress] {message}")):
        Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store", **options)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 1, "room": 4}, {"exact": True}])
def test_nan_and_inf(tmp_path, bad, options):
    _, models = family(tmp_path, 2)
    models["m1"]["layers.1.linear.weight"][3, 4] = bad
    save_checkpoint(models["m1"], tmp_path / "m1.safetensors", force=True)
    with pytest.raises(
        ValueError, match=r"m1\.safetensors: tensor 'layers\.1\.linear\.weight' holds NaN or Inf"
    ):
        Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()

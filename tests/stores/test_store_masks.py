"""Deltas that are masked before they are superposed."""

import json
import math

import pytest
import torch
from checkpoints import equal, family, listing, paths, sums

import pydelta
from pydelta import Superposition, key, save_checkpoint
from pydelta.cli import main
from pydelta.core.masks import BandMask, MagnitudeMask, RandomMask

MASKS = {
    "magnitude": ({"mask": "magnitude", "keep": 0.3}, lambda k: MagnitudeMask(0.3)),
    "breadcrumbs": ({"mask": "breadcrumbs", "keep": 0.4, "drop_large": 0.05}, lambda k: BandMask(0.4, 0.05)),
    "random": ({"mask": "random", "keep": 0.25}, lambda k: RandomMask(0.25, k)),
}


def make(folder, count=3, *, names=None, dtype=torch.float32, **options):
    base, models = family(folder, count, dtype=dtype)
    where = paths(folder, models)
    given = {name: where[name] for name in names or models}
    return base, models, where, Superposition.create(folder / "base", given, folder / "store", **options)


def files(store):
    return {name: content for name, content in listing(store.path).items() if name != "log.jsonl"}


def masked(base, model, name, tensor, mask):
    """The delta that the store must sum, written out: one mask over the whole tensor."""
    wide = torch.float64 if base[tensor].dtype is torch.float64 else torch.float32
    delta = model[tensor].to(wide) - base[tensor].to(wide)
    return pydelta.mask_rescale(delta, mask(key(42, "mask", name, tensor)), backend="reference")


@pytest.mark.parametrize(
    ("kind", "dtype", "transform"),
    [
        ("magnitude", torch.float32, "hadamard"),
        ("breadcrumbs", torch.bfloat16, "sign"),
        ("breadcrumbs", torch.float64, "none"),
        ("random", torch.float64, "hadamard"),
        ("random", torch.bfloat16, "sign"),
    ],
)
def test_mask_sum_and_retrieve_by_hand(tmp_path, monkeypatch, kind, dtype, transform):
    """Also where a tensor is read in many parts, and whatever its input axis."""
    monkeypatch.setattr("pydelta.superposition.format.parts.PART_BYTES", 512)
    options, mask = MASKS[kind]
    dims = {"layers.1.*": 0}
    base, models, _, store = make(tmp_path, dtype=dtype, transform=transform, input_dims=dims, **options)
    found = sums(store.path)
    back = {name: store.retrieve(name) for name in models}
    for tensor, rule in store.manifest.rules.items():
        if rule.rule != "superposed":
            continue
        kept = [masked(base, model, name, tensor, mask) for name, model in models.items()]
        keys = [key(42, "signs", name, tensor) for name in models]
        told = {"transform": transform, "dim": rule.dim, "backend": "reference"}
        total = pydelta.superpose(torch.zeros_like(kept[0]), kept, keys, **told)
        assert torch.equal(found[tensor], total)
        assert any(bool((x == 0).any()) for x in kept)
        for name, stream in zip(models, keys, strict=True):
            assert torch.equal(back[name][tensor], pydelta.retrieve(base[tensor], total, stream, **told))


@pytest.mark.parametrize("kind", MASKS)
def test_one_masked_model_comes_back_masked(tmp_path, kind):
    options, mask = MASKS[kind]
    base, models, _, store = make(tmp_path, 1, dtype=torch.bfloat16, **options)
    found = store.retrieve("m0")
    for tensor in ("embed.weight", "conv.weight"):
        delta = masked(base, models["m0"], "m0", tensor, mask)
        assert torch.equal(found[tensor], (base[tensor].float() + delta).bfloat16())
    assert torch.equal(found["scale"], models["m0"]["scale"])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("magnitude", {"shuffle_layers": True}), ("breadcrumbs", {}), ("random", {"transform": "hadamard"})],
)
def test_an_exact_store_with_masks_does_not_depend_on_the_order(tmp_path, kind, options):
    options = {**options, **MASKS[kind][0], "exact": True}
    _, _, where, store = make(tmp_path, names=["m1"], **options)
    first = files(store)
    store = store.add("m2", where["m2"]).add("m0", where["m0"])
    whole = Superposition.create(tmp_path / "base", where, tmp_path / "whole", **options)
    assert files(store) == files(whole)
    assert files(store.remove("m2", where["m2"]).remove("m0", where["m0"])) == first


@pytest.mark.parametrize("kind", MASKS)
def test_codes_are_of_the_masked_sum(tmp_path, kind):
    options, mask = MASKS[kind]
    base, models, where, store = make(tmp_path, bits=2, room=3, transform="sign", **options)
    kept = [masked(base, model, name, "embed.weight", mask) for name, model in models.items()]
    keys = [key(42, "signs", name, "embed.weight") for name in models]
    codes = pydelta.superpose(torch.zeros_like(kept[0]), kept, keys, bits=2)
    assert torch.equal(sums(store.path)["codes/embed.weight"], codes.codes)
    first = {name: where[name] for name in ("m0", "m1")}
    less = Superposition.create(
        tmp_path / "base", first, tmp_path / "less", bits=2, room=3, transform="sign", **options
    )
    assert equal(sums(less.add("m2", where["m2"]).path), sums(store.path))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("magnitude", {"bits": 1}),
        ("breadcrumbs", {"buckets": 2, "shuffle_layers": True}),
        ("random", {"weights": {"m1": 2.0}}),
    ],
)
def test_expected_errors_count_the_mask(tmp_path, kind, options):
    _, models, where, store = make(tmp_path, 4, **MASKS[kind][0], **options)
    found = store.describe()["models"]
    for name in models:
        measured = store.measure(name, where[name])
        assert measured[""] == pytest.approx(found[name]["expected_error"], rel=0.15)
        base, got = pydelta.load_checkpoint(tmp_path / "base"), store.retrieve(name)
        names = list(found[name]["tensors"])
        true, back = (
            torch.cat([(state[t].double() - base[t].double()).view(-1) for t in names])
            for state in (models[name], got)
        )
        cosine = float(true @ back / true.norm() / back.norm())
        assert found[name]["expected_cosine"] == pytest.approx(cosine, abs=0.03)
        assert found[name]["norm"] < 1.1 / math.sqrt(0.25) * float(true.norm())


def test_what_is_recorded(tmp_path):
    _, _, where, store = make(tmp_path, names=["m0"], mask="breadcrumbs", keep=0.5)
    content = json.loads((store.path / "store.json").read_text())
    assert [content[field] for field in ("version", "mask", "keep", "drop_large")] == [
        3,
        "breadcrumbs",
        0.5,
        0.01,
    ]
    assert store.add("m1", where["m1"]).describe()["drop_large"] == 0.01
    assert Superposition.verify(store.path, base=tmp_path / "base") == []


@pytest.mark.parametrize("kind", MASKS)
def test_what_a_mask_would_hide_is_refused(tmp_path, kind):
    _, models, where, store = make(tmp_path, names=["m0"], **MASKS[kind][0])
    before = listing(store.path)
    for value in (float("nan"), float("inf")):
        torn = {name: x.clone() for name, x in models["m1"].items()}
        torn["embed.weight"][3, 3] = value
        save_checkpoint(torn, where["m1"], force=True)
        with pytest.raises(ValueError, match=r"m1\.safetensors: tensor 'embed\.weight' holds NaN or Inf"):
            store.add("m1", where["m1"])
        assert listing(store.path) == before


BAD = [
    ({"mask": "wanda", "keep": 0.5}, ValueError, "mask must be one of random, magnitude, breadcrumbs, got"),
    ({"mask": "random"}, ValueError, "mask and keep must be given together, got mask=random, keep=None"),
    ({"keep": 0.5}, ValueError, "mask and keep must be given together, got mask=None, keep=0.5"),
    ({"mask": "random", "keep": 0}, ValueError, r"keep must lie in \(0, 1\], got 0.0"),
    ({"mask": "random", "keep": 1.5}, ValueError, r"keep must lie in \(0, 1\], got 1.5"),
    ({"mask": "random", "keep": float("nan")}, ValueError, r"keep must lie in \(0, 1\], got nan"),
    ({"mask": "random", "keep": "1"}, TypeError, "keep must be a number, got str"),
    ({"mask": "random", "keep": 1, "drop_large": 0.1}, ValueError, "drop_large must go with breadcrumbs"),
    ({"mask": "breadcrumbs", "keep": 1, "drop_large": 1}, ValueError, r"drop_large must lie in \[0, 1\)"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(tmp_path, options, error, message):
    with pytest.raises(error, match=rf"^\[compress\] {message}"):
        Superposition.create("base", {"a": "a"}, tmp_path / "store", **options)
    assert listing(tmp_path) == {}


def test_the_command(tmp_path, monkeypatch, capsys):
    family(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    words = ["compress", "--base", "base", "--model", "m0.safetensors", "--model", "m1.safetensors"]
    assert main([*words, "-o", "store", "--mask", "magnitude", "--keep", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mask"], found["keep"], found["drop_large"]) == ("magnitude", 0.2, None)
    assert main(["inspect", "store"]) == 0
    assert "mask magnitude, keep 0.2\n" in capsys.readouterr().out
    where = {f"m{i}.safetensors": f"m{i}.safetensors" for i in range(2)}
    same = Superposition.create("base", where, "same", mask="magnitude", keep=0.2)
    assert equal(sums(same.path), sums(tmp_path / "store"))
    for flags, code, message in [
        (["--keep", "0.2"], 1, "[compress] mask and keep must be given together"),
        (["--mask", "random", "--keep", "0"], 1, "[compress] keep must lie in (0, 1], got 0"),
    ]:
        assert main([*words, "-o", "new", *flags]) == code
        assert capsys.readouterr().err.startswith(f"pydelta compress: {message}")
    for flags, message in [
        (["--mask", "random", "--keep", "2"], "argument --keep: must lie in [0, 1], got 2"),
        (["--mask", "random", "--keep", "nan"], "argument --keep: must lie in [0, 1], got nan"),
        (["--mask", "wanda", "--keep", "1"], "argument --mask: invalid choice: 'wanda'"),
    ]:
        with pytest.raises(SystemExit) as caught:
            main([*words, "-o", "new", *flags])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

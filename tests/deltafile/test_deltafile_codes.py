"""Delta files of low-bit codes: what comes back, how many bytes it takes, what is refused."""

import json
import re

import pytest
import torch
from checkpoints import equal, family, listing, state, tuned
from delta_files import manifest, refused, rewrite, round_trip

from pydelta import key, load_checkpoint, quantize, retrieve, rotate, save_checkpoint
from pydelta.cli import main
from pydelta.core.quantized import Quantized
from pydelta.deltafile import describe, diff, patch
from pydelta.reference import dequantize

MATRICES = {"embed.weight": (30, 40), "layers.0.linear.weight": (24, 40), "conv.weight": (6, 45)}


def restored(base, model, bits, group, stream=None):
    """base + the values of the codes, written out; scales pass through bfloat16, a stream rotates."""
    compute = torch.float64 if base.dtype is torch.float64 else torch.float32
    delta = model.to(compute) - base.to(compute)
    rotated = rotate(delta, stream, backend="reference") if stream else delta
    rotated = 0.0 + rotated  # the sum of a superposition starts at +0
    q = quantize(rotated, bits=bits, group=group, backend="reference")
    scales = q.scales.bfloat16().float()
    values = dequantize(Quantized(q.codes, scales, bits, group, q.shape, q.dtype), dtype=torch.float32)
    values = values.to(compute)
    back = rotate(values, stream, inverse=True, backend="reference") if stream else values
    return (base.to(compute) + back).to(base.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("bits", "group"), [(1, "row"), (1, 5), (2, "row"), (4, 5), (8, "row")])
@pytest.mark.parametrize("transform", ["hadamard", "none"])
def test_what_comes_back(tmp_path, dtype, bits, group, transform):
    """Matrices from their codes; a kernel's rows are all axes but the first; the rest bit for bit."""
    base = state(0, dtype=dtype, layers=1)
    model = tuned(base, 1)
    found, stored = round_trip(
        tmp_path, base, model, bits=bits, group=group, transform=transform, seed=3, name="m"
    )
    for name, x in model.items():
        if name not in MATRICES:
            assert torch.equal(found[name], x)
            assert stored[name]["rule"] in ("base", "whole", "coded")
            continue
        rows, length = MATRICES[name]
        stream = key(3, "signs", "m", name) if transform == "hadamard" else None
        expected = restored(base[name].view(rows, length), x.view(rows, length), bits, group, stream)
        assert torch.equal(found[name], expected.view(x.shape))
        size = length if group == "row" else group
        assert stored[name]["rule"] == "quantized"
        assert stored[name]["bytes"] == rows * ((length * bits + 7) // 8 + 2 * length // size)


def test_rows_of_three_axes(tmp_path):
    """Experts keep a scale for each row."""
    base = {"experts": torch.zeros(3, 4, 64), "kernel": torch.zeros(4, 8, 63)}
    model = {name: torch.randn(x.shape) for name, x in base.items()}
    round_trip(tmp_path, base, model, bits=1)
    shapes = {name: tuple(x.shape) for name, x in load_checkpoint(tmp_path / "file").items()}
    assert shapes == {
        "codes/experts": (12, 8),
        "scales/experts": (12, 1),
        "codes/kernel": (4, 63),
        "scales/kernel": (4, 1),
    }


def test_the_bytes_as_written_down(tmp_path):
    """docs/formats.md, without the package's own decoder: minus is 1, the first column the lowest bit."""
    signs = torch.tensor([1, -1, -1, 1, 1, 1, -1, 1, -1, 1.0])
    delta = torch.stack([2 * signs, torch.cat([3 * signs[:9], torch.tensor([6.0])])])
    save_checkpoint({"w": torch.zeros(2, 10)}, tmp_path / "base")
    save_checkpoint({"w": delta}, tmp_path / "tuned")
    file = diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "f.safetensors", bits=1, transform="none")
    stored = load_checkpoint(file)
    assert stored["codes/w"].tolist() == [[0b01000110, 0b01], [0b01000110, 0b01]]
    # ||x||^2 / ||x||_1: 40 / 20, and 117 / 33 = 3.5454, which bfloat16 rounds to 3.546875.
    assert stored["scales/w"].dtype is torch.bfloat16
    assert stored["scales/w"].tolist() == [[2.0], [3.546875]]
    content = manifest(file)
    fields = ("version", "bits", "group", "transform")
    assert tuple(content[field] for field in fields) == (2, 1, "row", "none")
    assert content["tensors"] == {"w": {"rule": "quantized"}}
    found = load_checkpoint(patch(tmp_path / "base", file, tmp_path / "out"))["w"]
    assert torch.equal(found, torch.stack([2 * signs, 3.546875 * torch.cat([signs[:9], torch.ones(1)])]))


def test_other_kinds_stay_at_version_1(tmp_path):
    family(tmp_path, 1)
    for i, options in enumerate(({"lossless": True}, {"keep": 0.5})):
        file = diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / f"{i}.safetensors", **options)
        content = manifest(file)
        assert content["version"] == 1
        assert not {"bits", "group", "transform"} & content.keys()


def test_what_takes_no_more_bytes_is_exact(tmp_path):
    base = {"few": torch.randn(40, 64), "same": torch.randn(40, 64), "thin": torch.randn(64, 1).bfloat16()}
    model = {name: x.clone() for name, x in base.items()}
    model["few"][[3, 17], [5, 60]] += 1
    model["thin"] += 1
    found, stored = round_trip(tmp_path, base, model, bits=1)
    assert equal(found, model)
    assert {name: entry["rule"] for name, entry in stored.items()} == {
        "few": "coded",
        "same": "base",
        "thin": "whole",
    }


def test_one_bit_is_a_sixteenth_and_unbiased(tmp_path):
    """<x, q> = ||x||^2 up to the rounding of scales; the relative error is pi / 2 - 1 on Gaussian data."""
    torch.manual_seed(0)
    base, model = {"w": torch.zeros(64, 1024)}, {"w": torch.randn(64, 1024)}
    found, stored = round_trip(tmp_path, base, model, bits=1)
    x, q = model["w"].double(), found["w"].double()
    assert abs((x * q).sum() / x.square().sum() - 1) < 2**-9
    assert abs((q - x).square().sum() / x.square().sum() / (torch.pi / 2 - 1) - 1) < 0.03
    assert stored["w"]["bytes"] == 64 * (128 + 2)


def test_a_rotation_lets_errors_average_out(tmp_path):
    """Inputs come in 32 copies, as an enlarged picture's pixels do, and so do the columns of the delta. Plain
    codes err alike on all copies; rotated ones do not, and the output's error falls by about sqrt(32)."""
    torch.manual_seed(0)
    inputs = torch.randn(100, 32).repeat_interleave(32, 1)
    base, model = {"w": torch.zeros(64, 1024)}, {"w": torch.randn(64, 32).repeat_interleave(32, 1)}
    errors = {}
    for transform in ("hadamard", "none"):
        found, _ = round_trip(tmp_path, base, model, bits=1, transform=transform)
        expected = inputs @ model["w"].T
        errors[transform] = ((inputs @ found["w"].T - expected).norm() / expected.norm()).item()
    assert errors["none"] > 0.6
    assert errors["hadamard"] < 0.2


def test_the_fused_pass_is_the_written_out_one():
    """`none` leaves the codes alone: no key matters."""
    base, x = torch.randn(5, 16), torch.randn(5, 16)
    q = quantize(x, bits=2)
    first, second = (retrieve(base, q, key(seed), transform="none") for seed in (1, 2))
    assert torch.equal(first, second)
    assert torch.equal(first, base + dequantize(q))


@pytest.mark.parametrize("name", ["base", "m0.safetensors"])
def test_nan_is_refused(tmp_path, name):
    base, models = family(tmp_path, 1)
    bad = dict(base if name == "base" else models["m0"])
    bad["scale"] = torch.tensor(torch.nan)
    save_checkpoint(bad, tmp_path / name, force=True)
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="tensor 'scale' holds NaN or Inf"):
        diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "out", bits=1)
    assert listing(tmp_path) == before


def test_a_group_must_divide_every_row(tmp_path):
    family(tmp_path, 1)
    before = listing(tmp_path)
    message = "m0.safetensors: tensor 'conv.weight': .*group must divide the row length 45, got 8"
    with pytest.raises(ValueError, match=message):
        diff(tmp_path / "base", tmp_path / "m0.safetensors", tmp_path / "out", bits=1, group=8)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("dtype", "large"), [(torch.float16, 6e4), (torch.float32, 3e38)], ids=["result", "delta"]
)
def test_a_restored_value_that_overflows(tmp_path, dtype, large):
    """A row's scale is added to what did not change, too; in float32 the delta itself overflows."""
    base, model = torch.full((8, 32), large).to(dtype), torch.full((8, 32), large).to(dtype)
    base[:, ::2] = 0 if dtype is torch.float16 else -large
    save_checkpoint({"w": base}, tmp_path / "base")
    save_checkpoint({"w": model}, tmp_path / "tuned")
    before = listing(tmp_path)
    message = rf"tuned/model.safetensors: tensor 'w': base \+ the codes of tuned - base overflows {dtype}"
    with pytest.raises(ValueError, match=message):
        diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "out", bits=1)
    assert listing(tmp_path) == before


@pytest.fixture
def file(tmp_path):
    """Codes of a (6, 20) tensor w; a vector v stored whole, and an integer matrix n as it was."""
    base = {"w": torch.randn(6, 20), "v": torch.zeros(3), "n": torch.ones(2, 2, dtype=torch.int32)}
    model = {**base, "w": base["w"] + torch.randn(6, 20), "v": torch.ones(3)}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint(model, tmp_path / "tuned.safetensors")
    return diff(tmp_path / "base", tmp_path / "tuned.safetensors", tmp_path / "f.safetensors", bits=2)


def set_tensor(name, value):
    return lambda content, tensors: tensors.update({name: value})


def set_scale(value):
    def change(content, tensors):
        tensors["scales/w"][4, 0] = value

    return change


def quantized_rule(name):
    def change(content, tensors):
        content["tensors"][name] = {"rule": "quantized"}
        tensors.pop(f"values/{name}", None)
        tensors[f"codes/{name}"] = torch.zeros(2, 1, dtype=torch.uint8)
        tensors[f"scales/{name}"] = torch.ones(2, 1).bfloat16()

    return change


CONTENTS = {
    "no codes": (lambda c, t: t.pop("codes/w"), "tensor 'w': 'codes/w' is missing"),
    "no scales": (lambda c, t: t.pop("scales/w"), "tensor 'w': 'scales/w' is missing"),
    "truncated codes": (
        lambda c, t: t.update({"codes/w": t["codes/w"][:, :4].clone()}),
        "tensor 'w': 'codes/w' must be U8 of shape [6, 5], got U8 of shape [6, 4]",
    ),
    "dtype of codes": (
        set_tensor("codes/w", torch.zeros(6, 5, dtype=torch.int8)),
        "tensor 'w': 'codes/w' must be U8 of shape [6, 5], got I8 of shape [6, 5]",
    ),
    "shape of scales": (
        set_tensor("scales/w", torch.ones(6).bfloat16()),
        "tensor 'w': 'scales/w' must be BF16 of shape [6, 1], got BF16 of shape [6]",
    ),
    "dtype of scales": (
        set_tensor("scales/w", torch.ones(6, 1)),
        "tensor 'w': 'scales/w' must be BF16 of shape [6, 1], got F32 of shape [6, 1]",
    ),
    "nan": (set_scale(torch.nan), "tensor 'w': its scales must be finite and not negative"),
    "infinity": (set_scale(torch.inf), "tensor 'w': its scales must be finite and not negative"),
    "negative": (set_scale(-1.0), "tensor 'w': its scales must be finite and not negative"),
    "other bits": (lambda c, t: c.update(bits=4), "'codes/w' must be U8 of shape [6, 10], got U8 of sh"),
    "other group": (lambda c, t: c.update(group=10), "'scales/w' must be BF16 of shape [6, 2], got BF16"),
    "group": (lambda c, t: c.update(group=7), "tensor 'w': groups of 7 do not divide rows of 20"),
    "version 1": (
        lambda c, t: c.update(version=1),
        "tensor 'w': its rule is quantized, but the file states no bits",
    ),
    "vector": (quantized_rule("v"), "tensor 'v': no codes apply to F32 of shape [3]"),
    "integers": (quantized_rule("n"), "tensor 'n': no codes apply to I32 of shape [2, 2]"),
    "no base": (lambda c, t: c["base"]["tensors"].pop("w"), "tensor 'w': the base has no such tensor"),
    "rice": (
        lambda c, t: c["tensors"]["w"].update(rice=1),
        "tensors.w.rice must be absent with the rule quantized",
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents_that_are_not_sound(file, case):
    change, message = CONTENTS[case]
    rewrite(file, change)
    refused(file, message)


def test_an_older_reader_refuses_by_the_version(file, monkeypatch):
    monkeypatch.setattr("pydelta.deltafile.parse.VERSION", 1)
    message = f"{file}: version 2 of the format was written by a newer pydelta"
    with pytest.raises(ValueError, match=re.escape(message)):
        describe(file)


def test_the_command(file, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    again = ["diff", "base", "tuned.safetensors", "-o", "g.safetensors", "--bits", "2", "--name", "m"]
    assert main([*again, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("bits", "group", "transform", "mask")] == [2, "row", "hadamard", None]
    assert main([*again, "--force", "--group", "10"]) == 0
    assert capsys.readouterr().out.endswith(" bytes; tensors: 1 base, 1 quantized, 1 whole\n")
    assert main(["inspect", "g.safetensors"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "model m, bits 2, group 10, transform hadamard, seed 42"
    assert main(["patch", "base", "f.safetensors", "-o", "out", "--quiet"]) == 0
    base, model, out = (load_checkpoint(name) for name in ("base", "tuned.safetensors", "out"))
    stream = key(42, "signs", "tuned.safetensors", "w")
    assert torch.equal(out["w"], restored(base["w"], model["w"], 2, "row", stream))

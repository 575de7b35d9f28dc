"""fp8 and MXFP4 checkpoints read as bf16, held against transformers' own formulas."""

import json

import pytest
import torch
from checkpoints import equal

from pydelta import Superposition, load_checkpoint, merge, prune, save_checkpoint
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.quantised.dequantised import Dequantised
from pydelta.cli.main import main
from pydelta.merging.similarity import similarity

GENERATOR = torch.Generator().manual_seed(1)
LAYER = "model.layers.0.mlp.up_proj"


def fp8(*shape):
    return torch.randn(*shape, generator=GENERATOR).to(torch.float8_e4m3fn)


def checkpoint(folder, tensors, **config):
    save_checkpoint(tensors, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return Dequantised(folder)


def product(weight, scale, block):
    """weight * scale, spelled out."""
    rows = scale.float().repeat_interleave(block[0], -2)[..., : weight.shape[-2], :]
    return (weight.float() * rows.repeat_interleave(block[1], -1)[..., : weight.shape[-1]]).bfloat16()


SHAPES = [
    ((256, 384), (2, 3), None, (128, 128)),
    ((300, 200), (3, 2), None, (128, 128)),  # blocks that are cut off
    ((64, 96), (2, 2), [32, 48], (32, 48)),
    ((48, 32), (48, 1), None, (1, 32)),  # a scale a row
    ((48, 32), (1, 1), None, (48, 32)),
    ((3, 256, 130), (3, 2, 2), None, (128, 128)),  # fused experts
]


@pytest.mark.parametrize(("shape", "scales", "size", "block"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_blocks(tmp_path, shape, scales, size, block, dtype):
    weight, scale = fp8(*shape), (torch.rand(*scales, generator=GENERATOR) + 0.5).to(dtype)
    tensors = {f"{LAYER}.weight": weight, f"{LAYER}.weight_scale_inv": scale, "norm": torch.ones(3)}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": size}}
    model = checkpoint(tmp_path / "m", tensors, **config)
    want = product(weight, scale, block)
    assert model.names == (("norm", f"{LAYER}.weight"))
    assert (model.dtype(f"{LAYER}.weight"), model.shape(f"{LAYER}.weight")) == ("BF16", shape)
    assert torch.equal(model.tensor(f"{LAYER}.weight"), want)
    for start in (0, 1, want.numel() // 2 + 1, want.numel() - 5):
        part = model.read(f"{LAYER}.weight", torch.empty(5, dtype=torch.bfloat16), start)
        assert torch.equal(part, want.view(-1)[start : start + 5])
    save_checkpoint({f"{LAYER}.weight": want}, tmp_path / "bf16")
    for sampled in (False, True):
        digests = [
            tensor_digest(c, f"{LAYER}.weight", sampled=sampled)
            for c in (model, Dequantised(tmp_path / "bf16"))
        ]
        assert digests[0] == digests[1]


@pytest.mark.parametrize("scale", [torch.tensor(0.25), torch.tensor([0.25])])
def test_fp8_with_one_scale_and_those_of_activations(tmp_path, scale):
    weight = fp8(16, 32)
    tensors = {"q.weight": weight, "q.weight_scale": scale, "q.input_scale": torch.tensor(3.0)}
    model = checkpoint(tmp_path / "m", tensors)
    assert model.names == ("q.weight",)
    assert torch.equal(model.tensor("q.weight"), (weight.float() * 0.25).bfloat16())


def test_scales_as_exponents(tmp_path):
    weight, bytes_ = fp8(256, 128), torch.tensor([[127], [130]], dtype=torch.uint8)
    want = product(weight, torch.tensor([[1.0], [8.0]]), (128, 128))
    for i, scale in enumerate((bytes_, bytes_.view(torch.float8_e8m0fnu))):
        model = checkpoint(tmp_path / str(i), {"q.weight": weight, "q.weight_scale_inv": scale})
        assert torch.equal(model.tensor("q.weight"), want)


def test_as_transformers_does_it(tmp_path):
    fp8_module = pytest.importorskip("transformers.integrations.finegrained_fp8")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    weight, scale = fp8(256, 384), torch.rand(2, 3, generator=GENERATOR)
    blocks, scales = experts()
    tensors = {"q.weight": weight, "q.weight_scale_inv": scale, "e.up_blocks": blocks, "e.up_scales": scales}
    model = checkpoint(tmp_path / "m", tensors)
    theirs = fp8_module.Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16)
    assert torch.equal(model.tensor("q.weight"), theirs)
    assert torch.equal(model.tensor("e.up"), mxfp4.convert_moe_packed_tensors(blocks, scales))


def experts():
    blocks = torch.randint(0, 256, (3, 24, 5, 16), generator=GENERATOR).to(torch.uint8)
    return blocks, torch.randint(118, 134, (3, 24, 5), generator=GENERATOR).to(torch.uint8)


def test_mxfp4_blocks_part_by_part(tmp_path):
    blocks, scales = experts()
    model = checkpoint(
        tmp_path / "m", {"e.up_blocks": blocks, "e.up_scales": scales, "e.up_bias": torch.ones(3, 24)}
    )
    assert set(model.names) == {"e.up", "e.up_bias"}
    assert model.shape("e.up") == (3, 160, 24)
    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([values, -values])
    pairs = torch.stack([values[(blocks & 15).long()], values[(blocks >> 4).long()]], -1).flatten(-2)
    want = (pairs * torch.exp2(scales.float() - 127)[..., None]).flatten(-2).transpose(1, 2).bfloat16()
    assert torch.equal(model.tensor("e.up"), want)
    size = 160 * 24
    for start, count in ((0, 7), (size - 3, size + 6), (2 * size + 11, size - 11)):
        part = model.read("e.up", torch.empty(count, dtype=torch.bfloat16), start)
        assert torch.equal(part, want.reshape(-1)[start : start + count])


def test_merge_prune_and_similarity_over_a_bf16_base(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"q.weight": torch.randn(256, 128, generator=GENERATOR).bfloat16(), "norm": torch.ones(8)}
    save_checkpoint(base, "base")
    config = {"dtype": "float8_e4m3fn", "quantization_config": {"quant_method": "fp8"}}
    for name in "ab":
        tensors = {
            "q.weight": fp8(256, 128),
            "q.weight_scale_inv": torch.rand(2, 1),
            "norm": torch.ones(8) * 2,
        }
        save_checkpoint(tensors, name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        save_checkpoint(load(Dequantised(name)), f"{name}-bf16")
    wide = {name: f"{name}-bf16" for name in "ab"}
    merge("base", wide, method="task_arithmetic", weights=0.5, out="wanted.safetensors")
    merge(
        "base",
        {n: n for n in "ab"},
        method="task_arithmetic",
        weights=0.5,
        dequantize=True,
        out="out.safetensors",
    )
    assert equal(load_checkpoint("out.safetensors"), load_checkpoint("wanted.safetensors"))
    prune("base", "a", method="magnitude", keep=0.25, dequantize=True, out="pruned")
    prune("base", "a-bf16", method="magnitude", keep=0.25, out="wanted")
    assert equal(load_checkpoint("pruned"), load_checkpoint("wanted"))
    assert json.loads((tmp_path / "pruned/config.json").read_text()) == {"dtype": "bfloat16"}
    assert similarity("base", {"a": "a"}, dequantize=True).norms == similarity("base", {"a": "a-bf16"}).norms
    args = ["prune", "base", "a", "--method", "random", "--keep", "0.5", "-o", "x", "--quiet"]
    assert main(args) == 1
    assert "read fp8 and MXFP4 as bf16 with --dequantize" in capsys.readouterr().err
    assert main([*args, "--dequantize"]) == 0


def test_stores_and_delta_files_over_a_bf16_base(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint({"q.weight": torch.randn(256, 128, generator=GENERATOR).bfloat16()}, "base")
    (tmp_path / "base/config.json").write_text('{"dtype": "bfloat16", "n": 1}')
    config = {"dtype": "float8_e4m3fn", "n": 2, "quantization_config": {"quant_method": "fp8"}}
    wanted = {}
    for name in "ab":
        save_checkpoint({"q.weight": fp8(256, 128), "q.weight_scale_inv": torch.rand(2, 1)}, name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        wanted[name] = load(Dequantised(name))
    flags = ["--dequantize", "--quiet"]
    assert main(["compress", "--base", "base", "--model", "a", "-o", "store", *flags]) == 0
    assert main(["retrieve", "store", "a", "-o", "out", "--quiet"]) == 0
    assert equal(load_checkpoint("out"), wanted["a"])
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"dtype": "bfloat16", "n": 2}
    assert main(["add", "store", "--model", "b", *flags]) == 0
    assert main(["remove", "store", "b", "--model", "b", *flags]) == 0
    assert main(["diff", "base", "a", "-o", "a.delta", "--lossless", *flags]) == 0
    assert main(["patch", "base", "a.delta", "-o", "patched", "--quiet"]) == 0
    assert equal(load_checkpoint("patched"), wanted["a"])
    store = Superposition.create("base", {"b": Dequantised("b")}, "other")
    assert equal(store.retrieve("b"), wanted["b"])


def load(model):
    return {name: model.tensor(name) for name in model.names}


@pytest.mark.parametrize(
    "tensors",
    [
        {"q.qweight": torch.ones(4, 8, dtype=torch.int32), "q.scales": torch.ones(1, 8)},
        {"q.weight": torch.ones(4, 8).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.ones(3, 7)},
        {
            "e.up_blocks": torch.ones(2, 4, 16, dtype=torch.uint8),
            "e.up_scales": torch.ones(2, 4, dtype=torch.uint8),
        },
    ],
    ids=["gptq", "odd scales", "two axes"],
)
def test_other_quantised_weights_are_refused_by_name(tmp_path, tensors):
    with pytest.raises(ValueError, match=rf"{next(iter(tensors))} \(.*\) cannot be dequantised here: fp8"):
        checkpoint(tmp_path / "m", tensors)

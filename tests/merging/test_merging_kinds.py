"""What is not merged: positions and counters, integers that differ, quantised weights and their scales."""

import pytest
import torch
from checkpoints import state, tuned

from pydelta import load_checkpoint, merge, prune, save_checkpoint
from pydelta.cli.main import main
from pydelta.merging.similarity import similarity

BASE = state(0)
GENERATOR = torch.Generator().manual_seed(3)


def saved(folder, models):
    for name, tensors in models.items():
        save_checkpoint(tensors, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in models}


def integers(*shape, dtype=torch.int32):
    return torch.randint(0, 100, shape, generator=GENERATOR).to(dtype)


def gptq():
    return {"q.qweight": integers(4, 32), "q.qzeros": integers(1, 4), "q.scales": torch.rand(1, 32).half()}


def awq():
    return {"q.qweight": integers(32, 4), "q.qzeros": integers(2, 4), "q.scales": torch.rand(2, 32).half()}


def bitsandbytes():
    return {
        "q.weight": integers(512, 1, dtype=torch.uint8),
        "q.weight.absmax": torch.rand(16),
        "q.weight.quant_state.bitsandbytes__nf4": integers(80, dtype=torch.uint8),
    }


def int8():
    return {"q.weight": integers(8, 16, dtype=torch.int8), "q.SCB": torch.rand(8)}


def mxfp4():
    return {
        "experts.up_blocks": integers(2, 8, 4, 16, dtype=torch.uint8),
        "experts.up_scales": integers(2, 8, 4, dtype=torch.uint8),
        "experts.up_bias": torch.rand(2, 8),
    }


def fp8():
    return {
        "q.weight": torch.rand(16, 16).to(torch.float8_e4m3fn),
        "q.weight_scale_inv": torch.rand(1, 1),
    }


def compressed():
    return {
        "q.weight_packed": integers(8, 4),
        "q.weight_scale": torch.rand(8, 1).bfloat16(),
        "q.weight_shape": torch.tensor([8, 32]),
    }


def torchao():
    return {"q._weight_qdata": integers(8, 16, dtype=torch.int8), "q._weight_scale": torch.rand(8, 1)}


@pytest.mark.parametrize("make", [gptq, awq, bitsandbytes, int8, mxfp4, fp8, compressed, torchao])
def test_quantised_models_are_refused_in_one_sentence(tmp_path, make):
    models = {name: {"norm.weight": torch.rand(8), **make()} for name in ("base", "a", "b")}
    paths = saved(tmp_path, models)
    both = {name: paths[name] for name in "ab"}
    for refused in (
        lambda: merge(paths["base"], both, method="task_arithmetic", out=tmp_path / "out"),
        lambda: merge(None, both, method="linear", out=tmp_path / "out"),
        lambda: merge(models["base"], {"a": models["a"]}, method="ties"),
        lambda: prune(paths["base"], paths["a"], method="magnitude", keep=0.5, out=tmp_path / "out"),
        lambda: similarity(paths["base"], both),
    ):
        with pytest.raises(
            ValueError, match=r"is quantised \(.* is .*\): quantised weights and their scales"
        ):
            refused()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [gptq, mxfp4, fp8])
def test_quantised_weights_that_all_share_stay_as_they_are(tmp_path, make):
    packed = make()
    models = {name: {"w": torch.full((4, 4), x), **packed} for name, x in (("base", 1.0), ("a", 2.0))}
    paths = saved(tmp_path, models)
    merged = load_checkpoint(
        merge(paths["base"], {"a": paths["a"]}, method="task_arithmetic", weights=0.5, out=tmp_path / "out")
    )
    assert torch.equal(merged.pop("w"), torch.full((4, 4), 1.5))
    for name, x in packed.items():
        assert torch.equal(merged[name].view(torch.uint8), x.view(torch.uint8))


def test_a_quantised_model_over_a_float_base_is_one_sentence(tmp_path):
    paths = saved(tmp_path, {"base": {"q.weight": torch.rand(16, 16)}, "a": fp8()})
    with pytest.raises(ValueError, match=r"a \(.*a.safetensors\) is quantised") as caught:
        merge(paths["base"], {"a": paths["a"]}, method="ties", out=tmp_path / "out")
    assert "lacks" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_integers_that_differ_are_refused_by_name(tmp_path, dtype):
    base = {"w": torch.rand(4, 4), "vocabulary_map": torch.tensor([1, 0, 1]).to(dtype)}
    models = {"base": base, "a": base, "b": {**base, "vocabulary_map": torch.tensor([0, 0, 1]).to(dtype)}}
    paths = saved(tmp_path, models)
    for base, method in ((paths["base"], "task_arithmetic"), (None, "linear")):
        with pytest.raises(ValueError, match=r"b \(.*\): integers cannot be merged, and .* vocabulary_map"):
            merge(base, {name: paths[name] for name in "ab"}, method=method, out=tmp_path / "out")
    pruned = load_checkpoint(
        prune(paths["base"], paths["b"], method="random", keep=0.5, out=tmp_path / "pruned")
    )
    assert torch.equal(
        pruned["vocabulary_map"], models["b"]["vocabulary_map"]
    )  # what is not pruned is its own


def test_counters_may_differ(tmp_path):
    models = {
        name: {"w": torch.rand(4), "bn.num_batches_tracked": torch.tensor(i)} for i, name in enumerate("xab")
    }
    paths = saved(tmp_path, models)
    merged = merge(paths["x"], {n: paths[n] for n in "ab"}, method="task_arithmetic", out=tmp_path / "out")
    assert load_checkpoint(merged)["bn.num_batches_tracked"] == 0


@pytest.mark.parametrize("name", ["embeddings.position_ids", "anything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_positions_are_never_averaged(tmp_path, name, dtype):
    positions = torch.arange(300).view(1, 300)
    models = {n: {"w": torch.full((2, 2), 1.0), name: positions.to(dtype)} for n in "ab"}
    models["b"] = {**models["b"], name: positions.float()}
    paths = saved(tmp_path, models)
    files = load_checkpoint(
        merge(None, paths, method="linear", weights=[0.5, 0.3], normalize=False, out=tmp_path / "out")
    )
    memory = merge(None, models, method="linear", weights=[0.5, 0.3], normalize=False)
    for merged in (files, memory):
        assert torch.equal(merged[name], positions.to(dtype))
        assert torch.equal(merged["w"], torch.full((2, 2), 0.8))


def test_floats_that_only_begin_like_positions_are_merged():
    models = {n: {"w": torch.tensor([0.0, 1.0, 2.0, 4.0 + i])} for i, n in enumerate("ab")}
    merged = merge(None, models, method="linear", weights=0.5, normalize=False)
    assert merged["w"].tolist() == [0.0, 1.0, 2.0, 4.5]


@pytest.mark.parametrize("files", [False, True])
def test_a_result_beyond_the_dtype_is_an_error(tmp_path, files):
    base = {"w": torch.full((4, 4), 6e4, dtype=torch.float16)}
    model = {"w": torch.full((4, 4), 65504.0, dtype=torch.float16)}
    sources = saved(tmp_path, {"base": base, "m": model}) if files else {"base": base, "m": model}
    out = {"out": tmp_path / "out"} if files else {}
    with pytest.raises(ValueError, match="result must be finite in F16, got Inf or NaN in tensor 'w'"):
        merge(sources["base"], {"m": sources["m"]}, method="task_arithmetic", weights=2.0, **out)
    assert not (tmp_path / "out").exists()


def test_a_copy_beyond_the_dtype_is_an_error(tmp_path):
    base = {"w": torch.ones(2, 2), "own": torch.full((3,), 1e6)}
    paths = saved(tmp_path, {"base": base, "m": {"w": torch.ones(2, 2)}})
    options = {"allow_missing": ["own"], "dtype": "float16", "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="finite in F16, got Inf or NaN in tensor 'own'"):
        merge(paths["base"], {"m": paths["m"]}, method="task_arithmetic", **options)


def test_other_float_dtypes_are_merged_in_fp32_and_come_out_in_the_bases(tmp_path):
    base = tuned(BASE, 5)
    half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in base.items()}
    model = tuned(base, 1)
    merged = merge(half, {"m": model}, method="task_arithmetic")
    for name, x in half.items():
        want = (x.float() + (model[name].float() - x.float())).bfloat16() if x.is_floating_point() else x
        assert torch.equal(merged[name], want)


def test_check_names_integers_that_differ(tmp_path, capsys):
    saved(tmp_path, {"base": {"i": torch.tensor([1, 2])}, "m": {"i": torch.tensor([2, 2])}})
    recipe = tmp_path / "r.yml"
    models = f"models:\n- model: {tmp_path}/m.safetensors\n  parameters: {{weight: 1.0}}\n"
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {tmp_path}/base.safetensors\n{models}")
    assert main(["merge", str(recipe), "--check"]) == 1
    assert "integers cannot be merged, and those of i (I64) differ" in capsys.readouterr().out

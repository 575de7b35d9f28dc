"""Stores of superposed fine-tunes: what comes back, and how near it is."""

import json
import math

import pytest
import torch
from checkpoints import equal, family, listing, paths, state, sums, tuned

import pydelta
from pydelta import Superposition, load_checkpoint, save_checkpoint
from pydelta.checkpoint.tensor_names import group_of
from pydelta.superposition.format import parts
from pydelta.superposition.writing import summer

SUPERPOSED = [name for name in state(0) if "linear" in name or name in ("embed.weight", "conv.weight")]


def make(folder, count, kind=torch.float32, **options):
    base, models = family(folder, count, dtype=kind)
    store = Superposition.create(folder / "base", paths(folder, models), folder / "store", **options)
    return base, models, store


def error(found, base, model):
    """(relative squared error, cosine) of the superposed tensors' deltas."""
    pairs = [(found[n].double() - base[n].double(), model[n].double() - base[n].double()) for n in SUPERPOSED]
    got, true = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    return float((got - true).square().sum() / true.square().sum()), float(
        torch.cosine_similarity(got, true, 0)
    )


@pytest.mark.parametrize("transform", ["sign", "none"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_one_bf16_model_comes_back_bit_for_bit(tmp_path, transform, shuffle):
    _, models, store = make(tmp_path, 1, torch.bfloat16, transform=transform, shuffle_layers=shuffle)
    assert equal(store.retrieve("m0"), models["m0"])


@pytest.mark.parametrize("shuffle", [False, True])
def test_one_fp32_model_comes_back_to_a_unit_in_the_last_place(tmp_path, shuffle):
    base, models, store = make(tmp_path, 1, shuffle_layers=shuffle)
    found = store.retrieve("m0")
    for name, true in models["m0"].items():
        if not true.is_floating_point():
            assert torch.equal(found[name], true)
            continue
        largest = torch.maximum(true.abs(), base[name].abs())
        ulp = torch.nextafter(largest, torch.tensor(math.inf)) - largest
        assert ((found[name] - true).abs() <= ulp).all()


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("count", [2, 4])
def test_error_and_cosine_are_those_of_the_theory(tmp_path, transform, count):
    width, rows = 512, 192
    generator = torch.Generator().manual_seed(5)
    base = {f"layers.{i}.w": torch.randn(rows, width, generator=generator) for i in range(2)}
    save_checkpoint(base, tmp_path / "base")
    models = {}
    for i in range(count):
        noise = {name: 0.01 * torch.randn(rows, width, generator=generator) for name in base}
        models[f"m{i}"] = {name: x + noise[name] for name, x in base.items()}
        save_checkpoint(models[f"m{i}"], tmp_path / f"m{i}.safetensors")
    store = Superposition.create(
        tmp_path / "base", paths(tmp_path, models), tmp_path / "store", transform=transform
    )
    for name, model in models.items():
        found = store.retrieve(name)
        got, true = (torch.cat([(x[n] - base[n]).double().flatten() for n in base]) for x in (found, model))
        squared = float((got - true).square().sum() / true.square().sum())
        cosine = float(torch.cosine_similarity(got, true, 0))
        assert squared == pytest.approx(count - 1, rel=0.05)
        assert squared == pytest.approx(store.interference()[name], rel=0.05)
        assert cosine == pytest.approx(1 / math.sqrt(count), rel=0.05)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("transform", ["sign", "hadamard", "none"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_comes_back_is_base_plus_the_inverse_of_the_sum(tmp_path, shuffle, transform, dtype):
    """Against the formula, tensor by tensor, with the reference op."""
    options = {"seed": 7, "shuffle_layers": shuffle, "transform": transform, "dtype": dtype}
    weights = {"m0": 1.0, "m1": 0.5, "m2": 2.0}
    base, models, store = make(tmp_path, 3, torch.float16, weights=weights, **options)
    layers = [f"layers.{i}.linear.weight" for i in range(3)]
    order = {
        m: pydelta.random.shuffle(pydelta.key(7, "shuffle", m, "layers.*.linear.weight"), 3) for m in models
    }
    total = {name: torch.zeros(base[name].shape) for name in SUPERPOSED}
    place = {}
    for m, model in models.items():
        for name in SUPERPOSED:
            moved = name in layers and shuffle
            place[m, name] = layers[order[m][layers.index(name)]] if moved else name
            total[place[m, name]] += pydelta.superpose(
                base[name],
                [model[name]],
                [pydelta.key(7, "signs", m, name)],
                weights=[weights[m]],
                transform=transform,
                dim=1 if name == "conv.weight" else -1,
                backend="reference",
            )
    for m in models:
        found = store.retrieve(m, lam=0.25)
        for name in SUPERPOSED:
            expected = pydelta.retrieve(
                base[name],
                total[place[m, name]].to(torch.bfloat16 if dtype == "bf16" else torch.float32),
                pydelta.key(7, "signs", m, name),
                lam=0.25 / weights[m],
                transform=transform,
                dim=1 if name == "conv.weight" else -1,
                backend="reference",
            )
            assert torch.equal(found[name], expected), name


def test_layers_do_change_places(tmp_path):
    make(tmp_path, 2, shuffle_layers=True)
    kept = sums(tmp_path / "store")
    Superposition.create(tmp_path / "base", paths(tmp_path, ["m0", "m1"]), tmp_path / "plain")
    plain = sums(tmp_path / "plain")
    assert torch.equal(kept["embed.weight"], plain["embed.weight"])
    assert any(not torch.equal(kept[n], plain[n]) for n in kept if "linear" in n)


@pytest.mark.parametrize("size", [1, 1000, 1 << 30])
def test_the_size_of_the_parts_changes_no_bit(tmp_path, monkeypatch, size):
    _, models, store = make(tmp_path, 3, shuffle_layers=True, transform="hadamard")
    whole = {name: store.retrieve(name) for name in models}
    monkeypatch.setattr(parts, "PART_BYTES", size)
    other = Superposition.create(
        tmp_path / "base",
        paths(tmp_path, models),
        tmp_path / "other",
        shuffle_layers=True,
        transform="hadamard",
    )
    assert equal(sums(tmp_path / "other"), sums(tmp_path / "store"))
    for name in models:
        assert equal(other.retrieve(name), whole[name])


def test_threads_and_backends_change_no_bit(tmp_path):
    _, models, store = make(tmp_path, 2)
    threads = torch.get_num_threads()
    expected = sums(tmp_path / "store")
    try:
        torch.set_num_threads(1)
        with pydelta.use_backend("reference"):
            Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store", force=True)
            found = store.retrieve("m1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert equal(sums(tmp_path / "store"), expected)
    assert equal(store.retrieve("m1"), found)
    assert torch.get_num_threads() == threads


def test_small_tensors_and_integers_that_differ_are_exact(tmp_path):
    base, models, store = make(tmp_path, 3)
    other = {**models["m1"], "position_ids": torch.arange(7) + 100}
    save_checkpoint(other, tmp_path / "m1.safetensors", force=True)
    store = Superposition.create(tmp_path / "base", paths(tmp_path, models), tmp_path / "store", force=True)
    found = store.retrieve("m1")
    assert torch.equal(found["position_ids"], other["position_ids"])
    assert torch.equal(store.retrieve("m0")["position_ids"], base["position_ids"])
    assert found["empty"].shape == (0, 40)
    for name in ("scale", "layers.0.norm.weight"):
        assert torch.equal(found[name], models["m1"][name])
    squared, cosine = error(found, base, models["m1"])
    assert 1.5 < squared < 2.5
    assert cosine > 0.5


def test_float8_is_kept_exactly(tmp_path):
    base = {"x": torch.randn(4, 4).to(torch.float8_e4m3fn)}
    model = {"x": torch.randn(4, 4).to(torch.float8_e4m3fn)}
    save_checkpoint(base, tmp_path / "base")
    save_checkpoint(model, tmp_path / "m0.safetensors")
    store = Superposition.create(tmp_path / "base", paths(tmp_path, ["m0"]), tmp_path / "store")
    assert torch.equal(store.retrieve("m0")["x"].view(torch.uint8), model["x"].view(torch.uint8))


def test_float64(tmp_path):
    _, models, store = make(tmp_path, 1, torch.float64)
    found = store.retrieve("m0")
    assert all(
        torch.allclose(found[n], x, rtol=0, atol=1e-14) for n, x in models["m0"].items() if n != "empty"
    )


@pytest.mark.parametrize("explicit", [False, True])
def test_input_axis_of_gpt2s_layers(tmp_path, explicit):
    """(in, out) weights: signs run along axis 0, known by the model's type or said by the caller."""
    generator = torch.Generator().manual_seed(3)
    base = {n: torch.randn(16, 8, generator=generator) for n in ("h.0.attn.c_attn.weight", "wte.weight")}
    models = {
        f"m{i}": {n: x + torch.randn(16, 8, generator=generator) for n, x in base.items()} for i in (0, 1)
    }
    save_checkpoint(base, tmp_path / "base")
    if not explicit:
        (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    for name, model in models.items():
        save_checkpoint(model, tmp_path / f"{name}.safetensors")
    dims = {"*.c_attn.*": 0} if explicit else None
    store = Superposition.create(
        tmp_path / "base", paths(tmp_path, models), tmp_path / "store", input_dims=dims
    )
    kept = sums(tmp_path / "store")
    for name, dim in (("h.0.attn.c_attn.weight", 0), ("wte.weight", 1)):
        keys = [pydelta.key(42, "signs", m, name) for m in models]
        expected = pydelta.superpose(base[name], [m[name] for m in models.values()], keys, dim=dim)
        assert torch.equal(kept[name], expected)
    found = store.retrieve("m0", tmp_path / "out")
    assert (found / "config.json").is_file() is not explicit


def test_groups():
    assert group_of("model.layers.12.mlp.0.weight") == "model.layers.*.mlp.0.weight"
    assert group_of("h2.conv1.weight") == "h2.conv1.weight"
    assert group_of("3.weight") == "*.weight"


def test_the_norm_of_a_large_delta_is_estimated_well():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(700, 1024, generator=generator)
    x = base + torch.randn(700, 1024, generator=generator) * torch.rand(700, 1, generator=generator)
    rows = (x.double() - base.double()).square().sum(1)
    exact = float(rows.sum())
    assert summer.norm2(x, base, 0, x.numel()) == pytest.approx(exact, rel=0.05)
    cuts = [(0, 3), (3, 300), (300, 700)]
    parts_ = [summer.norm2(x[a:b], base[a:b], a * 1024, x.numel()) for a, b in cuts]
    assert sum(parts_) == pytest.approx(exact, rel=0.05)
    assert summer.norm2(x[:10], base[:10], 0, 10240) == pytest.approx(float(rows[:10].sum()), rel=1e-12)


def test_lambda_of_the_store_and_of_the_call(tmp_path):
    base, models, store = make(tmp_path, 1, lam=0.5)
    half = store.retrieve("m0")["embed.weight"]
    middle = (base["embed.weight"] + models["m0"]["embed.weight"]) / 2
    assert torch.allclose(half, middle, rtol=0, atol=1e-6)
    assert torch.equal(store.retrieve("m0", lam=0)["embed.weight"], base["embed.weight"])


def test_weights_change_the_interference_and_not_the_size(tmp_path):
    _, models, store = make(tmp_path, 2, weights={"m0": 4.0})
    wide = store.interference()
    assert wide["m0"] == pytest.approx(1 / 16, rel=0.2)
    assert wide["m1"] == pytest.approx(16, rel=0.2)
    found = store.retrieve("m0")["embed.weight"]
    assert torch.allclose(found, models["m0"]["embed.weight"], rtol=0, atol=0.03)


def test_a_model_equal_to_the_base(tmp_path):
    base, _ = family(tmp_path, 1)
    save_checkpoint(base, tmp_path / "same.safetensors")
    where = paths(tmp_path, ["m0", "same"])
    store = Superposition.create(tmp_path / "base", where, tmp_path / "store")
    assert store.interference() == {"m0": 0.0, "same": math.inf}
    assert store.describe()["models"]["same"]["expected_error"] is None
    alone = Superposition.create(tmp_path / "base", {"same": where["same"]}, tmp_path / "alone")
    assert alone.interference() == {"same": 0.0}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"models": {}}, ValueError, "models must hold at least one model, got none"),
        ({"models": {"": "x"}}, ValueError, "a model's name must be printable text, got ''"),
        ({"models": {"a\nb": "x"}}, ValueError, "a model's name must be printable text"),
        ({"models": {"a" * 300: "x"}}, ValueError, "a model's name must fit a file name"),
        (
            {"transform": "haar"},
            ValueError,
            "transform must be one of none, sign, hadamard, auto, got 'haar'",
        ),
        ({"dtype": "fp16"}, ValueError, "dtype must be one of bf16, fp32, got 'fp16'"),
        ({"shuffle_layers": 1}, TypeError, "shuffle_layers must be a bool, got int"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\*\*64\), got -1"),
        ({"seed": 1.0}, TypeError, "seed must be an int, got float"),
        ({"lam": math.nan}, ValueError, "lam must be finite, got nan"),
        ({"lam": "1"}, TypeError, "lam must be a number, got str"),
        ({"weights": {"x": 1.0}}, ValueError, "weights must be of the models m0, got x"),
        ({"weights": {"m0": 0.0}}, ValueError, r"weights\['m0'\] must be positive, got 0.0"),
        (
            {"input_dims": {"*.nothing": 0}},
            ValueError,
            "input_dims must match a tensor of .*, got '\\*.nothing'",
        ),
        ({"input_dims": {"embed*": 2}}, ValueError, r"input_dims must lie in \[-2, 1\] for embed.weight"),
    ],
)
def test_bad_arguments_of_create(tmp_path, options, error, message):
    _, models = family(tmp_path, 1)
    before = listing(tmp_path)
    arguments = {"models": paths(tmp_path, models), **options}
    with pytest.raises(error, match=message):
        Superposition.create(tmp_path / "base", out=tmp_path / "store", **arguments)
    assert listing(tmp_path) == before


def test_sharded_in_and_out(tmp_path, monkeypatch):
    monkeypatch.setattr("pydelta.superposition.writing.bucket_writer.SHARD_BYTES", 6000)
    base = state(0, dtype=torch.bfloat16)
    half = len(base) // 2
    names = list(base)
    (tmp_path / "base").mkdir()
    weight_map = {}
    for i, part in enumerate((names[:half], names[half:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_checkpoint({n: base[n] for n in part}, tmp_path / "base" / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "base" / "vocab.txt").write_text("a b c")
    model = tuned(base, 1)
    save_checkpoint(model, tmp_path / "m0", like=tmp_path / "base")
    store = Superposition.create(tmp_path / "base", {"m0": tmp_path / "m0"}, tmp_path / "store")
    assert len(list((tmp_path / "store").glob("superposed-*.safetensors"))) > 1
    out = store.retrieve("m0", tmp_path / "out")
    assert equal(load_checkpoint(out), model)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "base").iterdir())
    assert equal(load_checkpoint(store.retrieve("m0", tmp_path / "out.safetensors")), model)

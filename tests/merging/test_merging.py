"""Methods on state dicts, against the definitions written out, and what a result must not depend on."""

import functools
import math

import pytest
import torch
from checkpoints import equal, state, tuned

from pydelta import key, merge
from pydelta.core.random import u32
from pydelta.darex import layer_q
from pydelta.merging.methods import METHODS

BASE = state(0)
MODELS = {f"m{i}": tuned(BASE, i + 1, 0.1 * (i + 1)) for i in range(3)}
WEIGHTS = {"m0": 1.0, "m1": 0.5, "m2": 0.75}
FLOATS = [name for name, x in BASE.items() if x.is_floating_point() and x.numel()]


def trimmed(delta, keep, name, drop_large=0.0):
    """By a stable sort of magnitudes."""
    flat = delta.flatten()
    order = flat.abs().argsort(descending=True, stable=True)
    high = math.floor(drop_large * len(flat))
    chosen = order[high : high + math.floor(keep * len(flat))]
    return torch.zeros_like(flat).index_copy(0, chosen, flat[chosen]).view(delta.shape)


def dropped(delta, keep, name, *, model, seed=42):
    draws = u32(key(seed, "mask", model, name), 0, delta.numel()).view(delta.shape)
    return torch.where(draws < math.floor(keep * 2**32), delta / keep, 0)


def summed(deltas, weights):
    return sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))


def elected(deltas, weights, normalize):
    sign = torch.where(summed(deltas, weights) >= 0, 1.0, -1.0)
    agree = [(weight * delta).sign() == sign for weight, delta in zip(weights, deltas, strict=True)]
    total = sum(w * d * a for w, d, a in zip(weights, deltas, agree, strict=True))
    divisor = sum(w * a for w, a in zip(weights, agree, strict=True))
    return total / torch.where(divisor == 0, 1, divisor) if normalize else total


MASKS = {
    "task_arithmetic": lambda delta, name, model: delta,
    "ties": lambda delta, name, model: trimmed(delta, 0.4, name),
    "dare_linear": lambda delta, name, model: dropped(delta, 0.4, name, model=model),
    "breadcrumbs": lambda delta, name, model: trimmed(delta, 0.4, name, 0.1),
}
MASKS |= {"dare_ties": MASKS["dare_linear"], "breadcrumbs_ties": MASKS["breadcrumbs"]}


def options(method):
    if method in ("linear", "task_arithmetic"):
        return {}
    found = {"density": 0.4}
    if method.startswith("breadcrumbs"):
        found["gamma"] = 0.1
    return found


def run(method, base=BASE, models=MODELS, **given):
    return merge(None if method == "linear" else base, models, method=method, **{**options(method), **given})


@pytest.mark.parametrize("method", MASKS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_method_is_its_definition(method, normalize):
    found = run(method, weights=WEIGHTS, lam=0.7, normalize=normalize)
    for name in FLOATS:
        base = BASE[name].double()
        deltas = [MASKS[method](model[name].double() - base, name, m) for m, model in MODELS.items()]
        weights = list(WEIGHTS.values())
        if "ties" in method:
            delta = elected(deltas, weights, normalize)
        else:
            delta = summed(deltas, weights) / (sum(weights) if normalize else 1)
        assert torch.allclose(found[name].double(), base + 0.7 * delta, rtol=1e-5, atol=2e-6), name
    assert torch.equal(found["position_ids"], BASE["position_ids"])
    assert found["empty"].shape == BASE["empty"].shape


def test_linear_is_the_weighted_mean():
    found = run("linear", weights=WEIGHTS)
    for name in FLOATS:
        mean = sum(w * MODELS[m][name].double() for m, w in WEIGHTS.items()) / sum(WEIGHTS.values())
        assert torch.allclose(found[name].double(), mean, rtol=1e-5, atol=1e-6)


def test_della_keeps_the_large_more_often():
    kept = torch.zeros(24, 40)
    delta = MODELS["m0"]["layers.0.linear.weight"] - BASE["layers.0.linear.weight"]
    for seed in range(40):
        found = run("della_linear", models={"m0": MODELS["m0"]}, density=0.5, epsilon=0.4, seed=seed)
        kept += (found["layers.0.linear.weight"] - BASE["layers.0.linear.weight"]).abs() > 1e-6
    order = delta.abs().argsort(dim=1, descending=True)
    by_rank = (kept / 40).gather(1, order).mean(0)
    wanted = 0.5 + (0.5 - torch.arange(40) / 40) * 0.8
    assert (by_rank - wanted).abs().max() < 4 * (0.25 / (24 * 40)) ** 0.5


@pytest.mark.parametrize("normalize", [None, False])
def test_della_elects_among_its_masked_deltas(normalize):
    given = {"density": 0.5, "epsilon": 0.4}
    alone = [run("della_linear", models={m: model}, **given) for m, model in MODELS.items()]
    found = run("della", weights=WEIGHTS, normalize=normalize, **given)
    for name in FLOATS:
        base = BASE[name].double()
        deltas = [model[name].double() - base for model in alone]
        deltas = [torch.where(delta.abs() < 1e-6, 0, delta) for delta in deltas]
        delta = elected(deltas, list(WEIGHTS.values()), normalize is None)
        assert torch.allclose(found[name].double(), base + delta, rtol=1e-4, atol=1e-5), name


DEFAULTS = {
    "linear": {"normalize": True},
    "task_arithmetic": {"normalize": False},
    "ties": {"normalize": True, "rescale": False},
    "dare_linear": {"normalize": False, "rescale": True},
    "dare_ties": {"normalize": False, "rescale": True},
    "della": {"normalize": True, "rescale": True},
    "della_linear": {"normalize": False, "rescale": True},
    "breadcrumbs": {"normalize": False, "rescale": False},
    "breadcrumbs_ties": {"normalize": False, "rescale": False},
}


@pytest.mark.parametrize("method", METHODS.names)
def test_defaults(method):
    found = METHODS.get(method)
    names = [parameter.name for parameter in found.parameters]
    assert len(names) == len(set(names))
    assert {name: found.parameter(name).default for name in DEFAULTS[method]} == DEFAULTS[method]


def test_the_order_of_the_models_and_of_the_tensors_does_not_show():
    for method in METHODS.names:
        one = run(method, weights=WEIGHTS)
        two = run(method, models=dict(reversed(MODELS.items())), weights=WEIGHTS)
        assert equal(one, two), method
        back = {m: dict(reversed(model.items())) for m, model in MODELS.items()}
        assert equal(one, run(method, models=back, weights=WEIGHTS)), method


def test_a_mask_depends_on_seed_model_and_tensor_alone():
    alone = run("dare_linear", models={"m1": MODELS["m1"]})
    other = {"zz": {name: torch.zeros_like(x) if x.is_floating_point() else x for name, x in BASE.items()}}
    both = run("dare_linear", models=other | {"m1": MODELS["m1"]}, weights={"zz": 0.0, "m1": 1.0})
    assert equal(alone, both)
    name = "layers.1.linear.weight"
    part = run("dare_linear", base={name: BASE[name]}, models={"m1": {name: MODELS["m1"][name]}})
    assert torch.equal(part[name], alone[name])
    assert not equal(alone, run("dare_linear", models={"m2": MODELS["m1"]}))
    assert not equal(alone, run("dare_linear", models={"m1": MODELS["m1"]}, seed=43))


def test_one_order_over_the_whole_model():
    models = {"m0": MODELS["m0"]}
    found = run("ties", models=models, group="model", density=0.3)
    names = sorted(FLOATS)
    deltas = torch.cat([(MODELS["m0"][name] - BASE[name]).flatten() for name in names])
    kept = torch.cat([(found[name] != BASE[name]).flatten() for name in names])
    wanted = trimmed(deltas, 0.3, "") != 0
    assert kept.sum() == wanted.sum() == math.floor(0.3 * len(deltas))
    assert torch.equal(kept, wanted)


def test_vectors_may_stay_dense():
    found = run("ties", models={"m0": MODELS["m0"]}, density=0.0, dense_1d=True)
    for name in FLOATS:
        wanted = MODELS["m0"] if BASE[name].dim() < 2 else BASE
        assert torch.allclose(found[name], wanted[name], atol=1e-6)


def test_rows_are_all_inputs_of_one_output():
    """Also where a convolution's kernel or a Conv1D puts the inputs elsewhere."""
    base = {"conv.weight": torch.zeros(6, 5, 3, 3), "h.0.c_fc.weight": torch.zeros(40, 24)}
    model = {name: torch.randn_like(x) for name, x in base.items()}
    found = merge(base, {"m": model}, method="ties", density=0.5, group="row", input_dims={"*c_fc.weight": 0})
    assert ((found["conv.weight"] != 0).flatten(1).sum(1) == math.floor(0.5 * 45)).all()
    assert ((found["h.0.c_fc.weight"] != 0).sum(0) == 20).all()
    for name in ("conv.weight", "h.0.c_fc.weight"):
        kept = found[name] != 0
        assert torch.equal(found[name][kept], model[name][kept])


def test_ties_may_elect_without_weights():
    base = {"x": torch.zeros(1)}
    models = {"a": {"x": torch.tensor([1.0])}, "b": {"x": torch.tensor([-0.75])}}
    given = {"weights": {"a": 0.5, "b": 1.0}, "normalize": False}
    assert merge(base, models, method="ties", **given)["x"].item() == -0.75
    assert merge(base, models, method="ties", elect="unweighted", **given)["x"].item() == 0.5


def test_q_takes_the_place_of_keep():
    models = {"m0": MODELS["m0"]}
    name = "layers.0.linear.weight"
    plain = run("dare_linear", models=models, rescale=False)
    for q, given in ((0.8, {}), ("mse", {}), ("analytic", {"eta": 0.5})):
        found = run("dare_linear", models=models, rescale="q", q=q, **given)
        delta = MODELS["m0"][name] - BASE[name]
        factor = 1 / (q if not given and q != "mse" else layer_q(name, delta, keep=0.4, method=q, **given))
        ratio = (found[name] - BASE[name]) / (plain[name] - BASE[name])
        assert torch.allclose(ratio[~ratio.isnan()], torch.tensor(factor), rtol=1e-3)
    number = run("dare_linear", models=models, rescale=1.25)
    assert equal(number, run("dare_linear", models=models, rescale="q", q=0.8))


def test_l1_restores_the_norm_of_every_delta():
    for method in ("ties", "breadcrumbs", "dare_linear", "della_linear"):
        found = run(method, models={"m0": MODELS["m0"]}, density=0.5, rescale="l1")
        for name in FLOATS:
            norm = (found[name].double() - BASE[name].double()).abs().sum()
            wanted = (MODELS["m0"][name].double() - BASE[name].double()).abs().sum()
            assert norm == 0 or norm.item() == pytest.approx(wanted.item(), rel=1e-3), (method, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    base = {name: x.to(dtype) if x.is_floating_point() else x for name, x in BASE.items()}
    model = {name: x.to(dtype) if x.is_floating_point() else x for name, x in MODELS["m0"].items()}
    found = run("task_arithmetic", base=base, models={"m0": model})
    for name in FLOATS:
        assert torch.equal(found[name], model[name]) or dtype is torch.float64
        assert torch.allclose(found[name], model[name], rtol=1e-12, atol=1e-14)
    wide = run("task_arithmetic", base=base, models={"m0": model}, dtype="float32")
    assert all(wide[name].dtype is torch.float32 for name in FLOATS)
    assert wide["position_ids"].dtype is torch.int64


def test_models_of_several_dtypes_are_widened():
    half = {name: x.bfloat16() if x.is_floating_point() else x for name, x in MODELS["m0"].items()}
    wide = {name: x.float() if x.is_floating_point() else x for name, x in half.items()}
    assert equal(
        run("ties", models={"m0": half, "m1": MODELS["m1"]}),
        run("ties", models={"m0": wide, "m1": MODELS["m1"]}),
    )


def test_one_wide_model_makes_all_wide():
    wide = {name: x.double() if x.is_floating_point() else x for name, x in MODELS["m1"].items()}
    found = run("ties", models={"m0": MODELS["m0"], "m1": wide})
    plain = run("ties", models={"m0": MODELS["m0"], "m1": MODELS["m1"]})
    assert all(torch.allclose(found[name], plain[name], atol=1e-6) for name in FLOATS)


def test_tied_weights_stay_tied():
    base = {"embed": torch.randn(8, 6)}
    model = {"embed": base["embed"] + torch.randn(8, 6)}
    for x in (base, model):
        x["head"] = x["embed"]
    found = merge(base, {"m": model}, method="dare_linear", density=0.5)
    assert found["head"] is found["embed"]
    model["head"] = model["embed"].clone()
    apart = merge(base, {"m": model}, method="dare_linear", density=0.5)
    assert not torch.equal(apart["head"], apart["embed"])


def test_inputs_and_their_strides_stay_as_they_are():
    base = {"x": torch.randn(6, 4).T}
    model = {"x": torch.randn(6, 4).T}
    before = base["x"].clone(), model["x"].clone()
    found = merge(base, {"m": model}, method="dare_linear", density=0.5)["x"]
    plain = merge({"x": before[0]}, {"m": {"x": before[1]}}, method="dare_linear", density=0.5)["x"]
    assert torch.equal(found, plain)
    assert torch.equal(base["x"], before[0])
    assert torch.equal(model["x"], before[1])
    found.zero_()
    assert torch.equal(base["x"], before[0])


def test_a_larger_vocabulary():
    longer = {
        name: torch.cat([x, x[:2]]) if name == "embed.weight" else x for name, x in MODELS["m1"].items()
    }
    models = {"m0": MODELS["m0"], "m1": longer}
    found = run("task_arithmetic", models=models, vocabulary="common")
    assert equal(found, run("task_arithmetic", models={"m0": MODELS["m0"], "m1": MODELS["m1"]}))
    shorter = {name: x[:20] if name == "embed.weight" else x for name, x in MODELS["m1"].items()}
    found = run("task_arithmetic", models={"m0": MODELS["m0"], "m1": shorter}, vocabulary="common")
    assert torch.equal(found["embed.weight"][20:], BASE["embed.weight"][20:])
    assert not torch.equal(found["embed.weight"][:20], BASE["embed.weight"][:20])


def test_a_tensor_that_may_be_missing():
    lacking = {name: x for name, x in MODELS["m0"].items() if name != "scale"} | {"extra": torch.ones(2)}
    models = {"m0": lacking, "m1": MODELS["m1"]}
    found = run("task_arithmetic", models=models, allow_missing=["scale", "ext*"])
    assert torch.allclose(found["scale"], MODELS["m1"]["scale"])
    assert "extra" not in found


def test_a_method_is_one_file():
    assert METHODS.names == (
        "breadcrumbs",
        "breadcrumbs_ties",
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
        "linear",
        "task_arithmetic",
        "ties",
    )
    assert all(METHODS.get(name).name == name for name in METHODS.names)


def test_moments_of_dare():
    """Unbiased, and with p / (1 - p) times the squared delta as variance."""
    name, keep, seeds = "layers.0.linear.weight", 0.25, 200
    only = functools.partial(
        merge, {name: BASE[name]}, {"m": {name: MODELS["m0"][name]}}, method="dare_linear"
    )
    delta = (MODELS["m0"][name] - BASE[name]).double()
    found = torch.stack([only(density=keep, seed=seed)[name].double() - BASE[name] for seed in range(seeds)])
    variance = (1 - keep) / keep * delta.square()
    mean = (found.mean(0) - delta) / (variance / seeds).sqrt()
    assert mean.square().mean().item() == pytest.approx(1, abs=0.15)
    assert (found.var(0).sum() / variance.sum()).item() == pytest.approx(1, abs=0.05)

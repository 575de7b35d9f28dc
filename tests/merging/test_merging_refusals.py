"""What merging state dicts refuses, and in which words."""

import pytest
import torch
from checkpoints import state, tuned

from pydelta import merge

BASE = state(0)
MODELS = {f"m{i}": tuned(BASE, i + 1, 0.1 * (i + 1)) for i in range(3)}

BAD = {
    "method": (
        {"method": "tie"},
        ValueError,
        "[merge] method must be one of breadcrumbs, .*; did you mean ties?",
    ),
    "dial": (
        {"method": "ties", "gamma": 0.1},
        ValueError,
        "parameter gamma is not supported by ties, which has",
    ),
    "density": (
        {"method": "ties", "density": 1.5},
        ValueError,
        "parameter density must lie in .0, 1., got 1.5",
    ),
    "density of one": (
        {"method": "ties", "density": {"m0": 0.5, "m1": -1, "m2": 0.5}},
        ValueError,
        "parameter density of m1 must lie in .0, 1., got -1",
    ),
    "count": (
        {"method": "ties", "weights": [1, 2]},
        ValueError,
        "weight must have one entry per model .3., got 2",
    ),
    "names": (
        {"method": "ties", "weights": {"m0": 1}},
        ValueError,
        "one entry per model .m0, m1, m2., got m0",
    ),
    "epsilon": (
        {"method": "della", "density": 0.1, "epsilon": 0.2},
        ValueError,
        "density -/. epsilon must lie in .0, 1., got 0.1 and 0.2",
    ),
    "sum": (
        {"method": "task_arithmetic", "normalize": True, "weights": [1, -2, 1]},
        ValueError,
        "weights must not add up to 0 where normalize is true",
    ),
    "q": ({"method": "dare_linear", "rescale": "q"}, ValueError, "parameter q is missing where rescale is q"),
    "q alone": ({"method": "dare_linear", "q": 0.5}, ValueError, "parameter q must come with rescale: q"),
    "eta": (
        {"method": "dare_ties", "rescale": "q", "q": "analytic"},
        ValueError,
        "parameter eta must be given",
    ),
    "group": (
        {"method": "ties", "group": "layer"},
        ValueError,
        "parameter group must be tensor, row or model",
    ),
    "densities": (
        {"method": "ties", "group": "row", "density": "half"},
        ValueError,
        "parameter density must lie in .0, 1., got 'half'",
    ),
    "vocabulary": (
        {"method": "ties", "vocabulary": "big"},
        ValueError,
        "vocabulary must be one of error, common",
    ),
    "dtype": ({"method": "ties", "dtype": "int8"}, ValueError, "dtype must be one of float32, bfloat16"),
    "base": ({"method": "linear"}, ValueError, "base must be None, the models themselves are averaged"),
    "out": ({"method": "ties", "out": "x"}, TypeError, "out must be given for paths, and for paths alone"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    given, kind, message = BAD[case]
    with pytest.raises(kind, match=message.replace("[merge]", r"\[merge\]").replace("?", r"\?")):
        merge(BASE, MODELS, **given)


def test_every_problem_of_the_models_is_listed():
    model = dict(MODELS["m0"])
    del model["scale"]
    model |= {"embed.weight": torch.zeros(31, 40), "more": torch.zeros(1), "position_ids": torch.zeros(7)}
    model["conv.weight"] = torch.zeros(6, 5, 3, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="lacks tensors of the base: scale") as caught:
        merge(BASE, {"m0": model}, method="ties")
    message = str(caught.value)
    assert "m0 (m0) has tensors that the base lacks: more" in message
    assert "m0: embed.weight has shape [31, 40], not [30, 40]; vocabulary common" in message
    assert "m0: conv.weight has dtype I32, elsewhere F32" in message


def test_no_base_for_deltas():
    with pytest.raises(ValueError, match="base must be given for ties, got NoneType"):
        merge(None, MODELS, method="ties")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_inf_are_named(bad):
    """Also where a mask would drop them."""
    model = {name: x.clone() for name, x in MODELS["m1"].items()}
    model["layers.1.linear.weight"][3, 4] = bad
    for method in ("linear", "breadcrumbs", "dare_linear"):
        with pytest.raises(ValueError, match=r"model m1: tensor 'layers.1.linear.weight' holds NaN or Inf"):
            merge(None if method == "linear" else BASE, {**MODELS, "m1": model}, method=method)

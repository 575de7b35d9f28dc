"""DAREx-q: the moments it rests on, its closed forms against what they replace, and every refusal."""

import itertools
import math

import numpy as np
import pytest
import torch
from tensors import FLOATS, HALVES, integers, normal, raises

import pydelta
from pydelta.calibration import Calibration, LayerStatistics
from pydelta.core.random import u32
from pydelta.darex import analytic_q, layer_q, least_squares_q, output_distance, search_eta, search_q

NAN = float("nan")
KEEPS = [0.01, 0.1, 0.3, 0.5, 0.9]


def terms(n, mean=1.0, variation=5.0, seed=0):
    """n values of exactly this mean and coefficient of variation, fp64."""
    c = normal(n, dtype=torch.float64, seed=seed)
    return mean * (1 + variation * (c - c.mean()) / c.std(correction=0))


def errors(c, keep, q, count):
    """sum_j (c_j - mask_j c_j / q) for ``count`` masks of the project's own random numbers."""
    kept = torch.stack(
        [u32(pydelta.key(seed, "mask", "model", "w"), 0, len(c)) < int(keep * 2**32) for seed in range(count)]
    )
    return c.sum() - (kept * c).sum(1) / q


def sweep(objective, keep, points=1000):
    """The q of ``points`` equal steps over [keep, 1] with the smallest objective."""
    qs = torch.linspace(keep, 1, points, dtype=torch.float64)
    return qs[torch.argmin(objective(qs))].item()


def bound(c, keep, eta):
    """What the authors' code sweeps for one output with the terms c."""
    p = 1 - keep
    phi = 0.5 if p == 0.5 else (1 - 2 * p) / math.log((1 - p) / p)
    total, squares = c.sum(), c.square().sum()
    return lambda q: (
        eta * (1 - keep / q) * total + eta**2 * phi * squares / (4 * q**2) + math.log(2 / 0.05)
    ).abs()


@pytest.mark.parametrize(("keep", "q"), [(0.1, 0.1), (0.1, 0.25), (0.5, 0.7), (0.01, 0.02)])
def test_moments_of_the_error(keep, q):
    """Mean (1 - keep/q) S and variance p keep Q / q^2, to five standard errors over 2000 masks."""
    c, count = terms(400, variation=2.0), 2000
    found = errors(c, keep, q, count)
    mean, variance = (1 - keep / q) * c.sum(), (1 - keep) * keep * c.square().sum() / q**2
    assert abs(found.mean() - mean) < 5 * (variance / count).sqrt()
    fourth = ((found - mean) ** 4).mean()
    assert abs(((found - mean) ** 2).mean() - variance) < 5 * ((fourth - variance**2) / count).sqrt()


def test_squared_error_falls_as_published():
    """keep .01, coefficient of variation 5: E err^2 / S^2 falls from .77 to .44 by the least-squares q."""
    keep, n = 0.01, 3343
    c = terms(n)
    dare = (1 - keep) / keep * 26 / n
    q = least_squares_q(c[None], keep=keep)
    assert q == pytest.approx(keep * (1 + dare))
    for divisor, expected, two_digits in ((keep, dare, 0.77), (q, dare / (1 + dare), 0.44)):
        assert round(expected, 2) == two_digits
        relative = (errors(c, keep, divisor, 1000) / c.sum()).square()
        assert abs(relative.mean() - expected) < 5 * relative.std() / math.sqrt(1000)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("eta", [0.01, 0.3, 1.0, 4.0, 1000.0])
def test_analytic_equals_the_sweep(keep, eta):
    """To one step of the sweep, for outputs with S >= 0; -c gets what c gets."""
    rows = torch.stack([terms(50, mean, 3.0, seed) for seed, mean in enumerate((0.01, 0.1, 0.5, 2.0))])
    swept = [sweep(bound(row, keep, eta), keep) for row in rows]
    step = (1 - keep) / 999
    for row, q in zip(rows, swept, strict=True):
        assert abs(analytic_q(row[None], keep=keep, eta=eta) - q) <= step
        assert analytic_q(-row[None], keep=keep, eta=eta) == analytic_q(row[None], keep=keep, eta=eta)
    assert abs(analytic_q(rows, keep=keep, eta=eta) - sum(swept) / 4) <= step


def test_the_cases_of_the_sweep_are_all_met():
    """Both ends and the interior occur above, so that the test of the sweep says something."""
    found = [analytic_q(terms(50, 0.5, 3.0)[None], keep=0.1, eta=eta) for eta in (0.01, 0.05, 1000.0)]
    assert found[0] == 0.1
    assert 0.4 < found[1] < 0.5
    assert found[2] == 1.0


@pytest.mark.parametrize(("eta", "closed", "swept"), [(0.03, 0.273, 1.0), (0.3, 1.0, 0.626)])
def test_the_literal_sweep_differs_for_negative_sums(eta, closed, swept):
    """With eta > 0 and S < 0 its objective falls until q = 1, or until it is zero; the closed form stays."""
    c, keep = -terms(50, 0.5, 3.0), 0.1
    assert analytic_q(c[None], keep=keep, eta=eta) == pytest.approx(closed, abs=1e-3)
    assert sweep(bound(c, keep, eta), keep) == pytest.approx(swept, abs=1e-3)
    squares = float(c.square().sum() * eta**2 * 0.8 / math.log(9) / 4)
    roots = np.roots([squares, -eta * keep * float(c.sum()), eta * float(c.sum()) + math.log(40)])
    inside = [1 / u for u in roots if 1 < u < 1 / keep]
    assert inside == ([] if swept == 1.0 else [pytest.approx(swept, abs=1e-3)])


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("data", ["free", "calibrated"])
def test_least_squares_equals_the_sweep(keep, data):
    """The sweep is over E||(delta - mask delta / q) X||^2 itself, added up over all 2^6 masks of a row."""
    delta = normal(3, 6, dtype=torch.float64) + 0.3
    x = normal(6, 5, dtype=torch.float64, seed=1) if data == "calibrated" else torch.ones(6, 1).double()
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    chance = (masks * keep + (1 - masks) * (1 - keep)).prod(1)

    def expected_error(qs):
        left = 1 - masks / qs[:, None, None]  # (q, mask, input)
        squared = torch.einsum("qmj,ij,jt->qmit", left, delta, x).square().sum((2, 3))
        return squared @ chance

    norms = {"column_norm": x.norm(dim=1), "output_norm2": float((delta @ x).square().sum())}
    q = least_squares_q(delta, keep=keep, **(norms if data == "calibrated" else {}))
    assert keep < q < 1 or keep == 0.9
    assert abs(q - sweep(expected_error, keep)) <= (1 - keep) / 999


def test_least_squares_known_answers():
    # S = 7, 1 and Q = 25, 5; then the input norms weigh the columns.
    assert least_squares_q(torch.tensor([[3.0, 4.0], [2.0, -1.0]]), keep=0.5) == 0.5 + 0.5 * 30 / 50
    assert least_squares_q(torch.tensor([[3.0, -4.0]]), keep=0.5) == 1.0
    given = {"column_norm": torch.tensor([2.0, 0.0]), "output_norm2": 72.0}
    assert least_squares_q(torch.tensor([[3.0, 5.0]]), keep=0.25, **given) == 0.25 + 0.75 * 36 / 72


def test_analytic_known_answers():
    # keep = 1/2: Phi = 1/2, so a row's q is eta Q / (2 |S|).
    delta = torch.tensor([[3.0, 4.0], [1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])
    assert analytic_q(delta[:1], keep=0.5, eta=0.4) == pytest.approx(0.4 * 25 / 14)
    assert analytic_q(delta[1:2], keep=0.5, eta=0.4) == 0.5
    assert analytic_q(delta[2:3], keep=0.5, eta=0.4) == 1.0
    assert analytic_q(delta[3:], keep=0.5, eta=0.4) == 1.0
    assert analytic_q(delta, keep=0.5, eta=0.4) == pytest.approx((0.4 * 25 / 14 + 0.5 + 1) / 3)
    mean = torch.tensor([2.0, 0.0])
    assert analytic_q(delta[:1], keep=0.5, eta=0.2, mean=mean) == pytest.approx(0.2 * 36 / 12)


@pytest.mark.parametrize("keep", [0.5 - 1e-5, 0.5 - 1e-7, 0.5 - 1e-15, 0.5, 0.5 + 1e-15, 0.5 + 1e-7])
def test_the_variance_factor_is_smooth_at_one_half(keep):
    """Phi(1/2 + d) = 1/2 - 2 d^2 / 3 + O(d^4)."""
    row = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert analytic_q(row, keep=keep, eta=0.4) == pytest.approx(0.4 * 25 / 14 * 0.5 / keep, rel=1e-9)


@pytest.mark.parametrize("keep", [0, 1, 0.0, 1.0])
def test_nothing_to_rescale(keep):
    delta = normal(3, 5)
    assert analytic_q(delta, keep=keep, eta=1) == 1.0
    assert least_squares_q(delta, keep=keep) == 1.0


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 5)])
def test_empty_and_zero_deltas(shape):
    delta = torch.zeros(shape)
    assert analytic_q(delta, keep=0.1, eta=1) == 1.0
    assert least_squares_q(delta, keep=0.1) == 1.0
    layer = {"column_norm": torch.ones(shape[1]), "output_norm2": 0.0}
    assert least_squares_q(delta, keep=0.1, **layer) == 1.0
    assert least_squares_q(delta + 1, keep=0.1, **layer) == 1.0


@pytest.mark.parametrize("dtype", HALVES)
def test_small_half_precision_deltas_do_not_flush(dtype):
    """In fp16 every c below 1.73e-4 squares to zero, which would make q equal to keep."""
    delta = (integers(8, 64) * 2.0**-16 + 2.0**-17).to(dtype)
    wide = delta.double()
    assert (delta.half().square() == 0).all()
    x = torch.full((64,), 0.25)
    for eta, options in ((20.0, {}), (80.0, {"mean": x})):
        q = analytic_q(delta, keep=0.01, eta=eta, **options)
        assert 0.02 < q < 0.98
        assert q == pytest.approx(analytic_q(wide, keep=0.01, eta=eta, **options), rel=1e-5)
    assert least_squares_q(delta, keep=0.01) == pytest.approx(least_squares_q(wide, keep=0.01), rel=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_parts_and_strides_change_nothing(dtype):
    """More elements than are squared at a time, and a transposed view."""
    delta = (integers(700, 1000, low=-3, high=4)).to(dtype)
    exact = delta.double()
    total, squares = exact.sum(1), exact.square().sum(1)
    expected = 0.1 + 0.9 * squares.sum() / total.square().sum()
    for layout in (delta, delta.T.contiguous().T):
        assert least_squares_q(layout, keep=0.1) == pytest.approx(min(expected.item(), 1.0), rel=1e-12)
        assert analytic_q(layout, keep=0.1, eta=1e-2) == analytic_q(delta, keep=0.1, eta=1e-2)


@pytest.fixture
def calibration():
    def seen(n, dim, output_norm2=7.0):
        return LayerStatistics(normal(n).abs(), normal(n, seed=1), 3, dim, output_norm2)

    return Calibration({"a.weight": seen(5, 1), "b.weight": seen(4, 0), "c.weight": seen(5, 1, None)})


def test_layer_q_looks_the_layer_up(calibration):
    delta, seen = normal(4, 5), calibration.layers
    a, b = seen["a.weight"], seen["b.weight"]
    options = {"keep": 0.1, "calibration": calibration}
    q = layer_q("a.weight", delta, eta=0.1, **options)
    assert q == analytic_q(delta, keep=0.1, eta=0.1, mean=a.mean) != analytic_q(delta, keep=0.1, eta=0.1)
    q = layer_q("a.weight", delta, method="mse", **options)
    assert q == least_squares_q(delta, keep=0.1, column_norm=a.column_norm, output_norm2=7.0)
    # b is stored (in, out), as the calibration knows.
    assert layer_q("b.weight", delta, eta=0.1, **options) == analytic_q(
        delta.T, keep=0.1, eta=0.1, mean=b.mean
    )


def test_layer_q_without_a_calibration():
    delta = normal(4, 5)
    assert layer_q("w", delta, keep=0.1, eta=0.1) == analytic_q(delta, keep=0.1, eta=0.1)
    assert layer_q("w", delta, keep=0.1, eta=0.1, dim=0) == analytic_q(delta.T, keep=0.1, eta=0.1)
    assert layer_q("w", delta, keep=0.1, method="mse") == least_squares_q(delta, keep=0.1)


def test_layer_q_of_other_ranks(calibration):
    """A vector is a column of inputs 1; further axes are inputs, unless one is named."""
    for delta in (normal(7), normal()):
        column = delta.reshape(-1, 1)
        q = layer_q("bias", delta, keep=0.1, eta=0.5, calibration=calibration)
        assert q == analytic_q(column, keep=0.1, eta=0.5)
        q = layer_q("bias", delta, keep=0.1, method="mse", calibration=calibration)
        assert q == pytest.approx(1.0, abs=1e-6)
    kernel = normal(4, 3, 2, 2)
    assert layer_q("conv", kernel, keep=0.1, eta=0.1) == analytic_q(kernel.reshape(4, 12), keep=0.1, eta=0.1)
    experts = kernel.movedim(1, -1).reshape(-1, 3)
    assert layer_q("conv", kernel, keep=0.1, eta=0.1, dim=1) == analytic_q(experts, keep=0.1, eta=0.1)


def test_a_stacked_delta_is_least_squares_in_the_output(calibration):
    """End to end: the q for a calibrated layer has the smallest error of all q over many masks."""
    delta, x = normal(6, 40), normal(40, 30, seed=3) + 1
    layer = LayerStatistics(x.norm(dim=1), x.mean(1), 30, 1, float((delta @ x).square().sum()))
    q = layer_q("w", delta, keep=0.2, method="mse", calibration=Calibration({"w": layer}))
    kept = torch.stack([u32(pydelta.Key(s), 0, 240).view(6, 40) < int(0.2 * 2**32) for s in range(400)])

    def mean_error(q):
        return ((delta - kept * delta / q) @ x).square().sum((1, 2)).mean().item()

    assert mean_error(q) < min(mean_error(0.2), mean_error(0.8 * q), mean_error(min(1.25 * q, 1.0)))


ROW, X = torch.ones(2, 3), torch.ones(3)
KINDS = "float32, bfloat16, float16 or float64"
BAD = [
    (analytic_q, {"delta": ROW.int()}, TypeError, f"delta must be {KINDS}, got int32"),
    (analytic_q, {"delta": [1.0]}, TypeError, "delta must be a tensor, got list"),
    (analytic_q, {"delta": X}, ValueError, "delta must have two dimensions, got shape (3,)"),
    (analytic_q, {"keep": 1.5}, ValueError, "keep must lie in [0, 1], got 1.5"),
    (analytic_q, {"keep": "1"}, TypeError, "keep must be a number, got str"),
    (analytic_q, {"keep": NAN}, ValueError, "keep must be finite, got nan"),
    (analytic_q, {"eta": 0}, ValueError, "eta must be positive, got 0.0"),
    (analytic_q, {"eta": None}, TypeError, "eta must be a number, got NoneType"),
    (analytic_q, {"mean": X[:2]}, ValueError, "mean must have delta's 3 inputs, got shape (2,)"),
    (analytic_q, {"mean": X.long()}, TypeError, f"mean must be {KINDS}, got int64"),
    (analytic_q, {"delta": ROW * NAN}, ValueError, "delta and mean must be finite, got NaN or Inf"),
    (analytic_q, {"mean": X / 0}, ValueError, "delta and mean must be finite, got NaN or Inf"),
    (least_squares_q, {"keep": -0.1}, ValueError, "keep must lie in [0, 1], got -0.1"),
    (
        least_squares_q,
        {"column_norm": X},
        ValueError,
        "column_norm and output_norm2 must come together, got column_norm alone",
    ),
    (
        least_squares_q,
        {"output_norm2": 1.0},
        ValueError,
        "column_norm and output_norm2 must come together, got output_norm2 alone",
    ),
    (
        least_squares_q,
        {"column_norm": X, "output_norm2": -1.0},
        ValueError,
        "output_norm2 must not be negative, got -1.0",
    ),
    (
        least_squares_q,
        {"column_norm": ROW, "output_norm2": 1.0},
        ValueError,
        "column_norm must have delta's 3 inputs, got shape (2, 3)",
    ),
    (least_squares_q, {"delta": ROW / 0}, ValueError, "delta and column_norm must be finite, got NaN or Inf"),
    (search_q, {"keep": 0.0}, ValueError, "keep must lie in (0, 1), got 0.0"),
    (search_q, {"keep": 1}, ValueError, "keep must lie in (0, 1), got 1.0"),
    (search_q, {"evaluate": 3}, TypeError, "evaluate must be a function, got int"),
    (search_q, {"points": 0}, ValueError, "points must be at least 1, got 0"),
    (search_q, {"refinements": 1.5}, TypeError, "refinements must be an int, got float"),
    (search_q, {"patience": 0}, ValueError, "patience must be at least 1, got 0"),
    (
        search_q,
        {"evaluate": lambda q: NAN},
        ValueError,
        "evaluate must give a number, got NaN at every point",
    ),
    (search_eta, {"low": 0.0}, ValueError, "low and high must be 0 < low < high, got 0.0 and 10000.0"),
    (search_eta, {"high": 1e-4}, ValueError, "low and high must be 0 < low < high, got 0.001 and 0.0001"),
    (search_eta, {"refinements": -1}, ValueError, "refinements must be at least 0, got -1"),
    (output_distance, {"model_outputs": ROW.int()}, TypeError, f"model_outputs must be {KINDS}, got int32"),
    (output_distance, {"tuned_outputs": X}, ValueError, "model_outputs must have shape (3,), got (2, 3)"),
    (output_distance, {"tuned_outputs": [ROW, ROW]}, ValueError, "model_outputs must have 2 batches, got 1"),
    (output_distance, {"tuned_outputs": 1}, TypeError, "tuned_outputs must be a list or tuple, got int"),
]
GOOD = {
    analytic_q: {"delta": ROW, "keep": 0.1, "eta": 1.0},
    least_squares_q: {"delta": ROW, "keep": 0.1},
    search_q: {"evaluate": lambda q: q, "keep": 0.1},
    search_eta: {"evaluate": lambda eta: eta},
    output_distance: {"model_outputs": ROW, "tuned_outputs": ROW},
}


@pytest.mark.parametrize(("function", "wrong", "error", "message"), BAD)
def test_bad_arguments(function, wrong, error, message):
    arguments = {**GOOD[function], **wrong}
    first = next(iter(GOOD[function]))
    with raises(error, f"[{function.__name__}] {message}"):
        function(
            arguments.pop(first),
            *((arguments.pop("tuned_outputs"),) if function is output_distance else ()),
            **arguments,
        )


def test_bad_arguments_of_layer_q(calibration):
    delta = normal(4, 5)
    for wrong, message in (
        ({"eta": None}, "[layer_q] eta must be given for analytic alone, got None for analytic"),
        ({"method": "mse"}, "[layer_q] eta must be given for analytic alone, got 1.0 for mse"),
        ({"method": "mean"}, "[layer_q] method must be one of analytic, mse, got 'mean'"),
        ({"keep": 2}, "[analytic_q] keep must lie in [0, 1], got 2.0, for a.weight"),
        (
            {"delta": delta * NAN},
            "[analytic_q] delta and mean must be finite, got NaN or Inf, for a.weight",
        ),
        (
            {"delta": delta.T},
            "[analytic_q] mean must have delta's 4 inputs, got shape (5,), for a.weight",
        ),
        ({"dim": 2}, "[layer_q] dim must lie in [-2, 1] for shape (4, 5), got 2"),
        ({"name": "d.weight"}, "[calibration] the layer must be one of 3 seen, got 'd.weight'"),
        (
            {"name": "c.weight", "method": "mse", "eta": None},
            "[layer_q] the calibration must know output norms: give the Calibrator a base, for c.weight",
        ),
    ):
        arguments = {"name": "a.weight", "delta": delta, "keep": 0.1, "eta": 1.0, "calibration": calibration}
        with raises(ValueError, message):
            layer_q(**{**arguments, **wrong})
    with raises(TypeError, f"[layer_q] a must be {KINDS}, got int64"):
        layer_q("a", torch.ones(2, 2).long(), keep=0.1, eta=1.0)

"""q and eta by a metric, and the distance between outputs."""

import math

import pytest
import torch
from tensors import normal, raises

import pydelta
from pydelta.core.random import u32
from pydelta.darex import least_squares_q, output_distance, search_eta, search_q

NAN = float("nan")


@pytest.mark.parametrize("keep", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("ratio", [1.0, 1.7, 5.0, 1e9])
def test_search_q_finds_the_peak(keep, ratio):
    """To a hundredth of a coarse step: two refinements, each a tenth."""
    peak = min(keep * ratio, 1.0)
    found = search_q(lambda q: -abs(q - peak), keep=keep)
    assert abs(found.q - peak) <= (1 - keep) / 10 / 100 / 2 + 1e-12
    assert found.score == -abs(found.q - peak)
    assert (found.q, found.score) == max(found.tried, key=lambda pair: pair[1])
    qs = [q for q, _ in found.tried]
    assert len(qs) == len(set(qs)) <= 11 + 36
    assert min(qs) == keep
    assert max(qs) == 1.0


def test_search_q_step_by_step():
    asked = []

    def score(q):
        asked.append(round(q, 6))
        return -abs(q - 0.58)

    found = search_q(score, keep=0.5, points=5, refinements=1)
    coarse, up, down = (
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        [0.61, 0.62, 0.63, 0.64],
        [0.59, 0.58, 0.57, 0.56, 0.55, 0.54],
    )
    assert asked == coarse + up + down
    assert found.q == pytest.approx(0.58)
    assert [q for q, _ in found.tried] == pytest.approx(asked)
    assert len(search_q(score, keep=0.5, points=5, refinements=0).tried) == 6
    assert len(search_q(score, keep=0.5, points=5, refinements=1, patience=1).tried) == 6 + 1 + 3


def test_search_takes_the_first_of_equals_and_never_nan():
    assert search_q(lambda q: 1.0, keep=0.1).q == 0.1
    assert search_q(lambda q: NAN if q < 0.5 else torch.tensor(-q), keep=0.1).q == pytest.approx(
        0.5, abs=0.01
    )


@pytest.mark.parametrize("peak", [1e-3, 0.02, 0.45, 37.0, 1e4])
def test_search_eta_finds_the_peak(peak):
    """On the logarithm: to half of a hundredth of a decade."""
    found = search_eta(lambda eta: -abs(math.log(eta / peak)))
    assert abs(math.log10(found.eta / peak)) <= 0.005 + 1e-9
    assert found.tried[:2] == (
        (pytest.approx(1e-3), found.tried[0][1]),
        (pytest.approx(1e-2), found.tried[1][1]),
    )
    assert found.score == max(score for _, score in found.tried)


def test_output_distance():
    """The mean of the rows' L2 norms, over one tensor or over batches."""
    tuned = torch.zeros(3, 2, dtype=torch.bfloat16)
    outputs = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    assert output_distance(outputs, tuned) == 2.0
    assert output_distance([outputs[:2], outputs[2]], [tuned[:2], tuned[2]]) == 2.0
    assert math.isnan(output_distance(outputs / 0, tuned))
    with raises(ValueError, "[output_distance] model_outputs must have at least one row, got none"):
        output_distance(torch.ones(0, 2), torch.ones(0, 2))


def test_unlabelled_search_improves_on_dare():
    """A layer by the distance to the tuned outputs: no worse than least squares, which beats 1/keep."""
    delta, x, keep = normal(8, 300) + 0.1, normal(20, 300, seed=1) + 0.3, 0.05
    tuned = x @ delta.T
    kept = (u32(pydelta.Key(1), 0, 2400).view(8, 300) < int(keep * 2**32)).float()

    def score(q):
        return -output_distance(x @ (kept * delta / q).T, tuned)

    found = search_q(score, keep=keep)
    norms = {"column_norm": x.norm(dim=0), "output_norm2": float(tuned.square().sum())}
    assert found.score >= score(least_squares_q(delta, keep=keep, **norms)) > score(keep)

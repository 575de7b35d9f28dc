"""DAREx-q: random masks whose kept elements are multiplied by 1/q instead of 1/keep.

DARE keeps every element of a delta with probability keep = 1 - p and divides the kept ones by keep. Where
deltas are large or keep is small, the variance of that does more harm than a bias would: DAREx-q divides by a
q in [keep, 1] (Deng et al., "DARE the Extreme", ICLR 2025, arXiv 2410.09344). For one output with the terms
c_j = delta_j x_j, S = sum_j c_j and Q = sum_j c_j^2 the error has

    mean (1 - keep/q) S    and    variance p keep Q / q^2.

Ways to a q: :func:`search_q` by a metric of the caller's, :func:`analytic_q` per layer with one scalar eta
(which :func:`search_eta` finds), :func:`least_squares_q` per layer without any dial. :func:`layer_q` looks up
what the last two need in a calibration.
"""

from pydelta.darex.closed_form import analytic_q, least_squares_q
from pydelta.darex.layer import layer_q
from pydelta.darex.search import EtaSearch, QSearch, output_distance, search_eta, search_q

__all__ = [
    "EtaSearch",
    "QSearch",
    "analytic_q",
    "layer_q",
    "least_squares_q",
    "output_distance",
    "search_eta",
    "search_q",
]

"""Golomb-Rice codes of places: against bit strings, round trips, sizes, and codes that are not sound."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydelta.checkpoint.elements import rice


@st.composite
def masks(draw):
    """Masks of all densities, clumped ones too."""
    size = draw(st.integers(1, 300))
    runs = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 40)), min_size=1, max_size=12))
    mask = np.zeros(size, dtype=bool)
    for start, length in runs:
        mask[start : start + length] = True
    return ~mask if draw(st.booleans()) and not mask.all() else mask


def plain(mask, r):
    """The code as a string of bits, gap by gap."""
    places = [-1, *np.flatnonzero(mask).tolist()]
    gaps = [b - a - 1 for a, b in itertools.pairwise(places)]
    low = "".join(str(gap >> bit & 1) for gap in gaps for bit in range(r))
    unary = "".join("0" * (gap >> r) + "1" for gap in gaps)
    code = low + "0" * (-len(low) % 8) + unary
    code += "0" * (-len(code) % 64)
    return bytes(int(code[i : i + 8][::-1], 2) for i in range(0, len(code), 8)), len(low) + len(unary)


@given(masks())
def test_the_code_is_what_the_definition_says(mask):
    r, code = rice.encode(mask)
    assert code.tobytes() == plain(mask, r)[0]


@given(masks())
def test_no_parameter_is_shorter(mask):
    sizes = [plain(mask, r)[1] for r in range(12)]
    assert rice.encode(mask)[0] == sizes.index(min(sizes))


@given(masks())
def test_round_trip(mask):
    r, code = rice.encode(mask)
    found = rice.decode(code, r, int(mask.sum()), mask.size)
    assert found.dtype == np.bool_
    assert np.array_equal(found, mask)


@given(
    st.binary(max_size=48),
    st.integers(0, 70),
    st.integers(0, 40),
    st.integers(0, 400),
)
def test_any_bytes_give_a_mask_or_an_error(data, r, count, size):
    code = np.frombuffer(data, dtype=np.uint8)
    try:
        mask = rice.decode(code, r, count, size)
    except ValueError:
        return
    assert (mask.size, mask.sum()) == (size, count)
    low = count * r
    assert plain(mask, r)[0] == data or any(np.unpackbits(code, bitorder="little")[low : low + -low % 8])


@given(masks(), st.data())
def test_a_flipped_bit_is_an_error_or_another_place(mask, data):
    r, code = rice.encode(mask)
    bit = data.draw(st.integers(0, 8 * code.size - 1))
    bad = code.copy()
    bad[bit // 8] ^= 1 << bit % 8
    try:
        found = rice.decode(bad, r, int(mask.sum()), mask.size)
    except ValueError:
        return
    padding = int(mask.sum()) * r <= bit < -(-int(mask.sum()) * r // 8) * 8
    assert found.sum() == mask.sum()
    assert padding or not np.array_equal(found, mask)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3, 0.5, 0.9])
def test_size_is_near_the_entropy_and_at_most_the_bitmaps(density):
    size = 1 << 16
    mask = np.random.default_rng(0).random(size) < density
    _, code = rice.encode(mask)
    p = mask.mean()
    entropy = -size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    assert code.size <= size / 8
    if density < 0.5:
        assert code.size < 1.05 * entropy + 16


def test_large_gaps():
    mask = np.zeros(1 << 20, dtype=bool)
    mask[-1] = True
    r, code = rice.encode(mask)
    assert code.size == 8
    assert np.array_equal(rice.decode(code, r, 1, mask.size), mask)


GOOD = np.array([0, 1] + [0] * 6, dtype=np.uint8)  # one place, number 8, with parameter 0

BAD = {
    "no place": ((GOOD, 0, 0, 20), "0 places among 20 have no code with parameter 0"),
    "too many": ((GOOD, 0, 21, 20), "21 places among 20 have no code with parameter 0"),
    "parameter": ((GOOD, 7, 1, 20), "1 places among 20 have no code with parameter 7"),
    "huge parameter": ((GOOD, 1 << 40, 1, 20), "1 places among 20 have no code with parameter"),
    "negative": ((GOOD, -1, 1, 20), "1 places among 20 have no code with parameter -1"),
    "empty": ((GOOD[:0], 0, 1, 20), "the code has 0 places, but 1 values are there"),
    "short": ((GOOD[:0], 3, 4, 20), "the code has 0 places, but 4 values are there"),
    "popcount": ((GOOD, 0, 2, 20), "the code has 1 places, but 2 values are there"),
    "not padded": ((GOOD[:7], 0, 1, 20), "the code must take 8 bytes, got 7"),
    "padded twice": ((np.pad(GOOD, (0, 2)), 0, 1, 20), "the code must take 8 bytes, got 10"),
    "far too long": ((np.pad(GOOD, (0, 99)), 0, 1, 20), "the code takes 107 bytes, more than 1 places"),
    "outside": ((GOOD, 0, 1, 8), "a place must lie below 8, got 8"),
    "outside by low bits": ((np.array([7, 1] + [0] * 6, dtype=np.uint8), 3, 1, 7), "lie below 7, got 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_codes_that_are_not_sound(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        rice.decode(*arguments)

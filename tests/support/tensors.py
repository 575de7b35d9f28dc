"""Inputs, outputs and comparisons that the kernel tests share."""

import re

import pytest
import torch

import pydelta

HALVES = (torch.bfloat16, torch.float16)
SINGLES = (torch.float32, *HALVES)
FLOATS = (*SINGLES, torch.float64)
ISAS = ("avx512", "avx2", "baseline")
OPS = ("hadamard", "sign_flip", "rotate", "superpose", "retrieve", "mask_rescale", "merge_into")
LIST_OPS = ("square_sums", "sam_perturb_", "sam_restore_", "adamr_step_")
TRANSFORMING = OPS[:5]
TRANSFORMS = ("none", "sign", "hadamard")
KEY = pydelta.key(42, "signs", "a", "w")
EXTREME_KEYS = [pydelta.Key(0), pydelta.Key(2**64 - 1, 2**64 - 1), pydelta.Key(2**63, 2**31)]
KEYS = [pydelta.key(42, "signs", f"model {i}", "w") for i in range(33)]

against_reference = pytest.mark.parametrize("backend", ["cpu", "cuda", "triton"], indirect=True)
"""For tests whose truth is the reference itself: on every other backend."""

MASKS = [
    pydelta.RandomMask(0.5, pydelta.key(42, "mask", "a", "w")),
    None,
    pydelta.DellaMask(0.5, 0.5, pydelta.key(42, "mask", "b", "w")),
]
"""Of the three models that are merged; none has to be counted first."""

_WIDE = [4097, 11008, 14336]
WIDTHS = [1, 7, 33, 96, 100, 127, 129, 255, 257, 768, 1023, 1025]
WIDTHS += [pytest.param(n, marks=pytest.mark.large) for n in _WIDE]
"""Row lengths: odd, beside a power of two, of models; the last are too many tiles for an interpreter."""

_SLOW = [7, 96, 127, 129, 255, 257, 768, 1023, 1025, *_WIDE]
CODE_WIDTHS = [1, 33, 100, *(pytest.param(n, marks=pytest.mark.large) for n in _SLOW)]
"""The same for low-bit codes, which are several launches a call."""

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def normal(*shape, dtype=torch.float32, seed=0):
    """Standard normal values, drawn in float64 and rounded once."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def integers(*shape, dtype=torch.float32, low=-8, high=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def operands(op, *shape, dtype=torch.float32, seed=0):
    """The tensors that ``op`` takes: x; base and three tuned; base and a superposition; delta and base."""
    count = {"superpose": 4, "merge_into": 4, "retrieve": 2, "mask_rescale": 2}.get(op, 1)
    return [normal(*shape, dtype=dtype, seed=seed + i) for i in range(count)]


def call(op, tensors, of=pydelta, **options):
    """``op`` of the module ``of`` on its operands, with fixed keys and masks."""
    function = getattr(of, op)
    if op == "hadamard":
        return function(*tensors, **options)
    if op == "superpose":
        base, *tuned = tensors
        return function(base, tuned, KEYS[: len(tuned)], **options)
    if op == "mask_rescale":
        delta, base = tensors
        return function(delta, options.pop("mask", MASKS[0]), base=base, **options)
    if op == "merge_into":
        base, *tuned = tensors
        return function(base, tuned, **{"masks": MASKS[: len(tuned)], **options})
    return function(*tensors, KEY, **options)


def expected(op, tensors, **options):
    """What the reference gives for contiguous copies on the CPU."""
    from pydelta import reference

    return call(op, [x.cpu().contiguous() for x in tensors], of=reference, **options)


def raises(error, message):
    """An error of this very message."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def _transposed(*shape, dtype, device):
    return torch.empty(shape[::-1], dtype=dtype, device=device).permute(*reversed(range(len(shape))))


def _strided(*shape, dtype, device):
    *rest, n = shape
    return torch.empty((*rest, 2 * n), dtype=dtype, device=device)[..., ::2]


def _row_strided(*shape, dtype, device):
    *rest, n = shape
    return torch.empty((*rest, n + 3), dtype=dtype, device=device)[..., 1 : n + 1]


def _unaligned(*shape, dtype, device):
    buffer = torch.empty(torch.Size(shape).numel() + 2, dtype=dtype, device=device)
    return buffer[1:-1].view(shape)


def _contiguous(*shape, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)


LAYOUTS = {
    "contiguous": _contiguous,
    "transposed": _transposed,
    "strided": _strided,
    "row_strided": _row_strided,
    "unaligned": _unaligned,
}
"""Each makes an empty tensor of a shape; all but the first are views into a larger or permuted buffer."""


def laid_out(x, layout, device="cpu"):
    """``x`` in another memory layout."""
    return LAYOUTS[layout](*x.shape, dtype=x.dtype, device=device).copy_(x)


def poisoned(*shape, dtype=torch.float32, device="cpu", layout="contiguous"):
    """An output full of NaN, in a buffer full of NaN."""
    out = LAYOUTS[layout](*shape, dtype=dtype, device=device)
    (out if out._base is None else out._base).fill_(float("nan"))
    return out


def assert_nothing_beside(out):
    """Nothing was written into the buffer of a poisoned ``out`` but ``out``. Poisons it again."""
    out.fill_(float("nan"))
    assert out._base is None or bool(out._base.isnan().all()), "memory beside out was written"


def assert_same_bits(actual, truth):
    """Equal dtype, shape and bits; where NaN is expected any NaN will do."""
    assert actual.dtype == truth.dtype
    assert actual.shape == truth.shape
    a, b = actual.detach().cpu().contiguous(), truth.detach().cpu().contiguous()
    assert torch.equal(a.isnan(), b.isnan()), "NaNs stand in other places"
    bits = _BITS[a.element_size()]
    wrong = ((a.view(bits) != b.view(bits)) & ~b.isnan()).nonzero()
    if len(wrong):
        first = tuple(wrong[0].tolist())
        values = f"{a[first].item()!r}, expected {b[first].item()!r}"
        raise AssertionError(f"{len(wrong)} of {a.numel()} differ, first {first}: {values}")

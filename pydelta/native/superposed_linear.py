"""Products with a superposition, or with its codes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.check import default_block
from pydelta.core.quantized import Quantized, group_size, tables
from pydelta.core.random import Key
from pydelta.native.call import DTYPES, by_position
from pydelta.native.codes import dequantize
from pydelta.native.transforms import rotate, sign_flip
from pydelta.products.superposed import add_expanded, add_product, base_product, turned

_FEW = 64
"""Up to so many activations are multiplied with the codes themselves; beyond, blocks of values with BLAS."""


def superposed_linear(
    ext: ModuleType,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    superposed: torch.Tensor | Quantized,
    keys: Sequence[Key],
    model: torch.Tensor,
    *,
    out: torch.Tensor,
    lams: Sequence[float],
    transform: str,
    bias: torch.Tensor | None,
) -> None:
    base_product(x, weight, bias, out)
    if out.numel() == 0 or x.numel() == 0:
        return

    def turn(rows: torch.Tensor, to: torch.Tensor, key: Key) -> None:
        if transform == "sign":
            sign_flip(ext, rows, key, out=to, dim=1)
        else:
            rotate(ext, rows, key, out=to, block=default_block(x.shape[1]), inverse=False)

    if not isinstance(superposed, Quantized):
        add_product(turned(x, keys, model, transform, turn), superposed, model, lams, out)
    elif len(x) > _FEW or x.dtype is torch.float64:
        z = turned(x, keys, model, transform, turn)
        add_expanded(z, superposed, model, lams, functools.partial(dequantize, ext), out)
    elif transform == "sign":
        _code_product(ext, x, superposed, keys, model, lams, out)
    else:
        _code_product(ext, turned(x, keys, model, transform, turn), superposed, [], model, lams, out)


def _code_product(
    ext: ModuleType,
    x: torch.Tensor,
    q: Quantized,
    keys: Sequence[Key],
    model: torch.Tensor,
    lams: Sequence[float],
    out: torch.Tensor,
) -> None:
    """out_r += lam_k q (s_k * x_r), without signs where there are no keys."""
    levels, _ = tables(q.bits, x.device)
    by_position(
        x,
        ext.superposed_linear,
        x.data_ptr(),
        model.data_ptr(),
        out.data_ptr(),
        DTYPES[x.dtype],
        len(x),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(lams),
        q.codes.data_ptr(),
        q.scales.data_ptr(),
        *q.shape,
        q.bits,
        group_size("superposed_linear", q.group, q.shape[-1]),
        levels.data_ptr(),
    )

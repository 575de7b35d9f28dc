"""``pydelta.sam_restore_``: the way back from SAM's ascent step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.ops import _lists
from pydelta.ops._library import define


def _run(params: list[torch.Tensor], sources: list[torch.Tensor], backend: str) -> None:
    with _lists.written(params) as (ps,):
        for places, (p, source) in _lists.groups(ps, sources):
            if places:
                kernel = _dispatch.kernel("sam_restore_", params[places[0]], backend)
                kernel(p, _lists.dense(source))


_op = define("sam_restore_", "Tensor(a!)[] params, Tensor[] sources, str backend", "()", _run)


def sam_restore_(
    params: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], *, backend: str | None = None
) -> None:
    """Each parameter from its backup, bit for bit, or from its fp32 master, rounded once; in place.

    Equivalent to ``for p, source in zip(params, sources): p.copy_(source)``; one call for the whole list,
    ``data_ptr()`` stays.

    Args:
        params: float32, bfloat16, float16 or float64 tensors on one device; of any shapes and strides.
        sources: one for each, of its shape; of its dtype or float32.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Raises:
        TypeError: something is no real floating tensor.
        ValueError: lists, shapes, dtypes or devices differ.
        RuntimeError: ``backend`` is not there.
    """
    op = "sam_restore_"
    weights = _lists.tensors(op, "params", params)
    read = _lists.sources_of(op, "sources", sources, "params", weights)
    with torch.no_grad():
        _op(weights, read, check.backend(op, backend))

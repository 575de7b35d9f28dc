"""Registration with torch.library: two operators per op, so that compiled graphs can hold them.

``pydelta::name`` returns a new tensor; ``pydelta::name_out`` writes into ``out``. Both are opaque to
tracing, so everything a kernel may do (pointers, threads, Triton launches) stays out of the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pydelta.core import check
from pydelta.core.random import Key

_LIBRARY = torch.library.Library("pydelta", "DEF")

_WRAP = 1 << 64


def to_int64(value: int) -> int:
    """An unsigned 64-bit integer as the signed one that a schema's ``int`` holds."""
    return value - _WRAP if value >= _WRAP >> 1 else value


@functools.lru_cache(maxsize=4096)
def key_of(seed: int, stream: int) -> Key:
    """The key that a schema's two ints stand for."""
    return Key(seed % _WRAP, stream % _WRAP)


def define(
    name: str,
    arguments: str,
    returns: str,
    run: Callable[..., Any],
    fake: Callable[..., Any] = lambda *args: None,
    backward: Callable[..., Any] | None = None,
    save: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Defines ``pydelta::name`` as ``run`` itself; returns it.

    Args:
        arguments, returns: of the schema, which says what is written in place.
        run, fake: the operator on real tensors and on those that have no data.
        backward, save: as torch.library.register_autograd takes them.
    """
    _LIBRARY.define(f"{name}({arguments}) -> {returns}")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pydelta::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"pydelta::{name}", backward, setup_context=save, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.pydelta, name).default
    return operator


def register(
    name: str,
    arguments: str,
    run: Callable[..., None],
    empty: Callable[..., torch.Tensor],
    backward: Callable[..., Any] | None = None,
    save: Callable[..., Any] | None = None,
) -> tuple[Callable[..., torch.Tensor], Callable[..., None]]:
    """Defines ``pydelta::name`` and ``pydelta::name_out``; returns both.

    Args:
        arguments: the schema's arguments.
        run: run(out, \\*arguments) writes the result into a contiguous ``out``.
        empty: empty(\\*arguments) gives the uninitialised result.
        backward, save: as torch.library.register_autograd takes them.
    """

    def functional(*args: Any) -> torch.Tensor:
        out = empty(*args)
        run(out, *args)
        return out

    def into(*args: Any) -> None:
        *inputs, out = args
        check.no_partial_overlap(name, out, _tensors(inputs))
        if out.is_contiguous():
            run(out, *inputs)
        else:
            out.copy_(functional(*inputs))

    new = define(name, arguments, "Tensor", functional, empty, backward, save)
    return new, define(f"{name}_out", f"{arguments}, Tensor(a!) out", "()", into)


def register_tuple(
    name: str,
    arguments: str,
    returns: str,
    run: Callable[..., None],
    empty: Callable[..., tuple[torch.Tensor, ...]],
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Defines ``pydelta::name`` alone, for an op that returns several tensors; returns it.

    Args:
        arguments, returns: of the schema.
        run, empty: as for :func:`register`, with a tuple for ``out``.
    """

    def functional(*args: Any) -> tuple[torch.Tensor, ...]:
        out = empty(*args)
        run(out, *args)
        return out

    return define(name, arguments, returns, functional, empty)


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors among a schema's values, and in its lists of them."""
    flat = []
    for value in values:
        if isinstance(value, torch.Tensor):
            flat.append(value)
        elif isinstance(value, list) and value and not isinstance(value[0], (int, float)):
            flat += [x for x in value if isinstance(x, torch.Tensor)]
    return flat


def no_grad_into_out(op: str, inputs: Sequence[torch.Tensor]) -> None:
    """Autograd cannot follow a write into ``out``."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise ValueError(f"[{op}] out must not be given when an input requires a gradient, got both")


def without_grad(x: torch.Tensor) -> torch.Tensor:
    """``x`` for an op that is not differentiable."""
    return x.detach() if x.requires_grad else x

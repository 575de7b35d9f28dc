"""The one dispatcher: (op, device, dtype, installed backends) -> a kernel.

A kernel has the arguments of its public op, already checked and with every default filled in, and
writes into a contiguous ``out``. Backends are loaded on first use, so a CPU user never imports
Triton.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from pydelta.core import check
from pydelta.core.interpreter import interpreted

Kernel = Callable[..., None]

BACKENDS = ("cpu", "cuda", "triton", "reference")
"""In order of preference."""

OLDEST_TRITON = (3, 4)

_MADE_OF = dict.fromkeys(("vera_forward", "vera_backward", "vera_merge"), "vera_matrix")
"""Ops that are torch's products and one kernel of ours."""

_PART_OF = {"vera_forward": "vera_linear", "vera_backward": "vera_linear"}
"""Kernels of one public op, by whose name an error calls them."""

_MODULES = {
    "cpu": "pydelta.native",
    "cuda": "pydelta.native",
    "triton": "pydelta.triton_kernels",
    "reference": "pydelta.reference",
}
_FORCED: ContextVar[str] = ContextVar("pydelta_backend", default="")


@functools.cache
def missing(backend: str) -> str:
    """Why a backend is not there; "" if it is.

    Raises:
        ImportError: the backend is installed and broken.
    """
    if backend in ("cpu", "cuda"):
        if importlib.util.find_spec(f"pydelta._{backend}") is None:
            return f"this installation was built without the {backend} extension"
        extension = importlib.import_module(f"pydelta._{backend}")
        return str(extension.missing())
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        version = importlib.metadata.version("triton")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON:
            return f"triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
        if not interpreted() and not torch.cuda.is_available():
            return "torch sees no CUDA device"
    return ""


def backends() -> dict[str, bool]:
    """Which backends can run here: ``{"cpu": True, "cuda": False, ...}``, in order of preference."""
    return {backend: not missing(backend) for backend in BACKENDS}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every op runs on the backend ``name``.

    Raises:
        ValueError: no backend has that name.
        RuntimeError: the backend is not there.
    """
    token = _FORCED.set(_present("use_backend", name))
    try:
        yield
    finally:
        _FORCED.reset(token)


def kernel(op: str, x: torch.Tensor, backend: str | None) -> Kernel:
    """The kernel of ``op`` for a tensor like ``x``; ``backend`` overrides the choice.

    Raises:
        ValueError: no backend has that name, or it cannot take ``x``.
        RuntimeError: the backend is not there.
    """
    return _kernel(op, x.device.type, x.dtype, backend or _FORCED.get())


@functools.cache
def _kernel(op: str, device: str, dtype: torch.dtype, forced: str) -> Kernel:
    if forced:
        public = _PART_OF.get(op, op)
        backend = _present(public, forced)
        if not _takes(backend, device, dtype):
            kind = f"{check.name_of(dtype)} tensors on {device}"
            raise ValueError(
                f"[{public}] backend {backend} must be able to take {kind}, got backend={backend!r}"
            )
        loaded = _load(backend, op)
        if loaded is None:
            raise ValueError(f"[{public}] backend must be one that has this op, got {backend!r}")
        return loaded
    able = (b for b in BACKENDS if _takes(b, device, dtype) and not missing(b))
    return next(kernel for b in able if (kernel := _load(b, op)) is not None)


def _load(backend: str, op: str) -> Kernel | None:
    """The backend's kernel; None where it has none yet, and the reference does the work."""
    module = importlib.import_module(_MODULES[backend])
    if backend == "reference":
        function = getattr(module, op)
        return function if op.endswith("_") else _writing(function)
    if backend == "triton":
        return getattr(module, op, None)
    extension = module.extension(backend)
    if not hasattr(extension, _MADE_OF.get(op, op)):
        return None
    return functools.partial(getattr(module, op), extension)


def _present(op: str, backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"[{op}] backend must be one of {', '.join(sorted(BACKENDS))}, got {backend!r}")
    if reason := missing(backend):
        raise RuntimeError(f"[{op}] backend {backend} must be there, got: {reason}")
    return backend


def _takes(backend: str, device: str, dtype: torch.dtype) -> bool:
    if backend == "reference":
        return True
    if backend == "cpu":
        return device == "cpu"
    if dtype is torch.float64:
        return False
    return device == "cuda" or (backend == "triton" and device == "cpu" and interpreted())


def _writing(reference: Callable[..., Any]) -> Kernel:
    def into(*args: Any, out: Any, **options: Any) -> None:
        _copy(out, reference(*args, **options))

    return into


def _copy(out: Any, result: Any) -> None:
    """A result into its place: a tensor, a tuple of them, or the tensors of a dataclass."""
    if isinstance(result, torch.Tensor):
        out.copy_(result)
        return
    if isinstance(result, tuple):
        for target, part in zip(out, result, strict=True):
            target.copy_(part)
        return
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, torch.Tensor):
            getattr(out, field.name).copy_(value)

"""Steps of models.py on weights: eight models superposed, one retrieved, merged, swapped and served."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from gpu.lab import MODELS, NAMES, Lab
from harness import Run
from torch import nn
from torch.nn.functional import linear

import pydelta
from pydelta import Superposition, reference

METHODS = {
    "linear": {},
    "task_arithmetic": {"lam": 0.3},
    "ties": {"density": 0.2},
    "dare_linear": {"density": 0.2},
    "dare_ties": {"density": 0.2},
    "della": {"density": 0.5, "epsilon": 0.2},
    "della_linear": {"density": 0.5, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.85, "gamma": 0.01},
    "breadcrumbs_ties": {"density": 0.85, "gamma": 0.01},
}
ROWS = (1, 4, 16, 64, 256)


Sources = Mapping[str, "torch.Tensor | pydelta.Quantized"]
Inputs = dict[int, torch.Tensor]


def bytes_of(tensors: Sources) -> int:
    return sum(x.nbytes for x in tensors.values())


def coded(tensors: dict[str, torch.Tensor], bits: int) -> Sources:
    """The codes of so many bits; no bits: the tensors themselves."""
    return {name: pydelta.quantize(x, bits=bits) for name, x in tensors.items()} if bits else tensors


def superpose(lab: Lab) -> None:
    """Eight models, made tensor after tensor: all of them at once would fill the device."""
    seconds, size = 0.0, 0
    keys = [*lab.keys.values()]
    for i, (name, shape) in enumerate(lab.shapes["7B"].matrices().items()):
        base = lab.made(shape, 0.02)
        tuned, out = lab.tuned(base), torch.full_like(base, float("nan"))

        def run(
            base: torch.Tensor = base, tuned: list[torch.Tensor] = tuned, out: torch.Tensor = out
        ) -> None:
            pydelta.superpose(base, tuned, keys, out=out)

        run()
        if i == 0:
            some = reference.superpose(base[:2], [x[:2] for x in tuned], keys, out_dtype=base.dtype)
            assert torch.equal(out[:2], some), f"{name} differs from the reference's"
        seconds += lab.seconds(run)
        size += base.nbytes
    lab.file("superpose a model", seconds, (MODELS + 2) * size, size, models=MODELS)


def retrieve(lab: Lab) -> None:
    """All tensors one after the other, with signs and from one bit."""
    shapes = lab.shapes["7B"].matrices()
    base, superposed = lab.weights(shapes), lab.weights(shapes, 3e-3)
    out, key = {name: torch.empty_like(x) for name, x in base.items()}, lab.keys["m0"]
    for bits in (0, 1):
        sources = coded(superposed, bits)

        def run(sources: Sources = sources) -> None:
            for name, x in base.items():
                pydelta.retrieve(x, sources[name], key, out=out[name])

        seconds = lab.median(run)
        name, s = next(iter(superposed.items()))
        if not bits:
            assert torch.equal(out[name][:2], reference.retrieve(base[name][:2], s[:2], key)), name
        moved = 2 * bytes_of(base) + bytes_of(sources)
        transform = "1 bit" if bits else "sign"
        lab.file("retrieve a model", seconds, moved, bytes_of(base), transform=transform, tensors=len(base))


def merge(lab: Lab) -> None:
    """Eight models by each method, counting included, through ``pydelta.merge`` on state dicts."""
    llama = lab.shapes["7B"]
    shapes = {name: shape for i in range(llama.some) for name, shape in llama.layer(i).items()}
    base = lab.weights(shapes)
    models = {name: {t: x + lab.made(tuple(x.shape), 1e-3) for t, x in base.items()} for name in NAMES}
    size = bytes_of(base)
    for method, dials in METHODS.items():
        given = None if method == "linear" else base

        def run(method: str = method, dials: dict[str, float] = dials, given: object = given) -> None:
            pydelta.merge(given, models, method=method, weights=1 / MODELS, **dials)

        moved = (MODELS + 1 + (given is not None)) * size
        facts = {"models": MODELS, "layers": llama.some}
        lab.file("merge models", lab.median(run, 3), moved, size, transform=method, **facts)


def module_of(weights: dict[str, torch.Tensor]) -> nn.Module:
    """A module with such parameters, which never runs."""
    root = nn.Module()
    for name, x in weights.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(x, requires_grad=False))
    return root


def swap(lab: Lab) -> None:
    """``Superposition.attach`` and ``activate`` on a store of some layers, to and fro between two models."""
    llama = lab.shapes["7B"]
    weights = lab.weights(llama.matrices(llama.some))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        pydelta.save_checkpoint({name: x.cpu() for name, x in weights.items()}, path / "base")
        for name in NAMES[:2]:
            tuned = {t: (x + lab.made(tuple(x.shape), 1e-3)).cpu() for t, x in weights.items()}
            pydelta.save_checkpoint(tuned, path / name)
        sources = {name: path / name for name in NAMES[:2]}
        store = Superposition.create(path / "base", sources, path / "store", dtype="bf16")
        bank, names = store.attach(module_of(weights)), itertools.cycle(NAMES[:2])
        seconds = lab.median(lambda: bank.activate(next(names)))
        truth = store.retrieve(str(bank.active))
    assert all(torch.equal(x.cpu(), truth[name]) for name, x in bank.targets.items()), "the weights differ"
    size = bytes_of(weights)
    lab.file("swap models", seconds, 3 * size, size, layers=llama.some, tensors=len(weights))


def batches(lab: Lab, op: str, prepared: Callable[[Run], Run]) -> None:
    """One token of eight models in turn through every linear layer, beside one model's and the base's."""
    llama = lab.shapes["7B"]
    weights = lab.weights({t: s for i in range(llama.layers) for t, s in llama.layer(i).items()})
    values, keys = {t: lab.made(tuple(x.shape), 3e-3) for t, x in weights.items()}, [*lab.keys.values()]

    def through(inputs: Inputs, superposed: Sources, model: torch.Tensor) -> None:
        for name, w in weights.items():
            pydelta.superposed_linear(inputs[w.shape[1]], w, superposed[name], keys, model)

    def alone(inputs: Inputs) -> None:
        for w in weights.values():
            linear(inputs[w.shape[1]], w)

    for bits in (0, 1):
        superposed = coded(values, bits)
        for rows in ROWS:
            inputs = {n: lab.made((rows, n), 1.0) for n in (llama.width, llama.inner)}
            turns, one = torch.arange(rows) % MODELS, torch.zeros(rows, dtype=torch.int64)
            runs = {
                "mixed": functools.partial(through, inputs, superposed, turns),
                "one model": functools.partial(through, inputs, superposed, one),
                "base": functools.partial(alone, inputs),
            }
            with torch.inference_mode():
                peers = {name: lab.median(prepared(run)) for name, run in runs.items()}
            moved = bytes_of(weights) + bytes_of(superposed)
            transform = f"{f'{bits} bit' if bits else 'float'}, {rows} rows"
            facts = {"transform": transform, "rows": rows, "bits": bits, "models": MODELS}
            lab.file(op, peers.pop("mixed"), moved, bytes_of(weights), peers=peers, **facts)


def mixed(lab: Lab) -> None:
    batches(lab, "mixed batch", lambda run: run)


def graphs(lab: Lab) -> None:
    """The same, replayed as CUDA graphs: without the host's time for every call."""
    batches(lab, "mixed batch, graph", lab.captured)


STEPS = (superpose, retrieve, merge, swap, mixed)

"""Serving 32 models of a Llama-shaped base in bf16: swaps, and batches that mix the models.

    pytest bench/bench_serve.py --record serve

A swap stands beside loading the fine-tune from safetensors in the page cache with ``load_state_dict``, beside
the plain copy of the bytes that it moves, and beside PEFT's swap of a LoRA adapter, which is no full
fine-tune, in place from its file. A mixed batch of one token a row stands beside the same rows on one model,
beside swapping from model to model, and beside as many resident models. Four fine-tunes are made; the 32
models are these under eight names each, which changes neither times nor bytes.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ALL_THREADS
from make_models import NAMES, config, make
from safetensors.torch import load_file
from summary import Result

from pydelta import Superposition

transformers = pytest.importorskip("transformers")

ROUNDS = 7  # a swap of all weights takes long: it bounds the run's time
MODELS = {f"{name}-{i}": name for i in range(8) for name in NAMES[1:]}
RANK, ROWS = 16, 32
Runs = dict[str, Callable[[], object]]


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Superposition, Any]]:
    """The folder, the store and the base as a module."""
    layers = 1 if request.config.option.quick else 6
    folder = tmp_path_factory.mktemp("served")
    make(folder, layers)
    paths = {model: folder / name for model, name in MODELS.items()}
    store = Superposition.create(folder / "base", paths, folder / "store", dtype="bf16")
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config(layers))).bfloat16().eval()
    yield folder, store, base
    shutil.rmtree(folder)


def medians(runs: Runs) -> dict[str, float]:
    """Seconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def file(results: list[Result], op: str, seconds: dict[str, float], **facts: Any) -> None:
    ours = seconds.pop("pydelta")
    results.append(
        {"op": op, "dtype": "bf16", "threads": ALL_THREADS, "seconds": ours, "peers": seconds, **facts}
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT with transformers
def test_swap(served: tuple[Path, Superposition, Any], results: list[Result]) -> None:
    folder, store, base = served
    bank, other = store.attach(base), copy.deepcopy(base)
    names = itertools.cycle(list(MODELS)[:2])  # both have been there: files are mapped, pages present
    written = sum(x.nbytes for x in bank.targets.values())
    moved = sum(x.nbytes for x in bank.targets.values() if x.dim() > 1) * 3  # base, superposition, weights
    a = torch.zeros(moved // 4, dtype=torch.bfloat16)
    b = torch.zeros_like(a)

    def reload() -> None:
        other.load_state_dict(load_file(folder / MODELS[next(names)] / "model.safetensors"), strict=False)

    runs: Runs = {
        "copy of the same bytes": lambda: b.copy_(a),
        "load_state_dict": reload,
        f"PEFT, LoRA of rank {RANK}": lora_swap(base, folder),
        "pydelta": lambda: bank.activate(next(names)),
    }
    with torch.no_grad():
        for run in [*runs.values()] * 2:
            run()
        found = medians(runs)
    truth = store.retrieve(str(bank.active))
    assert all(torch.equal(x, truth[name]) for name, x in bank.targets.items()), "the swapped weights differ"
    file(results, "swap", found, size=written, gbps=moved / found["pydelta"] * 1e-9)


def lora_swap(base: Any, folder: Path) -> Callable[[], object]:
    """Puts the weights of another adapter, on all linear layers, into the active one's place."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.hotswap import hotswap_adapter

    config = LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(base), config)
    for name in ("a", "b"):
        model.save_pretrained(folder / "lora" / name)
    paths = itertools.cycle([folder / "lora" / name for name in ("a", "b")])
    return lambda: hotswap_adapter(model, str(next(paths)), adapter_name="default")


@pytest.mark.parametrize("models", [1, 2, 8, 32])
def test_mixed_batch(served: tuple[Path, Superposition, Any], results: list[Result], models: int) -> None:
    _, store, base = served
    bank, swapping = store.attach(copy.deepcopy(base)), store.attach(copy.deepcopy(base))
    resident = {}
    chosen = list(MODELS)[:models]
    for name in chosen:
        swapping.activate(name)
        resident[name] = copy.deepcopy(swapping.module)
    bank.serve()
    ids = torch.arange(ROWS).view(ROWS, 1)
    names = [chosen[i % models] for i in range(ROWS)]
    groups = {name: ids[[i for i in range(ROWS) if names[i] == name]] for name in chosen}

    def mixed(names: list[str]) -> torch.Tensor:
        with bank.models(names):
            logits: torch.Tensor = bank.module(ids, use_cache=False).logits
        return logits

    def swap() -> None:
        for name, own in groups.items():
            swapping.activate(name)
            swapping.module(own, use_cache=False)

    runs: Runs = {
        "base alone": lambda: bank.module(ids, use_cache=False),
        "one model": lambda: mixed([chosen[0]] * ROWS),
        "swapping": swap,
        "all resident": lambda: [resident[name](own, use_cache=False) for name, own in groups.items()],
        "pydelta": lambda: mixed(names),
    }
    with torch.inference_mode():
        found, truth = mixed(names)[0], resident[names[0]](ids[:1], use_cache=False).logits[0]
        error = float((found.float() - truth.float()).abs().max())
        assert error <= 2.0**-4 * float(truth.float().abs().max()), "the result differs"
        times = medians(runs)
    size = sum(x.nbytes for x in bank.targets.values())
    exact = sum(x.nbytes for name in chosen for x in bank.sources.exact(name).values())
    memory = {"served_bytes": 2 * size + exact, "resident_bytes": models * size}
    file(results, f"mixed batch of {models}", times, size=size, models=models, rows=ROWS, **memory)

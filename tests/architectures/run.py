"""One model class after another through a store: retrieved and loaded, attached, mixed, generating.

    python tests/architectures/run.py [NAME...] [--table docs/architectures.md]

Each step is right to rounding, or refused with a sentence of pydelta's. Exit status 1: something is wrong, or
ends in a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from pydelta import Superposition
from pydelta.superposition.serving import Bank  # noqa: F401  before the processes part

sys.path.insert(0, str(Path(__file__).parent))
from kinds import KINDS, Kind

STEPS = ("load", "activate", "mixed", "generate")
NAMES = ["a", "b", "a"]
TOLERANCE = 2e-3
"""Of the largest output; models differ by a hundred times as much."""
FIELDS = ("logits", "last_hidden_state", "text_embeds", "image_embeds", "prediction_logits")


class NotComparable(Exception):  # noqa: N818
    """A step that a model does not have, or that transformers itself does otherwise for a batch."""


class Family:
    """A random base of a class, two fine-tunes, and their store."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.cls = getattr(transformers, kind.name)
        torch.manual_seed(0)
        options = {**kind.options, "attn_implementation": "eager"}
        base = self.cls(self.cls.config_class(**options)).eval()
        for name, x in base.named_parameters():  # nothing begins at zero or one and hides what it should not
            if x.is_floating_point() and ("bias" in name or "norm" in name.lower()):
                x.data += 0.05 * torch.randn(x.shape)
        base.save_pretrained(folder / "base")
        for seed, name in enumerate("ab", 1):
            shutil.copytree(folder / "base", folder / name)
            for file in (folder / name).glob("*.safetensors"):
                save_file(moved(load_file(file), seed), file, metadata={"format": "pt"})
        self.store = Superposition.create(
            folder / "base", {n: folder / n for n in "ab"}, folder / "store", buckets=2
        )
        self.plain = {n: self.loaded(folder / n) for n in "ab"}

    def loaded(self, path: Path) -> Any:
        return self.cls.from_pretrained(path, local_files_only=True, attn_implementation="eager").eval()


def moved(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = {name: 0.3 * float(x.float().std()) if x.numel() > 1 else 0.05 for name, x in tensors.items()}
    return {
        name: (x + max(sizes[name], 0.01) * torch.randn(x.shape, generator=g)).to(x.dtype)
        if x.is_floating_point() and "running_var" not in name
        else x
        for name, x in tensors.items()
    }


def batch_of(kind: Kind, length: int) -> dict[str, torch.Tensor]:
    """Three rows."""
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 60, (3, length), generator=g)
    size = 16 if kind.options.get("image_size") == 16 else 8
    if "image_size" not in kind.options and "vision_config" not in kind.options:
        size = 32
    pixels = torch.randn(3, 3, size, size, generator=g)
    decoder = torch.randint(5, 60, (3, 3), generator=g)
    if kind.inputs == "prompt":
        ids = torch.cat([torch.full((3, 4), 63), ids], 1)
    return {
        "text": {"input_ids": ids},
        "seq2seq": {"input_ids": ids, "decoder_input_ids": decoder},
        "image": {"pixel_values": pixels},
        "speech": {"input_values": torch.randn(3, 100 * length, generator=g)},
        "features": {"input_features": torch.randn(3, 8, 32, generator=g), "decoder_input_ids": decoder},
        "pair": {"input_ids": ids, "pixel_values": pixels},
        "prompt": {"input_ids": ids, "pixel_values": pixels},
    }[kind.inputs]


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**inputs)
    found = [result[field] for field in FIELDS if result.get(field) is not None]
    assert found, f"no known field among {list(result)}"
    return found


def alone(family: Family, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    rows = [
        outputs(family.plain[n], {k: x[i : i + 1] for k, x in inputs.items()}) for i, n in enumerate(NAMES)
    ]
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def same(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for x, y in zip(got, wanted, strict=True):
        if x.shape != y.shape:
            raise AssertionError(f"shape {tuple(x.shape)}, a model alone has {tuple(y.shape)}")
        off, largest = float((x - y).abs().max()), float(y.abs().max())
        if not off <= TOLERANCE * largest:
            raise AssertionError(f"off by {off:.2g} of {largest:.2g}")


def load(family: Family) -> None:
    family.store.retrieve("a", family.folder / "out")
    inputs = batch_of(family.kind, 5)
    same(outputs(family.loaded(family.folder / "out"), inputs), outputs(family.plain["a"], inputs))


def activate(family: Family) -> None:
    module = family.loaded(family.folder / "base")
    bank = family.store.attach(module)
    inputs = batch_of(family.kind, 5)
    base = outputs(module, inputs)
    for name in "ab":
        bank.activate(name)
        wanted = outputs(family.plain[name], inputs)
        same(outputs(module, inputs), wanted)
    apart = max(float((x - y).abs().max()) / float(y.abs().max()) for x, y in zip(base, wanted, strict=True))
    if apart < 20 * TOLERANCE:
        raise AssertionError(f"base and model differ by {apart:.2g} alone")


def mixed(family: Family) -> None:
    module = family.loaded(family.folder / "base")
    bank = family.store.attach(module)
    bank.serve()
    for length in (5, 3, 8):
        inputs = batch_of(family.kind, length)
        with bank.models(NAMES):
            got = outputs(module, inputs)
        same(got, alone(family, inputs))


def generate(family: Family) -> None:
    module = family.loaded(family.folder / "base")
    if not module.can_generate():
        raise NotComparable
    inputs = batch_of(family.kind, 5)
    inputs.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    by_itself(family, inputs, options)
    bank = family.store.attach(module)
    bank.serve()
    with torch.no_grad():
        wanted = [
            family.plain[n].generate(**{k: x[i : i + 1] for k, x in inputs.items()}, **options)
            for i, n in enumerate(NAMES)
        ]
        with bank.models(NAMES):
            got = module.generate(**inputs, **options)
    if not torch.equal(got, torch.cat(wanted)):
        raise AssertionError(f"{got[:, -4:].tolist()}, alone {torch.cat(wanted)[:, -4:].tolist()}")


def by_itself(family: Family, inputs: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    """Whether the model alone gives a batch's rows what it gives them one by one."""
    model = family.plain["a"]
    try:
        with torch.no_grad():
            together = model.generate(**inputs, **options)
            rows = [
                model.generate(**{k: x[i : i + 1] for k, x in inputs.items()}, **options) for i in range(3)
            ]
    except Exception as error:
        raise NotComparable(f"transformers' own model: {type(error).__name__}") from error
    if not torch.equal(together, torch.cat(rows)):
        raise NotComparable("transformers' own batch differs from its rows")


def said(step: Callable[[Family], None], family: Family) -> str:
    """What becomes of a step: right, "-" where there is none, or refused, WRONG, a traceback, and why."""
    try:
        step(family)
    except NotComparable as error:
        return f"- {error}".strip()
    except AssertionError as error:
        return f"WRONG: {error}"
    except Exception as error:
        text = " ".join(str(error).split())
        frames = traceback.extract_tb(error.__traceback__)
        own = "pydelta" in Path(frames[-1].filename).parts and isinstance(error, (ValueError, TypeError))
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        return f"refused: {text}" if own else f"traceback: {type(error).__name__} at {at}: {text[:300]}"
    return "right"


def row_of(kind: Kind) -> dict[str, str]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack():
        try:
            family = Family(kind, Path(folder))
        except Exception as error:
            return {"made": f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        return {step.__name__: said(step, family) for step in (load, activate, mixed, generate)}


def rows(kinds: list[Kind]) -> Iterator[tuple[Kind, dict[str, str]]]:
    """Each class in a process of its own, whose memory goes with it."""
    context = multiprocessing.get_context("fork")
    for kind in kinds:
        here, there = context.Pipe(duplex=False)

        def work(pipe: Any = there, kind: Kind = kind) -> None:
            torch.set_num_threads(1)
            pipe.send(row_of(kind))

        process = context.Process(target=work)
        process.start()
        made = here.recv() if here.poll(300) else {"made": "traceback: no answer in 300 s"}
        process.terminate()
        process.join()
        yield kind, made


def table(found: list[tuple[Kind, dict[str, str]]]) -> str:
    head = f"| model | {' | '.join(STEPS)} |\n|---|{'---|' * len(STEPS)}\n"
    lines = [
        f"| {kind.name} | " + " | ".join(row.get(step, row.get("made", "")) for step in STEPS) + " |"
        for kind, row in found
    ]
    return head + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="classes; by default all")
    parser.add_argument("--table", type=Path, help="a document whose table is written anew")
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if not args.names or kind.name in args.names]
    found = []
    for kind, row in rows(kinds):
        found.append((kind, row))
        print(kind.name, "  ".join(f"{step}: {text}" for step, text in row.items()), flush=True)
    if args.table:
        text = args.table.read_text()
        args.table.write_text(text[: text.index("| model |")] + table(found))
    bad = [
        kind.name for kind, row in found if any(t.startswith(("WRONG", "traceback")) for t in row.values())
    ]
    print(f"{len(found)} classes, wrong: {', '.join(bad) or 'none'}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

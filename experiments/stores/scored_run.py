"""What ``bits.py`` and ``dials.py`` share: arguments, family, the JSON that they write."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from families import digits, sentences
from stores.proof import Proof

import pydelta


def parser_of(description: str | None, counts: Sequence[int]) -> argparse.ArgumentParser:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.add_argument("--family", default="digits")
    parser.add_argument("--tuned", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--counts", type=int, nargs="+", default=counts)
    parser.add_argument("--sample", type=int, default=16, help="models that are scored at each point")
    parser.add_argument("--sentences", type=int, help="of each task that are scored; default: all")
    parser.add_argument("--seed", type=int, default=42)
    return parser


class Run:
    """A family under proof, and its result.

    Args:
        seeds: of each task of the digits.
    """

    def __init__(self, arguments: argparse.Namespace, seeds: int) -> None:
        self.arguments, self.started = arguments, time.time()
        self.family = (
            digits(arguments.seed, seeds=seeds)
            if arguments.family == "digits"
            else sentences(Path(arguments.family), arguments.tuned, arguments.sentences)
        )
        self.proof = Proof(self.family, arguments.sample, arguments.seed)

    def write(self, kind: str, points: list[dict[str, Any]], **facts: Any) -> tuple[dict[str, Any], Path]:
        """Writes OUT/FAMILY-KIND.json; gives what is in it, and where the picture goes."""
        given, most = self.arguments, max(self.arguments.counts)
        result = {
            "family": self.family.name,
            "seed": given.seed,
            "tuned_models": len(self.family.tuned),
            "tasks": len(set(self.family.tasks.values())),
            "counts": list(given.counts),
            "sample": given.sample,
            "sentences": given.sentences,
            "parameters": self.proof.parameters,
            "tuned": self.proof.tuned,
            "no_bits": self.proof.untuned(most),
            "points": points,
            **facts,
            "torch": torch.__version__,
            "pydelta": pydelta.__version__,
            "minutes": (time.time() - self.started) / 60,
        }
        given.out.mkdir(parents=True, exist_ok=True)
        path = given.out / f"{self.family.name}-{kind}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        return result, path.with_suffix(".png")

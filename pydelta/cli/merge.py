"""``pydelta merge``: a recipe in, one merged model out."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.cli.compress import Commands, add_output_flags, seed

if TYPE_CHECKING:
    from pydelta.calibration import Calibration
    from pydelta.merging.job import Job

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "merge",
        help="merge fine-tunes by a recipe",
        description="Merge fine-tunes of one base by a recipe, mergekit's YAML.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="a folder, or one file if it ends in .safetensors"
    )
    parser.add_argument(
        "--check", action="store_true", help="read headers alone: list every problem, or what it will take"
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="N outputs OUT-<seed>, from N seeds, in one pass"
    )
    parser.add_argument("--calibration", metavar="FILE", help="made by pydelta.calibration, for rescale q")
    parser.add_argument(
        "--mergekit", action="store_true", help="follow mergekit where it departs from the papers"
    )
    add_merge_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run, fail=parser.error)


def add_merge_flags(parser: argparse.ArgumentParser) -> None:
    """What merging and pruning have in common."""
    parser.add_argument(
        "--vocabulary",
        choices=("error", "common"),
        default="error",
        help="tensors whose numbers of rows differ: refuse (default), or take the rows that all have",
    )
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that a model may lack or have alone; repeat for more",
    )
    parser.add_argument("--threads", type=count, metavar="N", help="default: all cores")
    parser.add_argument("--device", default="cpu", metavar="D", help="default: %(default)s")
    parser.add_argument(
        "--max-shard-size", type=size, metavar="S", help="such as 5GB; default: the shards of the base"
    )


def run(args: argparse.Namespace) -> int:
    from pydelta.checkpoint.staging import check_output
    from pydelta.merging.items import Policy
    from pydelta.merging.job import open_job
    from pydelta.merging.outputs import out_paths
    from pydelta.merging.run import run_job
    from pydelta.merging.yaml_recipe import read_recipe

    if args.out is None and not args.check:
        args.fail("OUT must be given")
    recipe = read_recipe(args.recipe)
    if args.seeds > 1 and recipe.method is not None and not recipe.method.random:
        args.fail(f"--seeds must be 1 for {recipe.method.name}, which has no random masks")
    job = open_job(recipe, Policy(args.vocabulary, tuple(args.allow_missing), {}, args.mergekit))
    if args.check:
        for path in out_paths(args.out, args.seed, args.seeds).values() if args.out else ():
            try:
                check_output(path, force=args.force, inputs=job.inputs)
            except (OSError, ValueError) as error:
                job.problems.append(str(error))
        return report(job, args)
    if not job.problems:
        set_threads(args.threads)
    paths = run_job(
        job,
        args.out,
        seed=args.seed,
        outputs=args.seeds,
        calibration=None if job.problems else load_calibration(args.calibration),
        device=args.device,
        max_shard_bytes=args.max_shard_size,
        force=args.force,
        show=not args.quiet,
    )
    if args.json:
        seeds = list(range(args.seed, args.seed + args.seeds))
        print(json.dumps({"out": [str(path) for path in paths], "seeds": seeds, "bytes": job.nbytes}))
    elif not args.quiet:
        print("\n".join(map(str, paths)))
    return 0


def report(job: Job, args: argparse.Namespace) -> int:
    """What ``--check`` prints."""
    found: dict[str, Any] = {"problems": job.problems}
    if not job.problems:
        found |= {"tensors": len(job.items), **job.estimate(args.seeds, args.threads)}
    if args.json:
        print(json.dumps(found, indent=1))
    elif job.problems:
        print("\n".join(job.problems))
    elif not args.quiet:
        print(
            f"no problems: {found['tensors']} tensors, {found['read_bytes']:,} bytes to read, "
            f"{found['written_bytes']:,} to write, {found['memory_bytes']:,} of memory, "
            f"about {found['seconds']:.0f} s"
        )
    return 1 if job.problems else 0


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def load_calibration(path: str | None) -> Calibration | None:
    if path is None:
        return None
    from pydelta.calibration import Calibration

    return Calibration.load(Path(path))


def count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 4 * (os.cpu_count() or 1) + 1000:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if found is None or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"must be a size such as 5GB or 500MiB, got {text}")
    return int(float(found[1]) * _UNITS[found[2].upper()])

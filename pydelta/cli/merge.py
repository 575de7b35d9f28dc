"""``pydelta merge``: a recipe in, one merged model out."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from pydelta.cli.arguments import (
    Commands,
    add_merge_flags,
    add_output_flags,
    count,
    load_calibration,
    seed,
    set_threads,
)

if TYPE_CHECKING:
    from pydelta.merging.planning.job import CheckedMerge


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


def run(args: argparse.Namespace) -> int:
    from pydelta.checkpoint.staging import check_output
    from pydelta.merging.planning.items import Mismatches
    from pydelta.merging.planning.job import check_merge
    from pydelta.merging.recipes.mergekit_yaml import read_recipe
    from pydelta.merging.running.outputs import out_paths
    from pydelta.merging.running.run import run_merge

    if args.out is None and not args.check:
        args.fail("OUT must be given")
    recipe = read_recipe(args.recipe)
    if args.seeds > 1 and recipe.method is not None and not recipe.method.random:
        args.fail(f"--seeds must be 1 for {recipe.method.name}, which has no random masks")
    policy = Mismatches(
        args.vocabulary,
        tuple(args.allow_missing),
        dict(args.input_dims),
        args.mergekit,
        args.dequantize,
    )
    job = check_merge(recipe, policy)
    if args.check:
        for path in out_paths(args.out, args.seed, args.seeds).values() if args.out else ():
            try:
                check_output(path, force=args.force, inputs=job.inputs)
            except (OSError, ValueError) as error:
                job.problems.append(str(error))
        return report(job, args)
    if not job.problems:
        set_threads(args.threads)
    paths = run_merge(
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


def report(job: CheckedMerge, args: argparse.Namespace) -> int:
    """What ``--check`` prints."""
    summary: dict[str, Any] = {"problems": job.problems}
    if not job.problems:
        summary |= {"tensors": len(job.items), **job.estimate(args.seeds, args.threads)}
    if args.json:
        print(json.dumps(summary, indent=1))
    elif job.problems:
        print("\n".join(job.problems))
    elif not args.quiet:
        print(
            f"no problems: {summary['tensors']} tensors, {summary['read_bytes']:,} bytes to read, "
            f"{summary['written_bytes']:,} to write, {summary['memory_bytes']:,} of memory, "
            f"about {summary['seconds']:.0f} s"
        )
    return 1 if job.problems else 0

"""``pydelta demo``: eight fine-tunes through one store; the demo reads its own arguments."""

from __future__ import annotations

import argparse

from pydelta.cli.arguments import Commands


def add(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="fine-tune, compress, retrieve, compare", add_help=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pydelta.demo.run import main

    main(args.rest)
    return 0

"""Blocks of code in the pages for people, and small checkpoints for them to run on."""

import re
import shlex
import subprocess

import torch
from paths import ROOT

from pydelta import save_checkpoint
from pydelta.cli import main


def blocks(page, *languages):
    """(language, text) of the page's fenced blocks in these languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    return [(language, text) for language, text in found if language in languages]


def run_python(text, names):
    """Runs a block, with its large matrices made small."""
    exec(text.replace("4096, 4096", "64, 64").replace("block=256", "block=64"), names)


def run_shell(text, folder):
    """Runs a block in ``folder``, the working directory: ``pydelta`` in this process, all else by bash."""
    others = ""
    for line in text.splitlines(keepends=True):
        if not line.startswith("pydelta "):
            others += line
            continue
        subprocess.run(["bash", "-euc", others], cwd=folder, check=True)
        others = ""
        words = shlex.split(line, comments=True)
        assert main(words[1:]) == 0, line
    assert not others.strip(), "a block ends with a command of pydelta"


def save_family(folder, module, names):
    """folder/base and a fine-tune of it under every name."""
    base = {name: x.detach() for name, x in module.state_dict().items()}
    save_checkpoint(base, folder / "base")
    for name in names:
        save_checkpoint({key: x + 0.01 * torch.randn_like(x) for key, x in base.items()}, folder / name)

"""docs/cli.md and docs/api.md are made from the package, and hold all of it."""

import inspect
import subprocess
import sys

import make_pages
import pytest

import pydelta
from pydelta import Superposition, calibration, checkpoint, deltafile, optim, vera
from pydelta.cli.main import COMMANDS
from pydelta.superposition.serving import Bank

PAGES = {name: make() for name, make in make_pages.PAGES.items()}
NAMES = {name: value for name, _, value in make_pages.members()}


@pytest.mark.parametrize("page", PAGES)
def test_the_script_makes_the_committed_page(page):
    assert (make_pages.HERE / page).read_text(encoding="utf-8") == PAGES[page], (
        "run: python docs/make_pages.py"
    )


def test_every_command_is_there():
    headings = [line for line in PAGES["cli.md"].splitlines() if line.startswith("## ")]
    assert headings == [f"## pydelta {command.__name__.rpartition('.')[2]}" for command in COMMANDS]
    for action in ("merge", "inspect", "export"):
        assert f"### pydelta vera {action}\n" in PAGES["cli.md"]


def test_every_argument_is_there():
    printed = subprocess.run(
        [sys.executable, "-m", "pydelta", "compress", "--help"], capture_output=True, text=True, check=True
    )
    part = PAGES["cli.md"].partition("## pydelta compress\n")[2].partition("\n## ")[0]
    flags = {word.strip("[],|") for word in printed.stdout.split() if word.strip("[],|").startswith("--")}
    assert {flag for flag in flags if f"`{flag}" not in part and f", {flag}" not in part} == {"--help"}


@pytest.mark.parametrize(
    ("prefix", "names"),
    [("", pydelta.__all__)]
    + [
        (f"{m.__name__.removeprefix('pydelta.')}.", m.__all__)
        for m in (optim, vera, deltafile, calibration, checkpoint)
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_public_name_is_there_once(prefix, names):
    lines = PAGES["api.md"].splitlines()
    for name in names:
        full = f"pydelta.{name}" if name in pydelta.__all__ else f"pydelta.{prefix}{name}"
        headings = [f"### {kind}`{full}`" for kind in ("", "class ", "module ")]
        assert sum(lines.count(heading) for heading in headings) == 1, full


@pytest.mark.parametrize("kind", [Superposition, Bank])
def test_every_method_is_there(kind):
    public = {name for name, value in inspect.getmembers(kind) if not name.startswith("_")}
    for name in public:
        assert f"#### `{kind.__name__}.{name}`\n" in PAGES["api.md"], name


def test_no_anchor_stands_for_two_headings():
    for page in PAGES.values():
        anchors = [make_pages.slug(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")]
        assert len(anchors) == len(set(anchors))


def test_no_address_of_an_object_is_printed():
    assert " at 0x" not in PAGES["api.md"]

"""Imports go one way, and a command that needs no torch, no Triton, no kernels never loads them."""

import ast
import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

import pydelta

PACKAGE, TRITON = ROOT / "pydelta", ROOT / "triton_kernels"

# From the bottom up: a module imports only from lower ranks, or from its own room.
ORDER = [
    {"core"},
    {"random", "masks", "products"},
    {"reference", "native", "triton_kernels"},
    {"_dispatch"},
    {"ops"},
    {"compat"},
    {"checkpoint"},
    {"calibration"},
    {"darex"},
    {"deltafile", "diagnostics", "merging", "superposition", "vera", "optim"},
    {"demo", "hf"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
EXTENSIONS = {"_cpu", "_cuda"}
# Where the names live that `pydelta.name` and `from pydelta import name` give.
HOME = {name: home.split(".")[1] for name, home in pydelta._HOME.items()}


def sources():
    """(room, file) of every module but the package's own front door."""
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, file
    for file in sorted(TRITON.rglob("*.py")):
        yield "triton_kernels", file


def imported(file):
    """The rooms of pydelta that a file uses: imports at its top or inside a function, and `pydelta.name`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("pydelta."), f"{file}: from {alias.name} import ... instead"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pydelta":
            yield HOME.get(node.attr, node.attr)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            if node.module == "pydelta":
                yield from (HOME.get(alias.name, alias.name) for alias in node.names)
            elif (node.module or "").startswith("pydelta."):
                yield node.module.split(".")[1]


MODULES = [pytest.param(room, file, id=str(file.relative_to(ROOT))) for room, file in sources()]


@pytest.mark.parametrize(("room", "file"), MODULES)
def test_imports_go_one_way(room, file):
    assert room in RANK, f"{room} needs a place in ORDER"
    for other in imported(file):
        if other == "__version__" or other == room or other in EXTENSIONS:
            continue
        assert RANK[other] < RANK[room], f"{file} imports pydelta.{other}, which is not below pydelta.{room}"


def test_rooms_are_few_and_small():
    """A folder with more modules than fit in one look has parts; rooms of ops have a module an op."""
    assert len({room for room, _ in sources()}) <= 26
    of_ops = {PACKAGE / "ops", PACKAGE / "reference", TRITON}
    for folder in {file.parent for _, file in sources()} - of_ops - {PACKAGE}:
        modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= 16, f"{folder} has {len(modules)} modules"


def test_only_native_and_the_dispatcher_know_the_extensions():
    users = {room for room, file in sources() if EXTENSIONS & set(imported(file))}
    assert users <= {"native", "_dispatch", "cli"}


def python(program):
    """Runs a program in a fresh process, Triton's interpreter off; gives the JSON it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("module", ["pydelta", "pydelta.cli"])
def test_no_torch_before_it_is_needed(module):
    loaded = python(f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))")
    assert not {"torch", "triton", "numpy", "safetensors"} & set(loaded)


def test_no_triton_for_a_cpu_tensor():
    call = "pydelta.hadamard(torch.ones(2, 8))"
    program = f"import json, sys, torch, pydelta; {call}; print(json.dumps('triton' in sys.modules))"
    assert python(program) is False


def test_import_time_beyond_torch():
    """All names of the public surface, in under 150 ms of work, whatever else the machine is doing."""
    program = """
import json, time, torch
start = time.process_time()
import pydelta
for name in pydelta.__all__:
    getattr(pydelta, name)
pydelta.backends()
print(json.dumps(time.process_time() - start))
"""
    assert min(python(program) for _ in range(3)) < 0.150


def test_the_public_surface():
    assert dir(pydelta) == sorted(pydelta.__all__)
    with pytest.raises(AttributeError) as caught:
        _ = pydelta.hadamards
    assert str(caught.value) == "module 'pydelta' has no attribute 'hadamards'"

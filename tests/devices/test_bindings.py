"""What Python passes to compiled kernels: codes as in csrc/core, arguments as in the extensions' stubs."""

import ast
import re
from pathlib import Path

import pytest
from paths import ROOT

import pydelta
from pydelta.core import codes

CORE = ROOT / "csrc" / "core"
# The names of types in C++, where those of torch are longer.
SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}


@pytest.mark.parametrize(
    ("header", "enumeration", "table"),
    [
        ("types.h", "Dtype", codes.DTYPES),
        ("transform.h", "Transform", codes.TRANSFORMS),
        ("mask.h", "MaskKind", codes.MASKS),
        ("mask.h", "Election", codes.ELECTIONS),
    ],
)
def test_csrc_has_the_same_codes(header, enumeration, table):
    body = re.search(rf"enum class {enumeration} : int {{(.*?)}};", (CORE / header).read_text()).group(1)
    found = {name: int(code) for name, code in re.findall(r"(\w+) = (\d+)", body)}
    assert found == {SHORT.get(name, name): code for name, code in table.items()}


def in_stub(name):
    """Function -> the names of its arguments."""
    stub = ast.parse((Path(pydelta.__file__).parent / f"{name}.pyi").read_text())
    functions = [node for node in stub.body if isinstance(node, ast.FunctionDef)]
    return {node.name: [argument.arg for argument in node.args.args] for node in functions}


def in_extension(extension):
    """The same by the first lines of what pybind11 writes of its functions."""
    functions = [getattr(extension, name) for name in dir(extension) if not name.startswith("_")]
    return {f.__name__: re.findall(r"[(, ](\w+): ", f.__doc__.splitlines()[0]) for f in functions}


def test_the_stub_of_the_cpu_extension_is_true(extension):
    assert in_stub("_cpu") == in_extension(extension)


def test_the_stub_of_the_cuda_extension_is_true(kernels):
    written = in_extension(kernels.hadamard.args[0])
    assert written == {op: in_stub("_cuda")[op] for op in written}


def test_both_extensions_take_the_same_arguments_but_for_the_last():
    cpu, cuda = in_stub("_cpu"), in_stub("_cuda")
    shared = cpu.keys() & cuda.keys() - {"missing"}
    assert cpu.keys() - shared == {"missing", "isa", "isas", "set_isa", "few_rows"}
    for op in shared:
        assert cpu[op][-1] == "threads"
        assert cuda[op] == [*cpu[op][:-1], "stream"]

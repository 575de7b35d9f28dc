"""The codes that Python passes are those of the enumerations in csrc/core."""

import re
from pathlib import Path

import pytest

from pydelta.core import codes

CORE = Path(__file__).parent.parent / "csrc" / "core"
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

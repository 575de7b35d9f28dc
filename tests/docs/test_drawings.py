"""The drawings are what their script writes."""

import xml.etree.ElementTree as ElementTree

import pytest
from drawings import draw


def test_each_drawing_has_its_file():
    assert {path.name for path in draw.HERE.glob("*.svg")} == draw.DRAWINGS.keys()


@pytest.mark.parametrize("name", draw.DRAWINGS)
def test_the_script_writes_the_committed_drawing(name):
    written = draw.DRAWINGS[name]()
    assert (draw.HERE / name).read_text(encoding="utf-8") == written, "run: python docs/drawings/draw.py"
    assert ElementTree.fromstring(written).get("role") == "img"

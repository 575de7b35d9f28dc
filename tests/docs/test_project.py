"""What lies beside README agrees with the package."""

import re
import sys

import pytest
import yaml
from paths import ROOT

import pydelta

if sys.version_info >= (3, 11):
    import tomllib


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pydelta.__version__


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "RELEASE.md"])
def test_files_that_a_page_names_are_there(page):
    """Names between backquotes with a known first folder, one a word; `<op>` and `*` stand for many."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:pydelta|csrc|tests|docs|bench|triton_kernels)/[\w./-]+)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")
def test_safetensors_is_for_tests_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not any("safetensors" in need for need in project["dependencies"])
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "pydelta").rglob("*.py")]
    assert not any(re.search(r"^\s*(import|from) safetensors", text, re.MULTILINE) for text in sources)

"""The page on training shows the committed figures."""

import importlib
import json

import pytest
from paths import ROOT

RESULTS = sorted((ROOT / "docs" / "results").glob("saft-*.json"))


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("training.report")


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_the_page_shows_the_figures(report, path):
    page = (ROOT / "docs" / "results" / "training.md").read_text()
    result = json.loads(path.read_text())
    assert report.with_tables(page, result) == page
    assert f"({path.stem}.png)" in page


def test_a_new_family_comes_last(report):
    run = {"seed": 1, "optimizer": "AdamW", "step_seconds": 2.0, "memory": 2.0, "accuracy": {"tuned": 0.75}}
    result = {"family": "new", "runs": [run, {**run, "seed": 2, "accuracy": {"tuned": 0.25}}]}
    page = report.with_tables("text\n", result)
    assert "| tuned | **50.0** ± 35.4 |" in page
    assert "| AdamW | 1.00 | 2.00 |" in page
    assert report.with_tables(page, result) == page
    assert "| tuned | **75.0** |" in report.with_tables(page, {**result, "runs": [run]})

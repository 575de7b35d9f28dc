"""``pydelta demo --vera`` on two tasks and a small network."""

import json

import pytest

from pydelta import cli
from pydelta.demo import data, run, vera
from pydelta.demo.train import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
SMALL = Recipe(hidden=64, base_epochs=4, tune_epochs=3)


@pytest.fixture(autouse=True)
def _two_tasks(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(data, "VIEWS", {name: data.VIEWS[name] for name in ("plain", "inverted")})


@pytest.fixture
def result(tmp_path):
    settings = vera.Settings(rank=16, lora_ranks=(1, 2))
    return vera.run(tmp_path, SMALL, settings, seed=3, say=lambda line: None), tmp_path


def test_the_result(result):
    found, folder = result
    assert json.loads((folder / "demo.json").read_text()) == json.loads(json.dumps(found))
    methods = found["methods"]
    assert {"full", "vera"} <= methods.keys()
    numbers = 3 * 16 + 64 + 64 + 10
    assert 4 * numbers < methods["vera"]["bytes"] <= 4 * numbers + 1024
    for method in methods.values():
        assert method["accuracy"].keys() == {"plain", "inverted"}
        assert all(0 <= accuracy <= 100 for accuracy in method["accuracy"].values())
        assert method["seconds"] > 0
        assert method["per_gigabyte"] == 10**9 // method["bytes"]
    assert methods["full"]["bytes"] > 50 * methods["vera"]["bytes"]
    assert methods["vera"]["average"] > 20  # ten digits at random: 10
    if "lora" in methods:
        assert found["lora_rank"] in (1, 2)
        assert methods["lora"]["bytes"] > methods["vera"]["bytes"]


def test_the_table(result):
    found, _ = result
    lines = vera.table(found).splitlines()
    assert lines[0].split()[:5] == ["test", "accuracy,", "%", "full", "tuning"]
    cells = next(line.split()[4:] for line in lines if line.startswith("bytes of a task"))
    assert cells == [f"{method['bytes']:,}" for method in found["methods"].values()]


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vera, "Settings", lambda: vera_settings)
    monkeypatch.setattr("pydelta.demo.train.Recipe", lambda hidden: SMALL)
    assert cli.main(["demo", "--vera", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "tasks in a gigabyte" in out
    assert out.endswith(f"numbers: {tmp_path / 'out' / run.MARK}\n")
    assert err == ""


vera_settings = vera.Settings(rank=8, lora_ranks=(1,))

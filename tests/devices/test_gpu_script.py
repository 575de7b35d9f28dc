"""bench/gpu/run.py without a GPU: which commands it would run, and what it writes of them."""

import importlib
import json
import sys

import pytest
from paths import ROOT

BENCH = ROOT / "bench"
MODULES = ("gpu", "gpu.run", "gpu.report", "gpu.targets", "harness", "summary", "targets")


@pytest.fixture
def gpu(monkeypatch):
    pytest.importorskip("pytest_benchmark")
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("gpu.run")
    for name in MODULES:
        sys.modules.pop(name, None)


def planned(gpu, capsys, *arguments):
    assert gpu.main([*arguments, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_prints_every_command_and_runs_none(gpu, capsys, tmp_path):
    lines = planned(gpu, capsys, "--out", str(tmp_path / "out"))
    parts = [line[1:].split(",")[0] for line in lines]
    assert list(dict.fromkeys(parts)) == list(gpu.PARTS)
    assert parts.count("ops") == 2 * len(gpu.OPS)
    assert parts.count("sanitizer") == 4
    assert "PYDELTA_CUDA=1" in lines[0]
    assert not (tmp_path / "out").exists()


def test_parts_and_ops_can_be_chosen(gpu, capsys):
    lines = planned(gpu, capsys, "--only", "ops", "tests", "--without", "tests", "--ops", "sam", "rotate")
    assert [line.split("bench_")[1].split(".")[0] for line in lines] == ["sam"] * 2 + ["rotate"] * 2
    assert "-k cuda" in planned(gpu, capsys, "--only", "tests", "--match", "cuda")[0]


def test_every_benchmark_that_is_asked_for_exists(gpu):
    assert all((BENCH / f"bench_{op}.py").exists() for op in gpu.OPS)


@pytest.mark.parametrize(
    "arguments", [["--only", "everything"], ["--ops", "sort"], ["--device", "tpu"], ["--within", "long"]]
)
def test_bad_arguments_are_refused(gpu, capsys, arguments):
    with pytest.raises(SystemExit) as refusal:
        gpu.main(arguments)
    assert refusal.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def job(gpu, part, script, results=None, limit=20.0):
    return gpu.Job(part, "job", (sys.executable, "-c", script), limit, results)


def test_a_failing_or_endless_job_loses_no_other(gpu, monkeypatch, tmp_path):
    results = tmp_path / "found.json"
    row = {"op": "retrieve", "dtype": "bf16", "row": 4096, "size": 1 << 30, "threads": 1, "seconds": 1e-3}
    row |= {"gbps": 3000.0, "copy_gbps": 3200.0, "fraction": 0.94, "transform": "sign", "peers": {}}
    found = [row | {"backend": "cuda"}, row | {"backend": "triton", "seconds": 2e-3, "fraction": 0.47}]
    writing = f"import pathlib; pathlib.Path({str(results)!r}).write_text({json.dumps({'results': found})!r})"
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    monkeypatch.setattr(gpu, "facts", lambda options: {"machine": {"gpu": "none"}, "commit": "abc"})
    chosen = [
        job(gpu, "tests", "raise SystemExit(3)"),
        job(gpu, "sanitizer", "import time\nprint('begun')\ntime.sleep(60)", limit=2.0),
        job(gpu, "ops", writing, results),
        gpu.Job("models", "job", (str(tmp_path / "nothing"),), 20.0),
    ]
    monkeypatch.setattr(gpu, "jobs", lambda options, scratch: chosen)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [job["code"] for job in report["jobs"]][:1] + [job["code"] for job in report["jobs"]][2:] == [
        3,
        0,
        127,
    ]
    assert [job["timed_out"] for job in report["jobs"]] == [False, True, False, False]
    assert "begun" in report["jobs"][1]["tail"]
    assert report["results"] == found
    assert report["commit"] == "abc"
    text = (tmp_path / "out" / "gpu.txt").read_text()
    assert "out of time" in text
    assert "failed (3)" in text
    assert "retrieve bf16" in text
    assert "triton/cuda median 2.000, cuda faster at 1 of 1" in text
    assert "retrieve, of the copy" in text
    assert "met 1" in text  # by the faster backend
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("gpu.json", "gpu.txt", "tests.log", "sanitizer.log", "ops.log", "models.log")
    }


def test_what_no_time_is_left_for_is_named(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "facts", lambda options: {"machine": {}})
    monkeypatch.setattr(gpu, "jobs", lambda options, scratch: [job(gpu, "ops", "raise SystemExit")])
    assert gpu.main(["--out", str(tmp_path), "--within", "1"]) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["jobs"][0]["timed_out"]

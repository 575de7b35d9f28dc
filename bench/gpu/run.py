"""One call on a machine with an NVIDIA GPU: builds, tests, looks for memory errors, measures, reports.

python bench/gpu/run.py [--only build tests sanitizer ops models] [--out FOLDER] [--dry-run]

Needs torch, Triton, nvcc, pybind11, setuptools, pytest, pytest-benchmark and hypothesis, and no network.
Writes gpu.json (the machine, what ran, every result) and a log for each part to --out, $OUT or build/gpu,
after every job: one that fails or runs out of its time loses no other. gpu.txt, the tables and targets, comes
last; report.py makes it from a gpu.json.
--device cpu --quick runs the same on a CPU in tiny shapes, as a check of this script.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[1]
ROOT = BENCH.parent
sys.path.insert(0, str(BENCH))  # modules are named from there
PARTS = ("build", "tests", "sanitizer", "ops", "models")
OPS = (
    *("hadamard", "rotate", "sign_flip", "retrieve", "superpose", "merge_into", "mask_rescale"),
    *("magnitude_threshold", "quantize", "superposed_linear", "vera_linear", "vera_merge"),
    *("sam", "adamr_step_", "calls"),
)
TOOLS = ("memcheck", "racecheck")
GRACE = 30
"""Seconds that an interrupted job has to write what it found."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A command of a part, with its time limit in seconds and where it writes results."""

    part: str
    name: str
    command: tuple[str, ...]
    limit: float
    results: Path | None = None
    folder: Path = BENCH  # not the root, whose pydelta/ would hide the package that was built
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.environment]
        return f"cd {shlex.quote(str(self.folder))} && {' '.join([*settings, shlex.join(self.command)])}"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    found.add_argument(
        "--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS)
    )
    found.add_argument("--without", nargs="+", choices=PARTS, default=[], metavar="PART")
    found.add_argument("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help="of the part ops")
    found.add_argument("--backends", nargs="+", default=["cuda", "triton"], metavar="NAME")
    found.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    found.add_argument("--quick", action="store_true", help="tiny shapes, few tests")
    found.add_argument("--within", type=float, default=float("inf"), metavar="SECONDS", help="for everything")
    found.add_argument("--match", metavar="EXPR", help="of the tests, as pytest's -k")
    found.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="that run the tests")
    found.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "build" / "gpu"))
    found.add_argument("--commit", help="where the folder is no git checkout")
    found.add_argument("--dry-run", action="store_true", help="print the commands")
    return found


def jobs(options: argparse.Namespace, scratch: Path) -> Iterator[Job]:
    """All jobs of the chosen parts, in order."""
    python = sys.executable
    makers = {"build": build, "tests": tests, "sanitizer": sanitizer, "ops": ops, "models": models}
    for part in PARTS:
        if part in options.only and part not in options.without:
            yield from makers[part](options, python, scratch)


def build(options: argparse.Namespace, python: str, scratch: Path) -> Iterator[Job]:
    flags = ("--no-build-isolation", "--no-deps", "--force-reinstall", "--quiet")
    cuda = (("PYDELTA_CUDA", "1" if options.device == "cuda" else "0"),)
    command = (python, "-m", "pip", "install", *flags, str(ROOT))
    yield Job("build", "pip install", command, 540, folder=ROOT, environment=cuda)


def tests(options: argparse.Namespace, python: str, scratch: Path) -> Iterator[Job]:
    some = ["ops/test_hadamard.py", "ops/test_retrieve.py"] if options.quick else [""]
    paths = [str(ROOT / "tests" / name) for name in some]
    spread = ("-n", str(options.workers), "--dist", "loadfile") if options.workers > 1 else ()
    match = ("-k", options.match) if options.match else ()
    command = (python, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", *spread, *match, *paths)
    threads = max(1, (os.cpu_count() or 1) // options.workers)  # of each worker
    yield Job("tests", "suite", command, 1200, environment=(("OMP_NUM_THREADS", str(threads)),))


def sanitizer(options: argparse.Namespace, python: str, scratch: Path) -> Iterator[Job]:
    """Each of torch's tensors has an allocation of its own, so that an access beside it is seen."""
    if options.device == "cpu":
        yield Job("sanitizer", "none", (python, "gpu/small.py", "--device", "cpu", "--backend", "cpu"), 120)
        return
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    path = os.pathsep.join([os.environ["PATH"], str(home / "bin"), str(home / "compute-sanitizer")])
    watch = shutil.which("compute-sanitizer", path=path) or "compute-sanitizer"
    apart = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    for tool in TOOLS:
        for backend in options.backends:
            flags = ("--tool", tool, "--error-exitcode", "9", "--print-limit", "20")
            command = (watch, *flags, python, "gpu/small.py", "--backend", backend)
            yield Job("sanitizer", f"{tool} {backend}", command, 420, environment=apart)


def ops(options: argparse.Namespace, python: str, scratch: Path) -> Iterator[Job]:
    quick = ("--quick",) if options.quick else ()
    for op in options.ops:
        for backend in options.backends:
            results = scratch / f"{op}-{backend}.json"
            flags = (
                "--device",
                options.device,
                "--backend",
                backend,
                "--record",
                str(results.with_suffix("")),
            )
            command = (
                python,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"bench_{op}.py",
                *flags,
                *quick,
            )
            yield Job("ops", f"{op} {backend}", command, 180, results)


def models(options: argparse.Namespace, python: str, scratch: Path) -> Iterator[Job]:
    results = scratch / "models.json"
    flags = ("--device", options.device, *(("--quick",) if options.quick else ()), "--out", str(results))
    yield Job("models", "all", (python, "gpu/models.py", *flags), 540, results)


def execute(job: Job, log: Path, limit: float) -> dict[str, Any]:
    """Runs a job; what it prints goes to the log. One that takes too long is interrupted, then killed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **dict(job.environment)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    start, late = time.monotonic(), False
    with log.open("a+") as file:
        file.write(f"$ {job}\n")
        file.flush()
        begin = file.tell()
        try:
            process = subprocess.Popen(
                job.command, cwd=job.folder, env=environment, stdout=file, stderr=file, start_new_session=True
            )
            late = waited(process, limit)
            code = process.returncode
        except OSError as error:
            file.write(f"{error}\n")
            code = 127
        file.seek(begin)
        tail = file.read()[-1500:]
    facts = {"part": job.part, "job": job.name, "command": str(job), "code": code, "timed_out": late}
    return {**facts, "seconds": time.monotonic() - start, "tail": tail}


def waited(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether it ran out of its time."""
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return True
    return False


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Of the machine; before the package is built, why there are none."""
    command = [sys.executable, str(BENCH / "gpu" / "facts.py")]
    done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else {"machine": {"unknown": done.stderr[-500:]}}
    return found | ({"commit": options.commit} if options.commit else {})


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.device == "cpu":
        options.backends = ["cpu"]
    options.out = options.out.resolve()
    scratch = options.out / "scratch"
    chosen = [*jobs(options, scratch)]
    if options.dry_run:
        print("\n".join(f"[{job.part}, {job.limit:g} s] {job}" for job in chosen))
        return 0
    from gpu.report import Report

    options.out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    start = time.monotonic()
    report = Report(options.out, facts(options))
    for job in chosen:
        left = options.within - (time.monotonic() - start) - GRACE
        if left <= 0:
            report.skip(job.part, job.name)
        else:
            report.add(execute(job, options.out / f"{job.part}.log", min(job.limit, left)), job.results)
        if job.part == "build":
            report.facts = facts(options)
        report.write()
    shutil.rmtree(scratch)
    (options.out / "gpu.txt").write_text(report.text() + "\n")
    print(report.text())
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())

"""What run.py writes: gpu.json and gpu.txt. Run with a gpu.json as argument it prints that run's tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench/: modules are named from there
from gpu.targets import choices, judged
from summary import Result, duration, rounded, table


class Report:
    """The jobs that ran and their results, in a folder."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self.jobs: list[dict[str, Any]] = []
        self.results: list[Result] = []

    @property
    def failed(self) -> bool:
        return any(job["code"] != 0 for job in self.jobs)

    def skip(self, part: str, name: str) -> None:
        """No time was left for it."""
        self.jobs.append(
            {"part": part, "job": name, "code": None, "timed_out": True, "seconds": 0.0, "tail": ""}
        )

    def add(self, job: dict[str, Any], results: Path | None) -> None:
        """A job that ran; one without a file of results still counts as a job."""
        if results is not None and results.exists():
            found = json.loads(results.read_text())["results"]
            self.results += found
            job = {**job, "results": len(found)}
        self.jobs.append(job)

    def write(self) -> None:
        """gpu.json, one result a line, as in the other files of results."""
        head = json.dumps(rounded({**self.facts, "jobs": self.jobs}), indent=1).removesuffix("\n}")
        rows = ",\n".join("  " + json.dumps(rounded(r)) for r in self.results)
        (self.folder / "gpu.json").write_text(f'{head},\n "results": [\n{rows}\n ]\n}}\n')

    def text(self) -> str:
        parts = [json.dumps(self.facts, indent=1), "\n".join(map(line, self.jobs))]
        if self.results:
            parts += ["\n".join(table(self.results)), "\n".join(choices(self.results))]
            parts.append("\n".join(judged(self.results)))
        return "\n\n".join(part for part in parts if part)


def line(job: dict[str, Any]) -> str:
    """One job: how it ended, how long it took, and the last thing it said."""
    ended = "out of time" if job["timed_out"] else "ok" if job["code"] == 0 else f"failed ({job['code']})"
    last = job["tail"].strip().rsplit("\n", 1)[-1][:100]
    return f"{job['part']:<10} {job['job']:<28} {ended:<12} {duration(job['seconds']):>8}  {last}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    stored = json.loads(path.read_text())
    again = Report(path.parent, {name: stored[name] for name in stored.keys() - {"jobs", "results"}})
    again.jobs, again.results = stored["jobs"], stored["results"]
    print(again.text())

"""The commands of docs/benchmarks.md, run one after the other with the suite `smoke` on Doom."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pages import DOCS, commands, run_commands

from pr2l.benchmark import runner
from pr2l.benchmark.jobs import Job

SMOKE_COMMANDS = [
    command
    for command in commands(DOCS / "benchmarks.md")
    if "smoke" in command or command.endswith("--results runs/bench")
]


def run_in_this_process(
    jobs: Sequence[Job], at_once: int, threads: int, watch: Callable[[list[Job]], None]
) -> Iterator[tuple[Job, int]]:
    """Run the jobs one after the other, instead of `side_by_side`, whose processes would import torch six times."""
    for job in jobs:
        watch([job])
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.run()
        yield job, 0


@pytest.mark.slow
def test_commands_of_the_benchmark_page_run_the_smoke_suite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "side_by_side", run_in_this_process)
    assert [command.split()[2] for command in SMOKE_COMMANDS] == ["run", "run", "report", "site"]
    printed = run_commands(SMOKE_COMMANDS, monkeypatch, capsys)
    assert "runs: 4; core-hours" in printed["pr2l bench run smoke --plan"]
    assert len(list(Path("runs/bench/smoke").glob("*.json"))) == 4
    assert "| oracle |" in Path("runs/bench/smoke/report/report.md").read_text()
    page = Path("runs/site/smoke-doom-basic.html").read_text()
    assert "pr2l train doom/hunt/oracle task=basic" in page

"""docs/benchmarks.md leads to what it says: its steps with the suite `smoke`, one after the other, on real Doom."""

from pathlib import Path

from pages import DOCS, commands, follow

QUICK = [
    command
    for command in commands(DOCS / "benchmarks.md")
    if "smoke" in command or command.endswith("--results runs/bench")
]


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [command.split()[2] for command in QUICK] == ["run", "run", "report", "site"]
    printed = follow(QUICK, monkeypatch, capsys)
    assert "runs: 4; core-hours" in printed["pr2l bench run smoke --plan"]
    assert len(list(Path("runs/bench/smoke").glob("*.json"))) == 4
    assert "| oracle |" in Path("runs/bench/smoke/report/report.md").read_text()
    page = Path("runs/site/smoke-doom-basic.html").read_text()
    assert "pr2l train doom/hunt/oracle task=basic" in page

"""Published rows have no paths, user names or addresses of one machine."""

from pathlib import Path

import pytest

from pr2l.benchmark.leaderboard import site
from pr2l.benchmark.public import check_public
from pr2l.benchmark.rows import submit
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json

ROWS = Path(__file__).parents[2] / "docs" / "results" / "bench"
LOCAL = [
    "/home/ada/vlm",
    "/data",
    "~/vlm",
    "~ada/vlm",
    "../vlm",
    "runs/../../vlm",
    "file:///home/ada/vlm",
    "C:\\Users\\ada",
    "D:/models",
    "\\\\server\\models",
    "pr2l train doom/fetch/bc data=/scratch",
    "python run.py --out '/home/ada/out'",
    "the simulator died (log: /tmp/pr2l-ada/log.txt)",
    "https://ada:secret@example.org/vlm",
    "https://ada:sec/ret@example.org/vlm",
    "http://127.0.0.1:8000/v1?api_key=abc",
    "FILE:///home/ada/vlm",
    "models in ~\\vlm",
    "the folder (../vlm)",
    "weights from \\\\server\\models",
    "~ada",
    "it was trained in /tmp.",
]
PUBLIC = [
    "tiny",
    "llava-hf/llava-1.5-7b-hf",
    "data/doom-fetch",
    "./data",
    "prompts/doom/fetch/where.yaml",
    "8 frames/s and 1 / 2 of them",
    "https://example.org/models/vlm",
    "what is it ? ~ 5 m away ...",
    "Linux-6.18.44-x86_64-with-glibc2.36, 2 cores, NVIDIA H100 80GB",
    "my_module:MyEnv",
    "go / stay, and/or jump",
    "https://example.org/vlm?revision=main",
]


@pytest.mark.parametrize("text", LOCAL)
def test_local_path_or_address_raises(text: str) -> None:
    for row in ({"command": text}, {"config": {"encoder_options": {"layers": [0, text]}}}, {"by_context": {text: 1}}):
        with pytest.raises(UserError, match="row cannot be published.*one machine"):
            check_public(row, "row")


def test_folder_of_a_model_in_the_working_folder_is_local(tmp_path, monkeypatch) -> None:
    """Elsewhere the value names another model, that of the Hub."""
    monkeypatch.chdir(tmp_path)
    check_public({"config": {"vlm": "ada/vlm", "data": "ada/vlm"}}, "row")
    (tmp_path / "ada" / "vlm").mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    check_public({"config": {"vlm": "tiny", "data": "ada/vlm"}}, "row")
    with pytest.raises(UserError, match="config.vlm = 'ada/vlm': use a Hugging Face Hub id"):
        check_public({"config": {"vlm": "ada/vlm"}}, "row")


@pytest.mark.parametrize("text", PUBLIC)
def test_names_and_relative_paths_are_public(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no folder has such a name
    check_public({"config": {"vlm": text, "options": {text: [text]}}}, "row")


def test_only_servers_on_the_same_machine_are_public() -> None:
    check_public({"vlm_options": {"server": "http://127.0.0.1:8000"}}, "row")
    with pytest.raises(UserError, match=r"vlm_options.server = 'http://gpu7:8000': use http://127.0.0.1:8000"):
        check_public({"vlm_options": {"server": "http://gpu7:8000"}}, "row")


def test_committed_rows_are_public() -> None:
    paths = sorted(ROWS.glob("*/*.json"))
    assert paths
    for path in paths:
        check_public(read_json(path), str(path))


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"vlm": "/home/ada/vlm"}, "config.vlm = '/home/ada/vlm': use a Hugging Face Hub id"),
        (
            {"prompt": "/home/ada/where.yaml"},
            "config.prompt = .*: use the name of a prompt: commit the file as prompts/",
        ),
        ({"data": Path("/scratch/ada")}, "config.data = '/scratch/ada': use a relative path inside the repository"),
    ],
)
def test_run_with_a_local_path_is_not_submitted(changes, advice, toys, make_run, tmp_path) -> None:
    prompt = tmp_path / "where.yaml"
    prompt.write_text("text: where is it ?\nslots: []\nwhy: a test\nsource: this test\n")
    changes = {"prompt": str(prompt)} if "prompt" in changes else changes
    run = make_run("colours", "pixels", 0, 2, **changes)
    with pytest.raises(UserError, match=f"{run} cannot be published") as error:
        submit([run], tmp_path / "out", "toys", "mine")
    assert len(str(error.value).splitlines()) == 3  # each value once
    assert not (tmp_path / "out").exists()
    error.match(advice)


def test_site_of_a_row_with_a_local_path_raises(rows, tmp_path) -> None:
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    values = read_json(path)
    write_json(path, values | {"machine": "a machine of /home/ada/"})
    with pytest.raises(UserError, match=f"{path} cannot be published.*\n  machine = "):
        site(rows, tmp_path / "site")
    assert not (tmp_path / "site").exists()

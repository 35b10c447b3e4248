"""The embedded VLM answers what it is said to answer, on rooms that it was not trained on."""

import json
from pathlib import Path

import numpy as np
import pytest

from pr2l.data.labelled_frames import Source, load_or_play
from pr2l.pretraining.evaluation import evaluate_answers
from pr2l.vlms.base import Defaults
from pr2l.vlms.checkpoint import WEIGHTS
from pr2l.vlms.loading import load_vlm

PAGE = Path(__file__).parents[2] / "docs" / "tiny.md"


def score(folder: Path, tasks: tuple[str, ...], frames: int, seed: int = 900) -> dict[str, float]:
    source = Source(environment="doom", tasks=tasks, frames=frames, split="evaluation", seed=seed)
    questions = evaluate_answers(load_vlm("tiny"), load_or_play(source, folder))["questions"]
    return {kind: one["accuracy"] for kind, one in questions.items()}


def test_it_sees_and_it_knows_where(tmp_path):
    scores = score(tmp_path, ("fetch", "hunt"), frames=120)
    # Some 150 questions a kind: two standard errors are 0.05. Without looking: 0.5 and 0.2.
    assert scores["presence"] > 0.88 and scores["direction"] > 0.78


@pytest.mark.slow
def test_the_evaluation_can_be_repeated(tmp_path):
    written = json.loads((WEIGHTS / "tiny" / "evaluation.json").read_text())["doom: fetch (600 frames, evaluation)"][
        "questions"
    ]
    again = score(tmp_path, ("fetch",), frames=600, seed=101)  # of configs/pretrain/tiny.yaml
    for kind, accuracy in again.items():
        assert accuracy == pytest.approx(written[kind]["accuracy"], abs=0.005), kind


@pytest.mark.parametrize("name", ["tiny", "tiny_rooms"])
def test_the_page_shows_the_numbers_of_the_evaluation(name):
    page = PAGE.read_text(encoding="utf-8")
    for title, report in json.loads((WEIGHTS / name / "evaluation.json").read_text()).items():
        cells = " | ".join(f"{one['accuracy']:.1%}" for one in report["questions"].values())
        assert cells in page, f"docs/tiny.md does not show {cells} for {title}"


def test_its_prompt_reaches_its_image_tokens():
    vlm = load_vlm("tiny", Defaults(generation="none"))
    frames = np.random.default_rng(0).integers(0, 256, (1, 120, 160, 3), dtype=np.uint8)
    one, other = (vlm.hidden(frames, [f"where is the {name} ?"]) for name in ("imp", "medikit"))
    image = one.spans["image"]
    assert not one.states[:, :, image].equal(other.states[:, :, image])

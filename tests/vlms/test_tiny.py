"""The answers of the shipped VLM `tiny` are as right as docs/tiny.md says, in rooms that it was not trained on."""

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


def accuracies(folder: Path, tasks: tuple[str, ...], frames: int, seed: int = 900) -> dict[str, float]:
    source = Source(environment="doom", tasks=tasks, frames=frames, split="evaluation", seed=seed)
    questions = evaluate_answers(load_vlm("tiny"), load_or_play(source, folder))["questions"]
    return {kind: score["accuracy"] for kind, score in questions.items()}


def test_tiny_detects_and_locates_objects(tmp_path):
    scores = accuracies(tmp_path, ("fetch", "hunt"), frames=60)
    # 180 and 88 questions: two standard errors are 0.05 and 0.09. Chance level: 0.5 and 0.2.
    assert scores["presence"] > 0.88 and scores["direction"] > 0.78


@pytest.mark.slow
def test_evaluation_is_reproducible(tmp_path):
    stored = json.loads((WEIGHTS / "tiny" / "evaluation.json").read_text())["doom: fetch (600 frames, evaluation)"][
        "questions"
    ]
    accuracy_now = accuracies(tmp_path, ("fetch",), frames=600, seed=101)  # of configs/pretrain/tiny.yaml
    for kind, accuracy in accuracy_now.items():
        assert accuracy == pytest.approx(stored[kind]["accuracy"], abs=0.005), kind


@pytest.mark.parametrize("name", ["tiny", "tiny_rooms"])
def test_docs_show_the_evaluation(name):
    page = PAGE.read_text(encoding="utf-8")
    for title, report in json.loads((WEIGHTS / name / "evaluation.json").read_text()).items():
        cells = " | ".join(f"{score['accuracy']:.1%}" for score in report["questions"].values())
        assert cells in page, f"docs/tiny.md does not show {cells} for {title}"


def test_image_states_depend_on_the_prompt():
    vlm = load_vlm("tiny", Defaults(generation="none"))
    frames = np.random.default_rng(0).integers(0, 256, (1, 120, 160, 3), dtype=np.uint8)
    imp, medikit = (vlm.hidden(frames, [f"where is the {name} ?"]) for name in ("imp", "medikit"))
    image = imp.spans["image"]
    assert not imp.states[:, :, image].equal(medikit.states[:, :, image])

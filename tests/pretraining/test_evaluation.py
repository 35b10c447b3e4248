"""The questions of the evaluation, and the accuracy per kind, answer and name."""

import numpy as np

from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import Question, View, about, overall
from pr2l.pretraining.evaluation import accuracies, evaluate_answers

IMP = {"name": "imp", "box": (0, 40, 20, 80), "distance": 100.0}
FRAMES = LabelledFrames(np.zeros((2, 120, 160, 3), np.uint8), [[IMP], []], ("imp", "medikit"))


class AnswersFromLabels:
    """A VLM that answers right, except questions of the `wrong` kinds; the first pixel of a frame is its number."""

    def __init__(self, wrong: set[str]) -> None:
        self.wrong = wrong

    def answer(self, frames, texts, new_tokens):
        return [self._one(int(frame[0, 0, 0]), text) for frame, text in zip(frames, texts, strict=True)]

    def _one(self, row, text):
        view = View.of(FRAMES.labels[row], 160, 120)
        questions = [question for name in FRAMES.names for question in about(view, name)] + overall(view)
        question = next(question for question in questions if question.text == text)
        return "?" if question.kind in self.wrong else question.answer


def numbered_frames() -> LabelledFrames:
    frames = FRAMES.frames.copy()
    frames[1] = 1
    return LabelledFrames(frames, FRAMES.labels, FRAMES.names)


def test_accuracy_of_right_and_of_partly_wrong_answers():
    perfect = evaluate_answers(AnswersFromLabels(set()), numbered_frames())["questions"]
    # Frame 0: four questions about the imp, presence of the absent medikit. Frame 1: presence of one absent name.
    assert {kind: score["asked"] for kind, score in perfect.items()} == {
        "presence": 3,
        "direction": 1,
        "distance": 1,
        "count": 1,
        "seen": 2,
        "left": 2,
    }
    assert {score["accuracy"] for score in perfect.values()} == {1.0}
    partly_wrong = evaluate_answers(AnswersFromLabels({"direction"}), numbered_frames())["questions"]
    assert partly_wrong["direction"]["accuracy"] == 0.0 and partly_wrong["distance"]["accuracy"] == 1.0


def test_accuracies_per_kind_answer_and_name():
    questions = [Question("presence", "imp", "is there a imp ?", answer) for answer in ("yes", "yes", "no", "no")]
    result = accuracies(questions, [True, False, True, True])
    assert result["questions"] == {"presence": {"accuracy": 0.75, "asked": 4}}
    assert result["answers"]["presence"]["yes"] == {"accuracy": 0.5, "asked": 2}
    assert result["answers"]["presence"]["no"] == {"accuracy": 1.0, "asked": 2}
    assert result["names"]["imp"]["presence"] == {"accuracy": 0.75, "asked": 4}

"""Training of a very small VLM on drawn screens: it reads and answers, and resumes after an interruption."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pr2l.data.screens import ScreenSet
from pr2l.pretraining import screen_reading, screens
from pr2l.pretraining.architecture import ScreenArchitecture, build_with, byte_tokenizer
from pr2l.pretraining.pretrain import pretrain
from pr2l.pretraining.screen_evaluation import NEW_WORDS, evaluate_screens
from pr2l.pretraining.screen_reading import (
    ALPHABET,
    Letters,
    is_readable,
    letter_grid,
    new_reader,
    piece,
    read,
    reading_accuracy,
    reading_loss,
    texts_of,
)
from pr2l.pretraining.screens import (
    CONTENTS,
    ReadingOptions,
    ScreenMix,
    cell_contents,
    draw_screens,
    draw_words,
    evaluate_reading,
)
from pr2l.vlms.loading import load_vlm
from tests.environments.browser_pages import needs_chromium

HEIGHT, WIDTH = 32, 64
SMALL = ScreenArchitecture(
    image_size=HEIGHT,
    image_width=WIDTH,
    patch=4,
    tower_widths=(32, 64),
    tower_depths=(1, 1),
    width=64,
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    max_tokens=128,
)
WORDS = ("Ada", "7x", "Zoe", "on", "BAD", "q9", "Kim", "x7")


def drawn_screen(number: int) -> tuple[np.ndarray, dict]:
    """A word at the top left, and a switch below it at one of two places, green if it is on."""
    frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    text, is_on, left = WORDS[number], number % 2 == 0, 8 if number < 4 else 40
    cv2.putText(frame, text, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    frame[18:30, left : left + 16] = (0, 160, 0) if is_on else (60, 60, 60)
    switch = {"name": "a/Fan switch", "role": "switch", "text": "", "value": is_on, "distance": 0.0}
    return frame, {
        "labels": [{**switch, "box": [left, 18, left + 16, 30]}],
        "words": [[text, [1, 1, 3 + width, 15]]],
        "edges": [np.linspace(1, 3 + width, len(text) + 1).tolist()],
        "screen": {"app": "a", "page": text, "dialog": None, "keyboard": None, "shade": None},
        "actions": [["tap(0.500, 0.900)", not is_on]],
    }


def drawn_screens(count: int = 8) -> ScreenSet:
    rows, data = [], b""
    for number in range(count):
        frame, row = drawn_screen(number)
        picture = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
        rows.append({**row, "place": [len(data), len(picture)]})
        data += picture
    return ScreenSet(rows, np.frombuffer(data, np.uint8))


def options(**changes) -> ReadingOptions:
    mix = ScreenMix(presence=0)  # no title is absent: all screens have the same one
    defaults = {"warmup_steps": 5, "language_steps": 5, "batch_frames": 8, "bfloat16": False, "mix": mix}
    return ReadingOptions(**defaults | changes)


def train_in(folder, options, on_step=lambda *_: None):
    folder.mkdir(exist_ok=True)
    screen = screens.new_model(SMALL, folder / "model", seed=0)
    screens.train(screen, [drawn_screens()], options, folder, on_step)
    return screen


# Reading.


def test_scores_of_a_cell_are_ordered_by_line_and_step():
    reader = new_reader(1, cell=16)  # two lines of eight steps
    with torch.no_grad():
        reader.weight.zero_()
        reader.bias.copy_(torch.nn.functional.one_hot(torch.arange(16) + 1, 1 + len(ALPHABET)).flatten().float())
    grid = letter_grid(reader, torch.zeros(1, 1, 2, 3), cell=16)
    assert grid.shape == (1, 4, 24, 1 + len(ALPHABET))
    expected = [[1 + 8 * (line % 2) + step % 8 for step in range(24)] for line in range(4)]
    assert grid[0].argmax(-1).tolist() == expected


def test_a_word_is_read_along_its_middle_line():
    reader = new_reader(1, cell=16)
    with torch.no_grad():
        reader.weight.zero_()
        reader.bias.copy_(torch.nn.functional.one_hot(torch.arange(16) + 1, 1 + len(ALPHABET)).flatten().float())
    # x = 4..9: steps 2 to 5; the middle is at y = 13, in the second line, whose steps have the letters 9, 10, ...
    letters = read(reader, torch.zeros(1, 1, 1, 1), [[("abcd", (4, 10, 9, 16))]], cell=16)
    assert letters.lengths.tolist() == [4]
    assert texts_of(letters) == ["abcd"]  # the letters 11 to 14 of the alphabet
    assert reading_accuracy(letters) == 1.0


def test_ctc_loss_of_uniform_scores():
    letters = Letters(torch.zeros(1, 2, 1 + len(ALPHABET)), torch.tensor([2]), ["a"])
    # Of 95 x 95 sequences of two symbols, "aa", "a-" and "-a" mean "a".
    assert reading_loss(letters).item() == pytest.approx(-math.log(3 / 95**2), abs=1e-4)


@pytest.mark.parametrize(("symbols", "text"), [([1, 1, 0, 1, 2], "001"), ([0, 0], ""), ([3, 3, 3], "2")])
def test_texts_have_no_blanks_and_repeats(symbols, text):
    scores = torch.nn.functional.one_hot(torch.tensor([symbols]), 1 + len(ALPHABET)).float()
    assert texts_of(Letters(scores, torch.tensor([len(symbols)]), [text])) == [text]


def test_words_that_ctc_cannot_read():
    assert is_readable(("ll", (0, 0, 6, 8))) and not is_readable(("ll", (0, 0, 4, 8)))  # three steps, two steps
    assert not is_readable(("café", (0, 0, 60, 8)))


def test_pieces_are_one_to_three_letters_between_their_edges():
    rng = np.random.default_rng(0)
    edges = (2.0, 7.0, 9.0, 15.0, 20.0)
    pieces = {piece(("abcd", (2, 1, 20, 9)), edges, rng) for _ in range(200)}
    spans = [(start, start + length) for length in (1, 2, 3) for start in range(5 - length)]
    assert pieces == {("abcd"[start:end], (edges[start], 1, edges[end], 9)) for start, end in spans}


@pytest.mark.parametrize(("pieces", "longest"), [(0.0, 3), (1.0, 1)])
def test_words_are_drawn_whole_or_in_pieces(pieces, longest, monkeypatch):
    monkeypatch.setattr(screen_reading, "LONGEST_PIECE", 1)
    batch = draw_screens([drawn_screens()], options(), 0.5, np.random.default_rng(0))
    drawn = [text for row in draw_words(batch, 5, pieces) for text, _ in row]
    assert len(drawn) == len(batch.rows) and max(map(len, drawn)) == longest


def test_shares_of_pages_of_text():
    screen_set = drawn_screens(1)
    text = replace(screen_set, rows=[{**screen_set.rows[0], "screen": {"app": "text"}}] * 3, content="text")
    batch = draw_screens([screen_set, text], options(batch_frames=4000), 0.75, np.random.default_rng(0))
    share = np.mean([row["screen"]["app"] == "text" for row in batch.rows])
    assert share == pytest.approx(0.75, abs=0.03)
    only_text = draw_screens([text], options(), 0.0, np.random.default_rng(0))
    assert all(row["screen"]["app"] == "text" for row in only_text.rows)


def test_contents_of_cells():
    contents = cell_contents(drawn_screens(2).rows, (4, 8), cell=8)
    found = [(row, down, across, CONTENTS[kind]) for row, down, across, kind in np.argwhere(contents).tolist()]
    assert found == [(0, 3, 2, "switch"), (0, 3, 2, "on"), (1, 3, 2, "switch"), (1, 3, 2, "off")]


# Model.


def test_the_tokenizer_writes_what_it_read(tmp_path):
    build_with(SMALL, byte_tokenizer(), tmp_path, seed=0)
    vlm = load_vlm(str(tmp_path))
    text = 'type("Ünder 7 , it\'s") tap(0.500, 0.250) <pad'
    ids = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode()) and vlm.decode(ids) == text


def test_frames_keep_the_shape_of_the_screen(tmp_path):
    build_with(SMALL, byte_tokenizer(), tmp_path, seed=0)
    vlm = load_vlm(str(tmp_path))
    assert vlm.picture_size == (HEIGHT, WIDTH)
    assert vlm.image_length() == 1 + 4 * 8


def test_the_weights_of_tiny_screens_are_at_most_10_mb(tmp_path):
    build_with(ScreenArchitecture(), byte_tokenizer(), tmp_path, seed=0)
    parameters = sum(parameter.numel() for parameter in load_vlm(str(tmp_path)).model.parameters())
    assert 2 * parameters < 10e6  # in float16
    assert ScreenArchitecture().patch <= 4


# Training.


def test_the_warm_up_learns_to_read_eight_screens(tmp_path):
    screen = train_in(tmp_path, options(warmup_steps=120, language_steps=0))
    screen.model.eval()
    perfect = {"accuracy": 1.0, "asked": 8}
    assert evaluate_reading(screen, drawn_screens(), frozenset()) == {"words": perfect, "new words": perfect}
    known = frozenset(word.lower() for word in WORDS)
    assert evaluate_reading(screen, drawn_screens(), known) == {"words": perfect}


@pytest.mark.slow
def test_training_on_eight_screens_learns_all_answers(tmp_path):
    mix = ScreenMix(
        **dict.fromkeys(ScreenMix.model_fields, 0) | {"read": 0.4, "tap": 0.2, "switch": 0.2, "changed": 0.2}
    )
    steps = {"warmup_steps": 120, "language_steps": 500, "language_learning_rate": 1.5e-3}
    screen = train_in(tmp_path, options(**steps, questions_per_frame=6, mix=mix))
    screen.model.eval()
    answers = evaluate_screens(screen.vlm, drawn_screens(), frozenset(), per_kind=4)["questions"]
    learnt = {kind: answers[kind] for kind in ("read", "tap", "switch", "changed")}
    assert learnt == dict.fromkeys(learnt, {"accuracy": 1.0, "asked": 8})


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    whole = train_in(tmp_path / "whole", options())

    def interrupt(stage, step, metrics):
        if stage.name == "language" and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "parts", options(), interrupt)
    resumed = train_in(tmp_path / "parts", options())
    for module in ("model", "reader", "contents"):
        states = [getattr(screen, module).state_dict() for screen in (whole, resumed)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), module


# Evaluation.


class AnswersByText:
    """A VLM with the answers of drawn screens, which it recognises by their frames; it always says yes to yes or no."""

    def __init__(self, screen_set: ScreenSet) -> None:
        self.rows = {screen_set.frame(row).tobytes(): screen_set.rows[row] for row in range(len(screen_set))}

    def answer(self, frames, texts, new_tokens):
        return [self._one(self.rows[frame.tobytes()], text) for frame, text in zip(frames, texts, strict=True)]

    def _one(self, row, text):
        return row["words"][0][0] if text.startswith("What is written") else "yes"


def test_evaluation_counts_right_answers():
    screen_set = drawn_screens()
    scores = evaluate_screens(AnswersByText(screen_set), screen_set, frozenset({"ada"}), per_kind=1)["questions"]
    assert scores["read"] == {"accuracy": 1.0, "asked": 8}
    assert scores[NEW_WORDS] == {"accuracy": 1.0, "asked": 7}
    assert scores["tap"] == {"accuracy": 0.0, "asked": 8}
    assert scores["switch"] == {"accuracy": 0.5, "asked": 8}
    assert scores["changed"] == {"accuracy": 0.5, "asked": 8}


@pytest.mark.slow
@needs_chromium
def test_one_command_generates_trains_and_evaluates(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(
        "why: tests the command\n"
        "train: [{frames: 4, seed: 1}, {content: text, frames: 2, seed: 1}]\n"
        "test: [{words: evaluation, themes: evaluation, apps: evaluation, frames: 2, seed: 2}]\n"
        "architecture: {patch: 8, tower_widths: [32, 32], tower_depths: [1, 1], width: 32, encoder_layers: 1,"
        " decoder_layers: 1, heads: 2}\n"
        "reading: {warmup_steps: 2, language_steps: 2, batch_frames: 2}\n"
    )
    weights = pretrain(config, folder=tmp_path / "run")
    (report,) = json.loads((tmp_path / "run" / "evaluation.json").read_text()).values()
    assert report["questions"]["screen"]["asked"] == 2 and report["reading"]["words"]["asked"] > 0
    assert load_vlm(str(weights)).image_length() == 1 + 28 * 16
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 0  # fewer than ten steps

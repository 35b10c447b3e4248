"""Sets of labelled screens: splits without overlap, exact labels, equal generations, and resuming."""

import json
import string
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.core.io import DamagedFile
from pr2l.data import screens
from pr2l.data.screen_texts import TEXTS, bare, draw_word, real_words, reword, side_of
from pr2l.data.screen_walk import EVALUATION_ACCENTS, EVALUATION_APPS, draw_action, random_screen_state
from pr2l.data.screens import FRAMES, SCREENS, ScreenSource, load_or_generate
from pr2l.environments.common.screen_actions import parse
from pr2l.environments.phone.generate import random_look, random_state
from pr2l.environments.phone.state import APPS, validate
from tests.environments.browser_pages import needs_chromium

SIDES = ("train", "evaluation")


def test_the_two_lists_have_no_common_word():
    lists = [{bare(draw_word(Random(seed), side)) for seed in range(3000)} for side in SIDES]
    assert min(map(len, lists)) > 1000
    assert not lists[0] & lists[1]
    assert {side_of(word) for word in real_words()} == set(SIDES)


@given(st.text(string.ascii_letters, min_size=1), st.sampled_from(string.punctuation))
def test_a_word_stays_in_its_list_with_other_case_and_punctuation(word, mark):
    assert side_of(word) == side_of(word.upper() + mark) == side_of(mark + word.lower())


@pytest.mark.parametrize("side", SIDES)
def test_all_replaced_texts_use_one_list(side):
    for seed in range(20):
        state = random_state(Random(seed), random_look(Random(seed)))
        lengths = [len(row[field].split()) for table in TEXTS for row in state[table] for field in TEXTS[table]]
        reword(state, Random(seed), side)
        validate(state)
        texts = [row[field] for table in TEXTS for row in state[table] for field in TEXTS[table]]
        counts = [len(text.split()) for text in texts]
        changed = [after for before, after in zip(lengths, counts, strict=True) if before != after]
        assert len(changed) <= len(state["messages"]) and all(8 <= count <= 30 for count in changed)
        names = [row["name"].rpartition(".")[0] for row in state["files"]]
        texts = [text for text in texts if text.rpartition(".")[0] not in names] + names
        assert {side_of(word) for text in texts for word in text.split()} == {side}


@pytest.mark.parametrize("side", SIDES)
def test_screens_show_only_apps_and_themes_of_their_side(side):
    expected = {app for app in APPS if (app in EVALUATION_APPS) == (side == "evaluation")}
    states = [random_screen_state(Random(seed), side, side, side) for seed in range(60)]
    assert {app for state in states for app in state["look"]["icon_order"]} == expected
    assert {row["app"] for state in states for row in state["notifications"]} <= expected
    assert {state["screen"]["app"] for state in states} == {"launcher", *expected}
    assert {state["look"]["accent"] in EVALUATION_ACCENTS for state in states} == {side == "evaluation"}
    assert {state["look"]["wallpaper"] >= 4 for state in states} == {side == "evaluation"}


def test_actions_are_drawn_without_elements_too():
    actions = [draw_action(Random(seed), [], False, "train") for seed in range(200)]
    assert {action.type for action in actions} == {"tap", "swipe", "type", "back", "home", "enter"}


def files_of(folder):
    (path,) = folder.iterdir()
    return {name: (path / name).read_bytes() for name in (FRAMES, SCREENS)}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    return folder, load_or_generate(SOURCE, folder)


SOURCE = ScreenSource(frames=20, seed=3)


@needs_chromium
def test_labels_are_in_the_frame_and_actions_change_what_they_say(complete):
    _, screen_set = complete
    assert len(screen_set) == SOURCE.frames
    for index, row in enumerate(screen_set.rows):
        frame = screen_set.frame(index)
        assert frame.shape == (448, 252, 3)
        for (text, box), edges in zip(row["words"], row["edges"], strict=True):
            assert len(edges) == len(text) + 1 and (edges[0], edges[-1]) == (box[0], box[2])
            assert edges == sorted(edges)
        for box in [label["box"] for label in row["labels"]] + [box for _, box in row["words"]]:
            assert 0 <= box[0] < box[2] <= 252 and 0 <= box[1] < box[3] <= 448
        actions = [parse(action) for action, _ in row["actions"]]
        assert len(actions) >= 1 and not any(changed for _, changed in row["actions"][:-1])
        following = screen_set.rows[index + 1 :][:1]
        if following and following[0]["walk"] == row["walk"]:
            assert row["actions"][-1][1]
            assert not np.array_equal(frame, screen_set.frame(index + 1))


@needs_chromium
def test_pages_of_text_have_many_words_of_one_list(tmp_path):
    pages = load_or_generate(ScreenSource(content="text", words="evaluation", frames=3), tmp_path)
    assert pages.content == "text" and len(pages) == 3
    words = [text for row in pages.rows for text, _ in row["words"]]
    assert len(words) > 300 and {side_of(text) for text in words} == {"evaluation"}
    assert not any(row["labels"] or row["actions"] for row in pages.rows)
    assert len({pages.frame(row).tobytes() for row in range(3)}) == 3


@needs_chromium
def test_two_generations_are_equal_even_if_one_is_interrupted(complete, tmp_path):
    folder, _ = complete

    def interrupt(done):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_generate(SOURCE, tmp_path, interrupt)
    (path,) = tmp_path.iterdir()
    with (path / SCREENS).open("a") as lines, (path / FRAMES).open("ab") as frames:
        whole = json.loads((path / SCREENS).read_text().splitlines()[0])
        lines.write(json.dumps({**whole, "last": False}) + '\n{"walk": 1, "la')  # killed while it wrote the second walk
        frames.write(b"half of a picture")
    progress = []
    load_or_generate(SOURCE, tmp_path, progress.append)
    assert progress[0] > 0
    assert files_of(tmp_path) == files_of(folder)


@needs_chromium
def test_a_damaged_set_is_explained(complete, tmp_path, monkeypatch):
    folder, _ = complete
    (path,) = folder.iterdir()
    (tmp_path / path.name).mkdir()
    for file in path.iterdir():
        (tmp_path / path.name / file.name).write_bytes(file.read_bytes())
    (tmp_path / path.name / FRAMES).write_bytes(b"")
    monkeypatch.setattr(screens, "_generate", None)  # a complete set is not generated again
    with pytest.raises(DamagedFile, match=FRAMES):
        load_or_generate(SOURCE, tmp_path)

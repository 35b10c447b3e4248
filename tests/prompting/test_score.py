"""Scores of prompts: in a VLM whose states say on paper what they hold, and through the command with the real one."""

import json
import weakref

import numpy as np
import pytest
import torch
from rich.console import Console

from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.core.types import Hidden
from pr2l.prompting import score as program
from pr2l.prompting.examples import Examples
from pr2l.prompting.score import prompts_of, read, score, score_one, scoring_of
from pr2l.vlms.base import Defaults

WIDTH, IMAGE, PROMPT, GENERATED = 4, 4, 3, 2
WHERE = Prompt(name="a/b/where", text="where", why="a test", source="this file")


def known(count=60):
    """Frame number n shows the target where n is even; the direction changes with it, every second time."""
    numbers = np.arange(count)
    present = numbers % 2 == 0
    direction = np.where(numbers % 4 == 0, "left", "right")
    return Examples(
        frames=numbers.astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8),
        contexts=[{"target": "imp"}] * count,
        present=present,
        direction=np.where(present, direction, ""),
        distance=np.where(present, "near", ""),
        groups=numbers // 4,
    )


class Known:
    """Zeros, but for the last layer's generated states, which hold presence, and the image's first place of all
    layers, which holds the direction. Says yes where there is a target, and in frame 1."""

    depth, loaded = 2, 0

    def __init__(self, options):
        self.options = options

    def prompt_length(self, texts):
        return PROMPT

    def hidden(self, frames, texts, prompt_tokens):
        numbers = frames[:, 0, 0, 0].astype(int)
        states = torch.zeros(len(frames), len(self.options.layers), IMAGE + PROMPT + GENERATED, WIDTH)
        for place, layer in enumerate(self.options.layers):
            states[:, place, 0, 0] = torch.from_numpy(20.0 * (numbers % 4 == 0))
            if layer == -1:
                states[:, place, -1, 0] = torch.from_numpy(20.0 * (numbers % 2 == 0))
        spans = {"image": slice(0, IMAGE), "prompt": slice(IMAGE, 7), "generated": slice(7, 9)}
        answers = ["yes" if number % 2 == 0 or number == 1 else "no" for number in numbers]
        return Hidden(states, torch.ones(len(frames), 9, dtype=torch.bool), spans, answers)


@pytest.fixture
def known_vlm(monkeypatch):
    monkeypatch.setattr(program, "load", lambda vlm, options: Known(options))


def test_each_cell_shows_what_its_states_hold(known_vlm):
    found = score_one(WHERE, Defaults(), "known", known())
    assert list(found.cells) == ["presence", "direction"], "the distance never varies"
    assert {layer for layer, _ in found.cells["presence"]} == {-3, -2, -1}
    presence = {cell: each.accuracy.value for cell, each in found.cells["presence"].items()}
    direction = {cell: each.accuracy.value for cell, each in found.cells["direction"].items()}
    assert presence[-1, "generated"] == 1
    assert {value for (_, segment), value in presence.items() if segment == "prompt"} == {0.5}
    assert presence[-2, "generated"] == 0.5
    assert presence[-1, "image"] == 0.75, "of those present, the half that is at the left"
    assert min(value for (_, segment), value in direction.items() if segment == "image") == 1
    assert direction[-1, "generated"] == 0.5
    assert found.view["presence"].accuracy.value == found.view["direction"].accuracy.value == found.score == 1


def test_rates_of_answers_by_hand(known_vlm):
    found = score_one(WHERE, Defaults(), "known", known(), cells=False)
    assert found.present.value == 1
    assert found.absent.value == pytest.approx(29 / 30)
    assert found.cells == {"presence": {}, "direction": {}}


def test_a_prompts_advice_decides_what_a_policy_would_be_given(known_vlm):
    """Only the generated states of the last layer hold presence, and they do not hold the direction."""
    few = WHERE.model_copy(update={"segments": ("generated",)})
    found = score_one(few, Defaults(layers=(-1,)), "known", known(), cells=False)
    assert found.view["presence"].accuracy.value == 1
    assert found.view["direction"].accuracy.value == 0.5
    scoring = scoring_of({"task": "a/b", "vlm_options": {"new_tokens": 3, "layers": [-1]}})
    advised = WHERE.model_copy(update={"vlm_options": {"new_tokens": 5}})
    options = program.options_for(advised, scoring)
    assert (options.new_tokens, options.layers) == (5, (-1,))


def test_without_generation_there_is_no_answer_to_rate(known_vlm):
    found = score_one(WHERE, Defaults(generation="none"), "known", known(), cells=False)
    assert found.present is None and found.absent is None


def test_too_few_frames_are_refused(known_vlm):
    with pytest.raises(UserError, match=r"8 frames of 2 episodes.* are too few.*frames=N.*5 or more episodes"):
        score_one(WHERE, Defaults(), "known", known(8), cells=False)


def test_a_vlm_is_loaded_once_for_equal_options_and_never_beside_another(monkeypatch):
    """The first load tells the depth; then one for each of the two kinds of options."""
    loaded = []

    def load_vlm(name, options):
        assert all(vlm() is None for vlm in loaded)
        made = Known(options)
        made.engine = [made]  # they hold each other, as a VLM and its engine do
        loaded.append(weakref.ref(made))
        return made

    monkeypatch.setattr(program, "load_vlm", load_vlm)
    monkeypatch.setattr(program, "_probes", lambda features, known: {"presence": None})  # which take long
    for new_tokens in (3, 3, 5, 5):
        score_one(WHERE, Defaults(new_tokens=new_tokens), "heavy", known(20))
    assert len(loaded) == 3


def test_brackets_of_a_prompt_are_shown_as_they_are(known_vlm, capsys):
    asked = WHERE.model_copy(update={"name": "a/b/[red]", "text": "[INST] say [yes/no] :cow: [/INST]"})
    found = score_one(asked, Defaults(), "known", known(20), cells=False)
    console = Console(width=200)
    console.print(program.table(scoring_of({"task": "a/b"}), known(20), [found]), program.agreements([found]))
    shown = capsys.readouterr().out
    assert "[red]: [INST] say [yes/no] :cow: [/INST]" in shown and "[red] 1" in shown


def test_reading_keeps_rows_in_order():
    seen = read(Known(Defaults()), WHERE, known(40))
    assert seen.answers[:4] == ["yes", "yes", "yes", "no"]
    assert seen.cells[-1, "image"].shape == (40, IMAGE * WIDTH)
    assert seen.cells[-1, "image"][:5, 0].tolist() == [20, 0, 0, 0, 20]
    assert seen.ms > 0


def test_prompts_are_all_of_a_task_or_those_named(write_plugin, tmp_path):
    text = "text: there\nwhy: a test\nsource: this file\n"
    for name in ("maze/walk/one", "maze/walk/two", "maze/run/three"):
        write_plugin("prompts", name, text)
    (tmp_path / "mine.yaml").write_text(text)
    own = prompts_of(scoring_of({"task": "maze/walk"}))
    assert [each.name for each in own] == ["maze/walk/one", "maze/walk/two"]
    names = ("two", "maze/run/three", str(tmp_path / "mine.yaml"))
    assert [each.name for each in prompts_of(scoring_of({"task": "maze/walk", "prompts": names}))] == [
        "maze/walk/two",
        "maze/run/three",
        names[2],
    ]
    with pytest.raises(UserError, match=r"no prompts for 'maze/wlk'. Did you mean 'maze/walk'"):
        prompts_of(scoring_of({"task": "maze/wlk"}))


def test_a_wrong_option_is_taught():
    with pytest.raises(UserError, match="Did you mean 'frames'"):
        scoring_of({"task": "a/b", "frame": 3})
    advised = WHERE.model_copy(update={"vlm_options": {"new_token": 5}})
    with pytest.raises(UserError, match=r"prompt 'a/b/where'.*Did you mean 'new_tokens'"):
        program.options_for(advised, scoring_of({"task": "a/b"}))


def test_every_shipped_prompts_advice_is_valid():
    for name in program.registry.names("prompts"):
        program.options_for(program.prompt.load(name), scoring_of({"task": name.rpartition("/")[0]}))


def test_a_ranking_is_written_with_its_command(known_vlm, write_plugin, monkeypatch, tmp_path):
    """Asked of the last layer alone, the one that keeps all segments tells the direction too."""
    text = "text: there\nwhy: a test\nsource: this file\nvlm_options: {layers: [-1]}\n"
    write_plugin("prompts", "maze/walk/all", text)
    write_plugin("prompts", "maze/walk/few", text + "segments: [generated]\n")
    monkeypatch.setattr(program, "examples_of", lambda scoring: known())
    scores = score(scoring_of({"task": "maze/walk", "prompts": ("few", "all")}), tmp_path / "out")
    assert [each.prompt.name for each in scores] == ["maze/walk/all", "maze/walk/few"]
    written = json.loads((tmp_path / "out" / "score.json").read_text())
    assert [each["score"] for each in written["scores"]] == [1, 0.5], "presence alone is half of it"
    assert written["scores"][0]["cells"]["presence"]["generated/-1"]["value"] == 1
    assert written["agreement"]["maze/walk/all"] == {"maze/walk/all": 1, "maze/walk/few": 1}
    assert written["command"] and written["examples"] == {"frames": 60, "present": 30}
    assert (tmp_path / "out" / "score.png").read_bytes().startswith(b"\x89PNG")

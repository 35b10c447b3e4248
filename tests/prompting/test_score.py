"""Scores of prompts, for a fake VLM whose states contain known labels."""

import dataclasses
import json
import weakref

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from small_vlms import CASE, folder, vlm
from test_examples import WALKS

from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.core.types import Hidden
from pr2l.prompting import score as program
from pr2l.prompting.examples import Examples
from pr2l.prompting.score import examples_of, prompts_of, read, score, score_one, scoring_of
from pr2l.vlms.base import Defaults

WIDTH, IMAGE, PROMPT, GENERATED = 4, 4, 3, 2
WHERE = Prompt(name="a/b/where", text="where", why="a test", source="this file")


def numbered_examples(count=60):
    """Frame n has value n. The target is present if n is even, at the left if n is a multiple of 4."""
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


class FakeVLM:
    """Answers yes if the target is present, and in frame 1.

    The last layer's last generated state contains the presence, the first image state of every layer the direction;
    all other states are zeros.
    """

    def __init__(self, options):
        self.options = options

    def grids(self, prompt):
        return [IMAGE]

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
def fake_vlm(monkeypatch):
    monkeypatch.setattr(program, "load", lambda vlm, options: FakeVLM(options))
    monkeypatch.setattr(program, "layer_count", lambda vlm: 2)


def test_probes_of_each_layer_and_segment_predict_the_labels_in_its_states(fake_vlm):
    result = score_one(WHERE, Defaults(), "fake", numbered_examples())
    assert list(result.cells) == ["presence", "direction"], "all distances are equal"
    assert {layer for layer, _ in result.cells["presence"]} == {-3, -2, -1}
    presence = {cell: probe.accuracy.value for cell, probe in result.cells["presence"].items()}
    direction = {cell: probe.accuracy.value for cell, probe in result.cells["direction"].items()}
    assert presence[-1, "generated"] == 1
    assert {value for (_, segment), value in presence.items() if segment == "prompt"} == {0.5}
    assert presence[-2, "generated"] == 0.5
    assert presence[-1, "image"] == 0.75, "it contains only the half of the targets that is at the left"
    assert min(value for (_, segment), value in direction.items() if segment == "image") == 1
    assert direction[-1, "generated"] == 0.5
    assert result.view["presence"].accuracy.value == result.view["direction"].accuracy.value == result.score == 1


def test_true_yes_and_true_no_rates(fake_vlm):
    result = score_one(WHERE, Defaults(), "fake", numbered_examples(), cells=False)
    assert result.present.value == 1
    assert result.absent.value == pytest.approx(29 / 30)
    assert result.cells == {"presence": {}, "direction": {}}


def test_segments_and_vlm_options_of_a_prompt_select_the_states(fake_vlm):
    """The generated states of the last layer contain the presence, but not the direction."""
    generated_only = WHERE.model_copy(update={"segments": ("generated",)})
    result = score_one(generated_only, Defaults(layers=(-1,)), "fake", numbered_examples(), cells=False)
    assert result.view["presence"].accuracy.value == 1
    assert result.view["direction"].accuracy.value == 0.5
    scoring = scoring_of({"task": "a/b", "vlm_options": {"new_tokens": 3, "layers": [-1]}})
    variant = WHERE.model_copy(update={"vlm_options": {"new_tokens": 5}})
    options = program.options_for(variant, scoring)
    assert (options.new_tokens, options.layers) == (5, (-1,))


def test_answers_are_not_rated_without_generation(fake_vlm):
    result = score_one(WHERE, Defaults(generation="none"), "fake", numbered_examples(), cells=False)
    assert result.present is None and result.absent is None


def test_too_few_frames_raise(fake_vlm):
    with pytest.raises(UserError, match=r"8 frames of 2 episodes.* too few.*frames=N.*at least 5 episodes"):
        score_one(WHERE, Defaults(), "fake", numbered_examples(8), cells=False)


def test_vlm_is_loaded_once_per_options_and_freed_before_the_next_load(monkeypatch):
    """One load for each of two values of new_tokens; the number of layers needs none."""
    loaded = []

    def load_vlm(name, options):
        assert all(reference() is None for reference in loaded)
        vlm = FakeVLM(options)
        vlm.engine = [vlm]  # a reference cycle, like that of a VLM and its engine
        loaded.append(weakref.ref(vlm))
        return vlm

    monkeypatch.setattr(program, "load_vlm", load_vlm)
    monkeypatch.setattr(program, "layer_count", lambda vlm: 2)
    monkeypatch.setattr(program, "_probes", lambda features, examples: {"presence": None})  # the probes are slow
    for new_tokens in (3, 3, 5, 5):
        score_one(WHERE, Defaults(new_tokens=new_tokens), "heavy", numbered_examples(20))
    assert len(loaded) == 2


def test_tables_show_brackets_and_colons_of_a_prompt_unchanged(fake_vlm, capsys):
    variant = WHERE.model_copy(update={"name": "a/b/[red]", "text": "[INST] say [yes/no] :cow: [/INST]"})
    examples = numbered_examples(20)
    result = score_one(variant, Defaults(), "fake", examples, cells=False)
    table = program.table(scoring_of({"task": "a/b"}), examples, [result])
    Console(width=200).print(table, program.agreements([result]))
    output = capsys.readouterr().out
    assert "[red]: [INST] say [yes/no] :cow: [/INST]" in output and "[red] 1" in output


def test_read_returns_rows_in_the_order_of_the_examples():
    reading = read(FakeVLM(Defaults()), WHERE, numbered_examples(40))
    assert reading.answers[:4] == ["yes", "yes", "yes", "no"]
    assert reading.cells[-1, "image"].shape == (40, IMAGE * WIDTH)
    assert reading.cells[-1, "image"][:5, 0].tolist() == [20, 0, 0, 0, 20]
    assert reading.ms > 0


PARTS = [{"type": "image"}, {"type": "text", "text": "then"}, {"type": "image"}, {"type": "text", "text": "is it near"}]
TWO_FRAMES = Prompt(name="two", messages=[{"role": "user", "content": PARTS}], why="a test", source="this file")


def test_frames_of_a_conversation_are_pooled_one_by_one():
    model = vlm(CASE["llava"])
    numbered = numbered_examples(18)  # two batches
    earlier = np.random.default_rng(0).integers(0, 256, (18, 2, 24, 24, 3), dtype=np.uint8)
    examples = dataclasses.replace(numbered, frames=earlier)
    reading = read(model, TWO_FRAMES, examples)
    hidden = model.hidden([list(row) for row in earlier], [TWO_FRAMES.render_messages({})] * 18)
    assert reading.answers == hidden.answers
    image = hidden.states[:, -1, hidden.spans["image"]].unflatten(1, (2, 16)).flatten(1)
    np.testing.assert_allclose(reading.cells[-1, "image"], image.numpy(), atol=1e-4)
    with pytest.raises(UserError, match="last 2 frames.*examples have 1"):
        read(model, TWO_FRAMES, numbered)


def test_conversation_of_one_frame_is_read():
    model, examples = vlm(CASE["llava"]), numbered_examples(3)
    turn = Prompt(name="turn", messages=[{"role": "user", "content": PARTS[2:]}], why="a test", source="this file")
    assert read(model, turn, examples).answers == model.hidden(examples.frames, [turn.render_messages({})] * 3).answers


def test_prompts_of_one_and_two_frames_are_scored_on_the_same_examples(write_plugin, tmp_path, monkeypatch, capsys):
    write_plugin("environments", "walks", WALKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(program, "_layers", lambda vlm, options: options.layers)  # probes of all layers are slow
    (tmp_path / "one.yaml").write_text("text: is it near\nwhy: a test\nsource: this file\n")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(TWO_FRAMES.model_dump(mode="json", exclude={"name", "text"})))
    values = {"task": "walks/walk", "vlm": str(folder(CASE["llava"])), "vlm_options": {"new_tokens": 1}, "frames": 60}
    scoring = scoring_of({**values, "prompts": ("one.yaml", "two.yaml")})
    alone, after = examples_of(scoring), examples_of(scoring, frame_history=2)
    assert np.array_equal(after.last_frames(1), alone.frames) and after.contexts == alone.contexts
    assert {result.prompt.images for result in score(scoring, tmp_path)} == {1, 2}
    assert "two.yaml: then is it near" in capsys.readouterr().out
    report = json.loads((tmp_path / "score.json").read_text())
    assert {result["prompt"]["name"] for result in report["scores"]} == {"one.yaml", "two.yaml"}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "labels.csv").write_text("file,present\n")
    with pytest.raises(UserError, match=r"last 2 frames.*labels\.csv are single frames.*collect --labels"):
        score(scoring_of({**values, "prompts": ("two.yaml",), "data": pictures}), tmp_path)


def test_prompts_default_to_all_variants_of_the_task(write_plugin, tmp_path):
    text = "text: there\nwhy: a test\nsource: this file\n"
    for name in ("maze/walk/one", "maze/walk/two", "maze/run/three"):
        write_plugin("prompts", name, text)
    (tmp_path / "mine.yaml").write_text(text)
    variants = prompts_of(scoring_of({"task": "maze/walk"}))
    assert [variant.name for variant in variants] == ["maze/walk/one", "maze/walk/two"]
    names = ("two", "maze/run/three", str(tmp_path / "mine.yaml"))
    variants = prompts_of(scoring_of({"task": "maze/walk", "prompts": names}))
    assert [variant.name for variant in variants] == ["maze/walk/two", "maze/run/three", names[2]]
    with pytest.raises(UserError, match="'maze/wlk'.*Did you mean 'maze/walk'"):
        prompts_of(scoring_of({"task": "maze/wlk"}))


def test_misspelled_option_raises_with_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'frames'"):
        scoring_of({"task": "a/b", "frame": 3})
    variant = WHERE.model_copy(update={"vlm_options": {"new_token": 5}})
    with pytest.raises(UserError, match=r"prompt 'a/b/where'.*Did you mean 'new_tokens'"):
        program.options_for(variant, scoring_of({"task": "a/b"}))


def test_vlm_options_of_included_prompts_are_valid():
    for name in program.registry.names("prompts"):
        program.options_for(program.prompt.load(name), scoring_of({"task": name.rpartition("/")[0]}))


def test_score_writes_a_ranking_and_the_command(fake_vlm, write_plugin, monkeypatch, tmp_path):
    """With the last layer only, the prompt that keeps all segments is better, because of the direction."""
    text = "text: there\nwhy: a test\nsource: this file\nvlm_options: {layers: [-1]}\n"
    write_plugin("prompts", "maze/walk/all", text)
    write_plugin("prompts", "maze/walk/few", text + "segments: [generated]\n")
    monkeypatch.setattr(program, "examples_of", lambda scoring, frame_history: numbered_examples())
    scores = score(scoring_of({"task": "maze/walk", "prompts": ("few", "all")}), tmp_path / "out")
    assert [result.prompt.name for result in scores] == ["maze/walk/all", "maze/walk/few"]
    report = json.loads((tmp_path / "out" / "score.json").read_text())
    assert [result["score"] for result in report["scores"]] == [1, 0.5], "the mean skill of presence and direction"
    assert report["scores"][0]["cells"]["presence"]["generated/-1"]["value"] == 1
    assert report["agreement"]["maze/walk/all"] == {"maze/walk/all": 1, "maze/walk/few": 1}
    assert report["command"] and report["examples"] == {"frames": 60, "present": 30}
    assert (tmp_path / "out" / "score.png").read_bytes().startswith(b"\x89PNG")

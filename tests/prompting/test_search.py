"""The search for a prompt: rungs by hand, a known winner, and no work done twice."""

import contextlib
import json

import numpy as np
import pytest
import yaml

from pr2l.cli import main
from pr2l.core import prompt, registry
from pr2l.core.config import read_config
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.prompt import Prompt
from pr2l.core.statistics import Estimate
from pr2l.prompting import search as program
from pr2l.prompting.examples import Examples
from pr2l.prompting.probes import Probe
from pr2l.prompting.score import PromptScore, scoring_of
from pr2l.prompting.search import RESULTS, Space, plan, search
from pr2l.vlms.base import Defaults

WORDS = ("a", "bb", "ccc", "dddd")
SCORING = scoring_of({"task": "maze/walk", "vlm": "tiny"})


def grey(count):
    """Frames in groups of one; every other one is said to show an imp."""
    present = np.arange(count) % 2 == 0
    nothing, frames = np.full(count, ""), np.full((count, 32, 32, 3), 128, np.uint8)
    return Examples(frames, [{"target": "imp"}] * count, present, nothing, nothing, np.arange(count))


class Frames:
    """Counts as examples; `spread` is asked for the frames of a rung."""

    def __init__(self, count, named=0):
        self.count, self.named, self.digest = count, named, f"{count} of {named}"

    def __len__(self):
        return self.count

    def spread(self, count):
        return Frames(count, self.named)


class World:
    """Scores a prompt by its length, notes what is read, and stops at a given reading, as Ctrl-C would."""

    def __init__(self):
        self.readings, self.stop_at = [], None

    def score_one(self, asked, options, vlm, known, *, cells):
        if len(self.readings) == self.stop_at:
            raise KeyboardInterrupt
        self.readings.append((asked.text, len(known)))
        view = {"presence": Probe(Estimate(0.5 + len(asked.text) / 100, 0.0, 1.0), 0.5, len(known))}
        return PromptScore(asked, options, None, None, [], view, {}, 1.0, [])


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def world(monkeypatch, tmp_path):
    world = World()
    monkeypatch.setattr(program, "score_one", world.score_one)
    monkeypatch.setattr(program, "examples_of", lambda scoring: Frames(10_000, scoring.seed))
    space = {"why": "a test", "auxiliary": ["", "x {target}"], "questions": list(WORDS)}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    return world


def run(folder, budget=1440):
    return search(str(folder / "space.yaml"), SCORING, folder / "out", budget)


def test_rungs_by_hand():
    """Each takes a third of 7200 or less: 24 x 100, 8 x 300, 3 x 800."""
    assert plan(24, 7200) == [(24, 100), (8, 300), (3, 800)]
    assert plan(1, 100) == [(1, 100)]
    assert plan(9, 3 * 9 * 60) == [(9, 60), (3, 180), (1, 540)]


def test_a_small_budget_takes_fewer_candidates_and_a_tiny_one_is_refused():
    """Nine would get 59 frames each; eight, in two rungs, 99."""
    assert plan(9, 3 * 9 * 60 - 1) == [(8, 101), (3, 269)]
    assert plan(2, 60) == [(1, 60)]
    with pytest.raises(UserError, match="at least 60"):
        plan(5, 59)


def test_the_space_is_every_combination_once():
    space = Space(why="", auxiliary=("", "b"), questions=("a {target}", "b"), vlm_options={"new_tokens": (1, 2)})
    texts = [(each.text, each.vlm_options["new_tokens"]) for each in space.prompts()]
    assert texts == [(text, count) for count in (1, 2) for text in ("a {target}", "b", "b a {target}", "b b")]
    assert space.prompts()[0].slots == ("target",)
    assert len(Space(why="", auxiliary=("", ""), questions=("a",)).prompts()) == 1


def test_the_best_wins_and_is_written_as_a_prompt(world, tmp_path):
    best = run(tmp_path)
    assert best[0].prompt.text == "x {target} dddd"
    assert world.readings[:8] == [(text, 90) for text in (*WORDS, *(f"x {{target}} {word}" for word in WORDS))]
    assert world.readings[8:] == [(f"x {{target}} {word}", 240) for word in WORDS[1:]]
    written = prompt.load(str(tmp_path / "out" / "best.yaml"))
    assert (written.text, written.slots) == ("x {target} dddd", ("target",))


@pytest.mark.parametrize("name", ["{folder}/space.yaml", "space.yaml", "./space.yaml", "~/space.yaml"])
def test_a_space_may_be_any_path(world, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert search(name.format(folder=tmp_path), SCORING, tmp_path / "out", 1440)[0].prompt.text == "x {target} dddd"


def test_the_command_takes_the_path_of_a_space(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pr2l", "prompts", "search", "doom/fetch", "--space", "space.yaml"])
    with contextlib.suppress(SystemExit):
        main()
    assert prompt.load("runs/search/doom-fetch/best.yaml").text == "x {target} dddd"


def test_a_space_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(UnknownName, match=r"There is no file .*none.yaml' either"):
        search(str(tmp_path / "none.yaml"), SCORING, tmp_path / "out", 1440)
    with pytest.raises(UnknownName, match="Did you mean 'search/doom'"):
        search("search/dom", SCORING, tmp_path / "out", 1440)


def test_a_stopped_search_goes_on_and_reads_nothing_twice(world, tmp_path):
    world.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len((tmp_path / "out" / RESULTS).read_text().splitlines()) == 5
    world.stop_at = None
    resumed = run(tmp_path)
    assert len(world.readings) == len(set(world.readings)) == 8 + 3
    lines = (tmp_path / "out" / RESULTS).read_text()
    assert [one.line for one in run(tmp_path)] == [one.line for one in resumed]
    assert len(world.readings) == 11 and (tmp_path / "out" / RESULTS).read_text() == lines


def test_a_line_that_a_kill_cut_short_is_read_again(world, tmp_path):
    run(tmp_path)
    path = tmp_path / "out" / RESULTS
    path.write_text(path.read_text()[:-20])
    run(tmp_path)
    assert world.readings[-1] == world.readings[10] and len(world.readings) == 12
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 11


def test_what_changes_a_score_is_read_anew(world, tmp_path):
    run(tmp_path)
    search(str(tmp_path / "space.yaml"), SCORING.model_copy(update={"seed": 1}), tmp_path / "out", 1440)
    assert len(world.readings) == 22


def test_weights_that_were_trained_again_are_read_anew(world, tmp_path):
    """Into the same folder, so that the VLM has the same name."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"first")
    mine = SCORING.model_copy(update={"vlm": str(tmp_path / "mine")})
    for weights, readings in ((b"first", 11), (b"first", 11), (b"second", 22)):
        (tmp_path / "mine" / "model.safetensors").write_bytes(weights)
        search(str(tmp_path / "space.yaml"), mine, tmp_path / "out", 1440)
        assert len(world.readings) == readings


def test_a_candidate_that_the_vlm_refuses_is_left_out(world, tmp_path, monkeypatch, capsys):
    def score_one(asked, options, *others, **known):
        if options.token_order == "text_first":
            raise UserError("one place for its image")
        return world.score_one(asked, options, *others, **known)

    monkeypatch.setattr(program, "score_one", score_one)
    space = {"why": "", "questions": ["a", "b"], "vlm_options": {"token_order": ["image_first", "text_first"]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    best = run(tmp_path)
    assert {one.prompt.vlm_options["token_order"] for one in best} == {"image_first"}
    assert "left out: one place for its image" in capsys.readouterr().out


def test_options_that_do_not_go_together_are_left_out(world, tmp_path, capsys):
    space = {"why": "", "questions": ["a"], "vlm_options": {"new_tokens": [3, 8], "min_new_tokens": [0, 8]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    tried = {(one.prompt.vlm_options["new_tokens"], one.prompt.vlm_options["min_new_tokens"]) for one in run(tmp_path)}
    assert tried == {(3, 0), (8, 0), (8, 8)}
    assert "min_new_tokens=8 is more than new_tokens=3" in capsys.readouterr().out


def test_segments_of_which_nothing_is_read_are_left_out(tmp_path, monkeypatch, capsys):
    """By the real score, of `tiny`, on grey frames: without generation there is no generated segment."""
    monkeypatch.setattr(program, "examples_of", lambda scoring: grey(10))
    monkeypatch.setattr(program, "FEWEST", 1)
    options = {"generation": ["none", "greedy"], "new_tokens": [2]}
    space = {"why": "", "questions": ["where is the {target} ?"], "segments": [["generated"]], "vlm_options": options}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    [best] = search(str(tmp_path / "space.yaml"), scoring_of({"task": "maze/walk"}), tmp_path / "out", 20)
    assert best.prompt.vlm_options["generation"] == "greedy"
    assert "keeps generated, which has no states here" in capsys.readouterr().out


def test_too_few_frames_end_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "examples_of", lambda scoring: grey(4))
    space = {"why": "", "questions": ["imp ?"], "vlm_options": {"new_tokens": [2]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    with pytest.raises(UserError, match="4 frames of 4 episodes.* are too few"):
        search(str(tmp_path / "space.yaml"), scoring_of({"task": "maze/walk"}), tmp_path / "out", 60)


@pytest.mark.parametrize(("given", "instead"), [({"frames": 100}, "--budget"), ({"prompts": ["where"]}, "--space")])
def test_what_a_search_decides_itself_is_refused(world, tmp_path, given, instead):
    scoring = scoring_of({"task": "maze/walk", **given})
    with pytest.raises(UserError, match=f"chooses {[*given][0]} itself: give {instead}"):
        search(str(tmp_path / "space.yaml"), scoring, tmp_path / "out", 1440)


def test_brackets_of_a_candidate_are_shown_as_they_are(world, tmp_path, monkeypatch, capsys):
    """In the line of a rung, in that of a candidate that is left out, and in the table."""

    def score_one(asked, options, *others, **known):
        if options.new_tokens == 3:
            raise UserError("the template has [/INST]")
        return world.score_one(asked, options, *others, **known)

    monkeypatch.setattr(program, "score_one", score_one)
    space = {"why": "", "questions": ["say [:duck:] [/INST]"], "vlm_options": {"new_tokens": [3, 5]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    run(tmp_path)
    shown = capsys.readouterr().out
    assert "left out: the template has [/INST]" in shown
    assert "rung 1, 2/2: 0.40  say [:duck:] [/INST]\n" in shown
    assert 'say [:duck:] [/INST] {"new_tokens": 5}' in shown


@pytest.mark.parametrize("name", [name for name in registry.names("configs") if name.startswith("search/")])
def test_every_shipped_space_holds_prompts_of_its_environment(name):
    """Of all its tasks that name a target."""
    tasks = registry.load("environments", name.partition("/")[2]).TASKS
    contexts = [context for task in tasks.values() for context in task.contexts if "target" in context]
    candidates = read_config(Space, name).prompts()
    assert len(candidates) > 5 and len(contexts) > 5
    for each in candidates:
        prompt.check(each, contexts)
        assert Defaults(**each.vlm_options) and isinstance(each, Prompt)

"""The search for a prompt: successive halving, resuming, and candidates that are left out."""

import contextlib
import json

import numpy as np
import pytest
import yaml

from pr2l.cli import main
from pr2l.core import prompt, registry
from pr2l.core.config import read_config
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.io import DamagedFile
from pr2l.core.lock import locked
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


def gray_examples(count):
    """Gray frames in groups of one; every second frame is labelled as showing an imp."""
    present = np.arange(count) % 2 == 0
    unlabelled, frames = np.full(count, ""), np.full((count, 32, 32, 3), 128, np.uint8)
    return Examples(frames, [{"target": "imp"}] * count, present, unlabelled, unlabelled, np.arange(count))


class FakeExamples:
    """Stands in for Examples: has a length and a digest, but no frames."""

    def __init__(self, count, seed):
        self.count, self.seed, self.digest = count, seed, f"{count} with seed {seed}"

    def __len__(self):
        return self.count

    def spread(self, count):
        return FakeExamples(count, self.seed)


class FakeScore:
    """Replaces `score_one`: a longer prompt has a higher score.

    Attributes:
        calls: Text and number of examples of each call.
        interrupt_at: Number of calls after which the next one raises KeyboardInterrupt; None = never.
    """

    def __init__(self):
        self.calls, self.interrupt_at = [], None

    def score_one(self, variant, options, vlm, examples, *, cells):
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((variant.text, len(examples)))
        view = {"presence": Probe(Estimate(0.5 + len(variant.text) / 100, 0.0, 1.0), 0.5, len(examples))}
        return PromptScore(variant, options, None, None, [], view, {}, 1.0, [])


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def fake_score(monkeypatch, tmp_path):
    fake_score = FakeScore()
    monkeypatch.setattr(program, "score_one", fake_score.score_one)
    monkeypatch.setattr(program, "examples_of", lambda scoring: FakeExamples(10_000, scoring.seed))
    space = {"why": "a test", "auxiliary": ["", "x {target}"], "questions": list(WORDS)}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    return fake_score


def run_search(folder, budget=1440):
    return search(str(folder / "space.yaml"), SCORING, folder / "out", budget)


def test_plan_divides_the_budget_equally_among_rungs():
    """A third of 7200 is 24 x 100 = 8 x 300 = 3 x 800."""
    assert plan(24, 7200) == [(24, 100), (8, 300), (3, 800)]
    assert plan(1, 100) == [(1, 100)]
    assert plan(9, 3 * 9 * 60) == [(9, 60), (3, 180), (1, 540)]


def test_plan_with_a_small_budget_has_fewer_candidates():
    """Each of nine candidates would get 59 frames, fewer than the minimum of 60."""
    assert plan(9, 3 * 9 * 60 - 1) == [(8, 101), (3, 269)]
    assert plan(2, 60) == [(1, 60)]
    with pytest.raises(UserError, match="at least 60"):
        plan(5, 59)


def test_space_contains_every_combination_once():
    space = Space(why="", auxiliary=("", "b"), questions=("a {target}", "b"), vlm_options={"new_tokens": (1, 2)})
    texts = [(variant.text, variant.vlm_options["new_tokens"]) for variant in space.prompts()]
    assert texts == [(text, count) for count in (1, 2) for text in ("a {target}", "b", "b a {target}", "b b")]
    assert space.prompts()[0].slots == ("target",)
    assert len(Space(why="", auxiliary=("", ""), questions=("a",)).prompts()) == 1


def test_two_searches_cannot_write_to_one_folder(fake_score, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(UserError, match=f"{tmp_path / 'out'} is in use by process"):
        run_search(tmp_path)
    assert not fake_score.calls


def test_best_prompt_is_found_and_written(fake_score, tmp_path):
    best = run_search(tmp_path)
    assert best[0].prompt.text == "x {target} dddd"
    assert fake_score.calls[:8] == [(text, 90) for text in (*WORDS, *(f"x {{target}} {word}" for word in WORDS))]
    assert fake_score.calls[8:] == [(f"x {{target}} {word}", 240) for word in WORDS[1:]]
    best_prompt = prompt.load(str(tmp_path / "out" / "best.yaml"))
    assert (best_prompt.text, best_prompt.slots) == ("x {target} dddd", ("target",))


@pytest.mark.parametrize("name", ["{folder}/space.yaml", "space.yaml", "./space.yaml", "~/space.yaml"])
def test_search_space_may_be_a_path(fake_score, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert search(name.format(folder=tmp_path), SCORING, tmp_path / "out", 1440)[0].prompt.text == "x {target} dddd"


def test_command_accepts_the_path_of_a_space(fake_score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pr2l", "prompts", "search", "doom/fetch", "--space", "space.yaml"])
    with contextlib.suppress(SystemExit):
        main()
    assert prompt.load("runs/search/doom-fetch/best.yaml").text == "x {target} dddd"


def test_missing_space_raises_with_its_name(tmp_path):
    with pytest.raises(UnknownName, match="no file .*none.yaml"):
        search(str(tmp_path / "none.yaml"), SCORING, tmp_path / "out", 1440)
    with pytest.raises(UnknownName, match="Did you mean 'search/doom'"):
        search("search/dom", SCORING, tmp_path / "out", 1440)


def test_interrupted_search_resumes_without_scoring_twice(fake_score, tmp_path):
    fake_score.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path)
    assert len((tmp_path / "out" / RESULTS).read_text().splitlines()) == 5
    fake_score.interrupt_at = None
    resumed = run_search(tmp_path)
    assert len(fake_score.calls) == len(set(fake_score.calls)) == 8 + 3
    lines = (tmp_path / "out" / RESULTS).read_text()
    assert [result.line for result in run_search(tmp_path)] == [result.line for result in resumed]
    assert len(fake_score.calls) == 11 and (tmp_path / "out" / RESULTS).read_text() == lines


def test_incomplete_last_line_is_scored_again(fake_score, tmp_path):
    run_search(tmp_path)
    path = tmp_path / "out" / RESULTS
    path.write_text(path.read_text()[:-20])
    run_search(tmp_path)
    assert fake_score.calls[-1] == fake_score.calls[10] and len(fake_score.calls) == 12
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 11


def test_changed_line_is_refused_and_scored_again_when_it_is_removed(fake_score, tmp_path):
    run_search(tmp_path)
    path = tmp_path / "out" / RESULTS
    lines = path.read_text().splitlines(keepends=True)
    changed = lines[3].replace("0.", "1.", 1)
    assert changed != lines[3]
    path.write_text("".join([*lines[:3], changed, *lines[4:]]))
    with pytest.raises(DamagedFile, match="Remove line 4"):
        run_search(tmp_path)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    run_search(tmp_path)
    assert len(fake_score.calls) == 12


def test_other_seed_is_scored_again(fake_score, tmp_path):
    run_search(tmp_path)
    search(str(tmp_path / "space.yaml"), SCORING.model_copy(update={"seed": 1}), tmp_path / "out", 1440)
    assert len(fake_score.calls) == 22


def test_other_weights_in_the_same_folder_are_scored_again(fake_score, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"first")
    mine = SCORING.model_copy(update={"vlm": str(tmp_path / "mine")})
    for weights, calls in ((b"first", 11), (b"first", 11), (b"second", 22)):
        (tmp_path / "mine" / "model.safetensors").write_bytes(weights)
        search(str(tmp_path / "space.yaml"), mine, tmp_path / "out", 1440)
        assert len(fake_score.calls) == calls


def test_candidate_that_the_vlm_rejects_is_left_out(fake_score, tmp_path, monkeypatch, capsys):
    def score_one(variant, options, *arguments, **keywords):
        if options.token_order == "text_first":
            raise UserError("an image at a fixed position")
        return fake_score.score_one(variant, options, *arguments, **keywords)

    monkeypatch.setattr(program, "score_one", score_one)
    space = {"why": "", "questions": ["a", "b"], "vlm_options": {"token_order": ["image_first", "text_first"]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    best = run_search(tmp_path)
    assert {result.prompt.vlm_options["token_order"] for result in best} == {"image_first"}
    assert "left out: an image at a fixed position" in capsys.readouterr().out


def test_incompatible_options_are_left_out(fake_score, tmp_path, capsys):
    space = {"why": "", "questions": ["a"], "vlm_options": {"new_tokens": [3, 8], "min_new_tokens": [0, 8]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    options = [result.prompt.vlm_options for result in run_search(tmp_path)]
    assert {(values["new_tokens"], values["min_new_tokens"]) for values in options} == {(3, 0), (8, 0), (8, 8)}
    assert "min_new_tokens=8 is more than new_tokens=3" in capsys.readouterr().out


def test_segments_without_states_are_left_out(tmp_path, monkeypatch, capsys):
    """With the VLM tiny: without generation there is no generated segment."""
    monkeypatch.setattr(program, "examples_of", lambda scoring: gray_examples(10))
    monkeypatch.setattr(program, "FEWEST", 1)
    options = {"generation": ["none", "greedy"], "new_tokens": [2]}
    space = {"why": "", "questions": ["where is the {target} ?"], "segments": [["generated"]], "vlm_options": options}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    [best] = search(str(tmp_path / "space.yaml"), scoring_of({"task": "maze/walk"}), tmp_path / "out", 20)
    assert best.prompt.vlm_options["generation"] == "greedy"
    assert "selects the segments generated, but the VLM has no states" in capsys.readouterr().out


def test_too_few_frames_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "examples_of", lambda scoring: gray_examples(4))
    space = {"why": "", "questions": ["imp ?"], "vlm_options": {"new_tokens": [2]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    with pytest.raises(UserError, match="4 frames of 4 episodes.* too few"):
        search(str(tmp_path / "space.yaml"), scoring_of({"task": "maze/walk"}), tmp_path / "out", 60)


@pytest.mark.parametrize(
    ("option", "value", "alternative"), [("frames", 100, "--budget"), ("prompts", ["where"], "--space")]
)
def test_options_that_the_search_chooses_raise(fake_score, tmp_path, option, value, alternative):
    scoring = scoring_of({"task": "maze/walk", option: value})
    with pytest.raises(UserError, match=f"{option}.*{alternative}"):
        search(str(tmp_path / "space.yaml"), scoring, tmp_path / "out", 1440)


def test_output_shows_brackets_and_colons_of_a_prompt_unchanged(fake_score, tmp_path, monkeypatch, capsys):
    """In progress lines, in lines of candidates that are left out, and in the table."""

    def score_one(variant, options, *arguments, **keywords):
        if options.new_tokens == 3:
            raise UserError("the template has [/INST]")
        return fake_score.score_one(variant, options, *arguments, **keywords)

    monkeypatch.setattr(program, "score_one", score_one)
    space = {"why": "", "questions": ["say [:duck:] [/INST]"], "vlm_options": {"new_tokens": [3, 5]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    run_search(tmp_path)
    output = capsys.readouterr().out
    assert "left out: the template has [/INST]" in output
    assert "rung 1, 2/2: 0.40  say [:duck:] [/INST]\n" in output
    assert 'say [:duck:] [/INST] {"new_tokens": 5}' in output


@pytest.mark.parametrize("name", [name for name in registry.names("configs") if name.startswith("search/")])
def test_included_space_has_valid_prompts_for_its_environment(name):
    """Checked with the contexts of all tasks that name a target."""
    tasks = registry.load("environments", name.partition("/")[2]).TASKS
    contexts = [context for task in tasks.values() for context in task.contexts if "target" in context]
    candidates = read_config(Space, name).prompts()
    assert len(candidates) > 5 and len(contexts) > 5
    for candidate in candidates:
        prompt.check(candidate, contexts)
        assert Defaults(**candidate.vlm_options) and isinstance(candidate, Prompt)

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.core import prompt, registry
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.prompt import Prompt

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20)


def where(text: str = "where is the {target} ?", slots: tuple[str, ...] = ("target",)) -> Prompt:
    return Prompt(name="a/b/where", text=text, slots=slots, why="a test", source="this file")


def test_render_fills_the_slots_and_ignores_the_rest_of_the_context() -> None:
    assert where().render({"target": "red armor", "room": "7"}) == "where is the red armor ?"


def test_an_empty_text_renders_as_such() -> None:
    assert where("", ()).render({"target": "clip"}) == ""


def test_a_missing_slot_names_what_the_context_gives() -> None:
    with pytest.raises(UserError, match=r"needs 'target'.*gives 'targets'.*Did you mean 'targets'\?"):
        where().render({"targets": "clip"})


def test_check_renders_every_context_in_order_and_refuses_one_that_lacks_a_slot() -> None:
    assert prompt.check(where("{target}"), [{"target": "a"}, {"target": "b"}]) == ["a", "b"]
    with pytest.raises(UserError, match="gives nothing"):
        prompt.check(where(), [{"target": "a"}, {}])


@given(st.lists(st.tuples(TEXT, WORDS), max_size=5), st.dictionaries(WORDS, TEXT))
def test_render_replaces_slots_and_nothing_else(parts: list[tuple[str, str]], extra: dict[str, str]) -> None:
    context = {**extra, **{slot: slot.upper() for _, slot in parts}}
    text = "".join(f"{before}{{{slot}}}" for before, slot in parts)
    rendered = where(text, tuple({slot for _, slot in parts})).render(context)
    assert rendered == "".join(before + slot.upper() for before, slot in parts)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("text: is there a {target}\nslots: []", r"uses the slots \['target'\], but `slots:` lists \[\]"),
        ("text: what is there\nslots: [target]", r"uses the slots \[\], but `slots:` lists \['target'\]"),
        ("text: what is there\nslot: []", "unknown key 'slot'. Did you mean 'slots'"),
        ("text: 'is {} there'", "plain name"),
        ("text: 'is {target.name} there'\nslots: [target]", "plain name"),
        ("text: 'is {target!r} there'\nslots: [target]", "plain name"),
        ("text: 'is { there'", "write {{ or }} for a brace"),
        ("slots: []", "the key 'text' is missing"),
        ("text: there\nsegments: [images]", "segments.0 = 'images': Input should be 'image'"),
        ("text: there\nvlm_option: {}", "unknown key 'vlm_option'. Did you mean 'vlm_options'"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(write_plugin, lines: str, message: str) -> None:
    write_plugin("prompts", "maze/walk/bad", f"why: a test\nsource: this file\n{lines}\n")
    with pytest.raises(UserError, match=message):
        prompt.load("maze/walk/bad")


def test_braces_can_be_written(write_plugin) -> None:
    text = "text: 'as {{json}}: {target}'\nslots: [target]\nwhy: a test\nsource: this file\n"
    write_plugin("prompts", "maze/walk/json", text)
    assert prompt.load("maze/walk/json").render({"target": "clip"}) == "as {json}: clip"


def test_a_prompt_may_advise_how_it_is_read_and_need_not(write_plugin) -> None:
    lines = "text: there\nwhy: a test\nsource: this file\n"
    write_plugin("prompts", "maze/walk/plain", lines)
    write_plugin("prompts", "maze/walk/advised", lines + "vlm_options: {new_tokens: 3}\nsegments: [generated]\n")
    plain, advised = prompt.load("maze/walk/plain"), prompt.load("maze/walk/advised")
    assert (plain.vlm_options, plain.segments) == ({}, ("image", "prompt", "generated"))
    assert (advised.vlm_options, advised.segments) == ({"new_tokens": 3}, ("generated",))


def test_a_file_is_a_prompt_too(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("text: there\nwhy: a test\nsource: this file\n")
    assert prompt.load(str(tmp_path / "mine.yaml")).text == "there"
    with pytest.raises(UnknownName):
        prompt.load(str(tmp_path / "other.yaml"))


def test_an_unknown_prompt_names_the_nearest(write_plugin) -> None:
    write_plugin("prompts", "maze/walk/where", "text: where\nwhy: a test\nsource: this file\n")
    with pytest.raises(UnknownName, match="Did you mean 'maze/walk/where'"):
        prompt.load("maze/walk/wher")


@pytest.mark.parametrize("name", registry.names("prompts"))
def test_every_prompt_of_the_project_loads_and_gives_its_reason(name: str) -> None:
    loaded = prompt.load(name)
    assert loaded.why and loaded.source
    assert loaded.render({slot: "thing" for slot in loaded.slots}).count("thing") >= len(loaded.slots)

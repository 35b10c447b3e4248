"""Prompts: slots, conversations, and prompt files."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.core import prompt, registry
from pr2l.core.config import load_config
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.messages import from_text
from pr2l.core.prompt import Prompt

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20)


def where_prompt(text: str = "where is the {target} ?", slots: tuple[str, ...] = ("target",)) -> Prompt:
    return Prompt(name="a/b/where", text=text, slots=slots, why="a test", source="this file")


def test_render_fills_slots_and_ignores_other_keys() -> None:
    assert where_prompt().render({"target": "red armor", "room": "7"}) == "where is the red armor ?"


def test_render_of_an_empty_text() -> None:
    assert where_prompt("", ()).render({"target": "clip"}) == ""


def test_missing_slot_gives_the_keys_of_the_context() -> None:
    with pytest.raises(UserError, match=r"slot 'target'.*has 'targets'.*Did you mean 'targets'\?"):
        where_prompt().render({"targets": "clip"})


def test_check_renders_all_contexts_and_refuses_a_missing_slot() -> None:
    assert prompt.check(where_prompt("{target}"), [{"target": "a"}, {"target": "b"}]) == ["a", "b"]
    with pytest.raises(UserError, match="has no keys"):
        prompt.check(where_prompt(), [{"target": "a"}, {}])


@given(st.lists(st.tuples(TEXT, WORDS), max_size=5), st.dictionaries(WORDS, TEXT))
def test_render_replaces_slots_only(parts: list[tuple[str, str]], extra: dict[str, str]) -> None:
    context = {**extra, **{slot: slot.upper() for _, slot in parts}}
    text = "".join(f"{before}{{{slot}}}" for before, slot in parts)
    rendered = where_prompt(text, tuple({slot for _, slot in parts})).render(context)
    assert rendered == "".join(before + slot.upper() for before, slot in parts)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("text: is there a {target}\nslots: []", r"has the slots \['target'\], but `slots:` lists \[\]"),
        ("text: what is there\nslots: [target]", r"has the slots \[\], but `slots:` lists \['target'\]"),
        ("text: what is there\nslot: []", "unknown key 'slot'. Did you mean 'slots'"),
        ("text: 'is {} there'", "plain name"),
        ("text: 'is {target.name} there'\nslots: [target]", "plain name"),
        ("text: 'is {target!r} there'\nslots: [target]", "plain name"),
        ("text: 'is { there'", "write {{ or }} for a brace"),
        ("slots: []", "either the key 'text' or the key 'messages'"),
        ("text: there\nmessages: [{role: user, content: there}]", "either the key 'text' or the key 'messages'"),
        ("messages: [{role: usr, content: there}]", r"bad.yaml: messages\[0\]: unknown role 'usr'"),
        ("messages: []", "bad.yaml: messages: expected a list of at least one message"),
        ("messages: [{role: user, content: 'is {target} there'}]", r"has the slots \['target'\], but `slots:` lists"),
        ("messages: [{role: user, content: [{type: image, frames: 0}]}]", "at least 1, got 0"),
        ("text: is there a {target}\nslots: [target]\nkeep_end: [history]", "keep_end lists 'history'"),
        ("text: there\nsegments: [images]", "segments.0 = 'images': Input should be 'image'"),
        ("text: there\nvlm_option: {}", "unknown key 'vlm_option'. Did you mean 'vlm_options'"),
    ],
)
def test_invalid_prompt_files_are_refused(write_plugin, lines: str, message: str) -> None:
    write_plugin("prompts", "maze/walk/bad", f"why: a test\nsource: this file\n{lines}\n")
    with pytest.raises(UserError, match=message):
        prompt.load("maze/walk/bad")


def test_double_braces_are_literal(write_plugin) -> None:
    text = "text: 'as {{json}}: {target}'\nslots: [target]\nwhy: a test\nsource: this file\n"
    write_plugin("prompts", "maze/walk/json", text)
    assert prompt.load("maze/walk/json").render({"target": "clip"}) == "as {json}: clip"


def test_recommended_options_of_a_prompt_are_optional(write_plugin) -> None:
    lines = "text: there\nwhy: a test\nsource: this file\n"
    write_plugin("prompts", "maze/walk/plain", lines)
    write_plugin("prompts", "maze/walk/recommended", lines + "vlm_options: {new_tokens: 3}\nsegments: [generated]\n")
    plain, recommended = prompt.load("maze/walk/plain"), prompt.load("maze/walk/recommended")
    assert (plain.vlm_options, plain.segments) == ({}, ("image", "prompt", "generated"))
    assert (recommended.vlm_options, recommended.segments) == ({"new_tokens": 3}, ("generated",))


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_prompt_may_be_a_path(suffix: str, tmp_path, monkeypatch) -> None:
    file = tmp_path / f"mine{suffix}"
    file.write_text("text: there\nwhy: a test\nsource: this file\n")
    monkeypatch.chdir(tmp_path)
    for name in (str(file), f"mine{suffix}", f"./mine{suffix}"):
        assert prompt.load(name).text == "there"
        config = load_config("doom/fetch/image_only", [f"prompt={name}"])
        assert config.prompt == config.prompt_name == str(file)  # absolute, so that a run resumes from any folder
    assert prompt.find("prompts/doom/fetch/where.yaml") == prompt.find("doom/fetch/where")


def test_missing_prompt_file_is_named(tmp_path) -> None:
    with pytest.raises(UnknownName, match=r"no file .*other.yaml'"):
        prompt.load(str(tmp_path / "other.yaml"))
    with pytest.raises(UnknownName, match=r"no file 'other.yaml'"):
        load_config("doom/fetch/image_only", ["prompt=other.yaml"])


CONVERSATION = """
messages:
  - {role: system, content: answer in one word}
  - role: user
    content:
      - {type: image, frames: 2}
      - {type: text, text: "do {instruction} , so far {history}"}
  - {role: assistant, content: "{history}"}
  - {role: user, content: [{type: image}]}
slots: [instruction, history]
keep_end: [history]
why: a test
source: this file
"""


def test_conversations_have_slots_and_frames(write_plugin) -> None:
    write_plugin("prompts", "maze/walk/chat", CONVERSATION)
    loaded = prompt.load("maze/walk/chat")
    assert (loaded.images, loaded.text) == (3, "")
    image, history = {"type": "image"}, "{left} } {0"  # braces in a value are literal
    expected = [
        {"role": "system", "content": [{"type": "text", "text": "answer in one word"}]},
        {"role": "user", "content": [image, image, {"type": "text", "text": f"do it , so far {history}"}]},
        {"role": "assistant", "content": [{"type": "text", "text": history}]},
        {"role": "user", "content": [image]},
    ]
    assert loaded.render_messages({"instruction": "it", "history": history}) == expected
    with pytest.raises(UserError, match="slot 'history'"):
        loaded.render_messages({"instruction": "it"})
    with pytest.raises(UserError, match="is a conversation"):
        loaded.render({"instruction": "it", "history": "left"})


def test_prompt_with_a_video_takes_its_frames(write_plugin) -> None:
    parts = "[{type: image}, {type: video, frames: 4, fps: 5}, {type: text, text: where}]"
    head = f"messages: [{{role: user, content: {parts}}}]"
    write_plugin("prompts", "maze/walk/video", f"{head}\nwhy: a test\nsource: this file\n")
    loaded = prompt.load("maze/walk/video")
    assert loaded.images == 5 and loaded.texts == ["where"]
    [message] = loaded.render_messages({})
    assert message["content"][:2] == [{"type": "image"}, {"type": "video", "frames": 4, "fps": 5.0}]
    assert loaded.template == [message]  # a part of the key of stored embeddings


def test_render_messages_of_a_text_gives_one_message() -> None:
    assert where_prompt().render_messages({"target": "clip"}) == from_text("where is the clip ?")
    assert where_prompt().images == 1


@given(st.text(max_size=20))
def test_slot_values_are_literal(value: str) -> None:
    assert where_prompt("a {target} b").render({"target": value}) == f"a {value} b"


def test_unknown_prompt_gives_the_most_similar_name(write_plugin) -> None:
    write_plugin("prompts", "maze/walk/where", "text: where\nwhy: a test\nsource: this file\n")
    with pytest.raises(UnknownName, match="Did you mean 'maze/walk/where'"):
        prompt.load("maze/walk/wher")


@pytest.mark.parametrize("name", registry.names("prompts"))
def test_prompts_of_the_project_are_valid(name: str) -> None:
    loaded = prompt.load(name)
    assert loaded.why and loaded.source
    assert loaded.render({slot: "thing" for slot in loaded.slots}).count("thing") >= len(loaded.slots)

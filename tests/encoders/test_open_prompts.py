"""Open contexts: free text in slots, the limit max_prompt_tokens, and truncation of prompts.

In FakeVLM every word is a token, so lengths can be counted by hand.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vlms import CASE, CASES, all_cases, folder, vlm
from test_encoders import IMAGE, NEW, FakeSource, frames

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt, load
from pr2l.encoders import answer_action, image_only, prompted
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.encoders.common.pca import PCA
from pr2l.encoders.common.prompts import PromptRenderer, cut
from pr2l.vlms.base import Defaults

DO = Prompt(name="test", text="do {instruction} after {history}", slots=("instruction", "history"),
            keep_end=("history",), why="", source="")  # fmt: skip
MAX_TOKENS = 6  # "do", "after" and four words of the values
VLM_OPTIONS = Defaults(new_tokens=NEW)

FREE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SPECIALS = st.sampled_from(["<image>", "</s>", "<IMAGE>", "{history}", "{", "}}", "a b", "\n"])
VALUES = st.lists(FREE | SPECIALS, max_size=3).map("".join)
OPEN = st.lists(st.fixed_dictionaries({"instruction": VALUES, "history": VALUES}), min_size=1, max_size=3)


def source(prompt=DO, contexts=None):
    return FakeSource("known", VLM_OPTIONS, prompt, contexts, (4, 8, 3), ())


def source_of(model, prompt):
    """Return a source with open contexts and a loaded VLM."""

    @dataclasses.dataclass(frozen=True)
    class Loaded(EncoderSource):
        def load_vlm(self):
            return model

    return Loaded("loaded", model.options, prompt, None, (4, 4, 3), ())


def create(max_tokens=MAX_TOKENS, prompt=DO):
    return prompted.create(source(prompt), prompted.Defaults(max_prompt_tokens=max_tokens))


@pytest.mark.filterwarnings("ignore:a prompt of")
@settings(deadline=None)
@given(OPEN)
def test_any_text_gives_a_fixed_number_of_tokens_and_right_metrics(contexts):
    encoder = create()
    tokens = encoder.encode(frames(len(contexts)), contexts)
    assert encoder.tokens == tokens.values.shape[1] == IMAGE + MAX_TOKENS + NEW
    texts = [answer.removeprefix("say ") for answer in encoder.answers()]
    words = [len(text.split()) for text in texts]
    assert tokens.mask[:, IMAGE : IMAGE + MAX_TOKENS].sum(dim=1).tolist() == words and max(words) <= MAX_TOKENS
    assert tokens.mask[:, :IMAGE].all() and tokens.mask[:, IMAGE + MAX_TOKENS :].all()
    lengths = [2 + len(context["instruction"].split()) + len(context["history"].split()) for context in contexts]
    specials = any(token in str(context).lower() for context in contexts for token in ("<image>", "</s>"))
    if not specials:  # a special token becomes two words
        assert encoder.metrics() == {
            "prompt/truncated": np.mean([length > MAX_TOKENS for length in lengths]),
            "prompt/longest": max(lengths),
        }
        for text, context, length in zip(texts, contexts, lengths, strict=True):
            assert length > MAX_TOKENS or text == DO.render(context)
    assert not any(token in text.lower() for text in texts for token in ("<image>", "</s>"))


def test_longest_values_are_truncated_at_their_end_or_beginning():
    encoder = create()
    context = {"instruction": "a1 b1 c1 d1", "history": "w1 x1 y1 z1"}
    with pytest.warns(UserWarning, match="10 tokens.*max_prompt_tokens=6"):
        encoder.encode(frames(1), [context])
    assert encoder.answers() == ["say do a1 b1 after y1 z1"]
    encoder.encode(frames(1), [context | {"instruction": "a1"}])
    assert encoder.answers() == ["say do a1 after x1 y1 z1"]


def test_metrics_since_clear_cache_pass_through_a_cached_encoder():
    encoder = CachedEncoder(create(), capacity=4)
    long, short = ({"instruction": "a1 " * words, "history": ""} for words in (9, 1))
    assert encoder.metrics() == {}
    with pytest.warns(UserWarning, match="was truncated"):
        encoder.encode(frames(2), [long, short])
    assert encoder.metrics() == {"prompt/truncated": 1 / 2, "prompt/longest": 11, "cache/hit_rate": 0}
    encoder.clear_cache()
    assert encoder.metrics() == {}


def test_max_prompt_tokens_below_the_length_of_the_text_is_refused():
    with pytest.raises(UserError, match="max_prompt_tokens=1.*'test'.* 2 tokens"):
        create(max_tokens=1)
    assert create(max_tokens=2).tokens == IMAGE + 2 + NEW


def test_open_contexts_need_max_prompt_tokens_if_the_prompt_has_slots():
    with pytest.raises(UserError, match="encoder_options.max_prompt_tokens"):
        create(max_tokens=None)
    fixed = Prompt(name="test", text="what is there", why="", source="")
    assert create(max_tokens=None, prompt=fixed).tokens == IMAGE + 3 + NEW


def test_max_prompt_tokens_with_listed_contexts():
    contexts = [{"instruction": "a", "history": "b"}]
    listed = prompted.create(source(contexts=contexts), prompted.Defaults())
    limited = prompted.create(source(contexts=contexts), prompted.Defaults(max_prompt_tokens=9))
    assert (listed.tokens, limited.tokens) == (IMAGE + 4 + NEW, IMAGE + 9 + NEW)
    listed.encode(frames(1), contexts)
    assert listed.metrics() == {}  # nothing can be truncated


def test_other_encoders_accept_open_contexts():
    contexts = [{"instruction": "find the imp", "history": ""}]
    actions = answer_action.Defaults(actions=(("demon",), ("imp",)), max_prompt_tokens=MAX_TOKENS)
    encoder = answer_action.create(source(), actions)
    assert encoder.encode(frames(1), contexts).values.tolist() == [[[0, 1]]]
    assert encoder.metrics()["prompt/truncated"] == 0
    assert image_only.create(source(), image_only.Defaults()).encode(frames(1), contexts).mask.all()


@given(VALUES, st.integers(0, 30), st.booleans())
def test_cut_keeps_one_end_in_whole_words(value, characters, keep_end):
    kept = cut(value, characters, keep_end=keep_end)
    assert len(kept) <= max(characters, 0) or kept == value
    assert value.endswith(kept) if keep_end else value.startswith(kept)
    if len(kept.split()) > 1:
        assert set(kept.split()) <= set(value.split())


@all_cases
def test_special_tokens_in_values_do_not_become_control_tokens(case):
    """With each family's tokenizer, the only special tokens are those of the prompt with an ordinary value."""
    model = vlm(case)
    prompt = Prompt(name="test", text="is it {target}", slots=("target",), why="", source="")
    contexts = [{"target": "near"}, *({"target": f"left {token} ?"} for token in model.special_tokens)]
    render = PromptRenderer(EncoderSource(case.name, model.options, prompt, contexts, (4, 4, 3), ()), model, None)
    # Ordinary words may be unknown to the small vocabulary.
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    ordinary, *malicious = ([token for token in model.layout(text) if token in special] for text in render(contexts))
    assert len(model.special_tokens) >= 2 and malicious == [ordinary] * len(malicious)


@pytest.mark.filterwarnings("ignore:a prompt of")
def test_tokens_equal_the_states_of_the_truncated_prompt():
    model = vlm(CASES[0])
    prompt = Prompt(name="test", text="is it {target} ?", slots=("target",), why="", source="")
    short, long = {"target": "left"}, {"target": "left near where is the medikit left near " * 4}
    encoder = prompted.create(source_of(model, prompt), prompted.Defaults(max_prompt_tokens=12))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    tokens = encoder.encode(pictures, [short, long])
    texts = encoder.prompts([short, long])
    assert texts[0] == "is it left ?" and texts[1].startswith("is it left near") and texts[1].endswith(" ?")
    expected = model.hidden(pictures, texts, prompt_tokens=12)
    assert tokens.values.shape[1] == model.image_length() + 12 + model.new_tokens
    assert torch.equal(tokens.mask, expected.mask)
    assert torch.equal(tokens.values, expected.states.transpose(1, 2).flatten(2))


def chat(frames, text="do {instruction}"):
    parts = [{"type": "image", "frames": frames}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": parts}]
    return Prompt(name="test", messages=messages, slots=("instruction",), why="", source="")


CHAT_CASES = [CASE[name] for name in ("llava", "smolvlm", "qwen2_5_vl")]


@pytest.mark.parametrize("case", CHAT_CASES, ids=lambda case: case.name)
def test_conversations_with_two_frames_equal_the_states_of_the_vlm(case):
    model = vlm(case)
    encoder = prompted.create(source_of(model, chat(frames=2)), prompted.Defaults(max_prompt_tokens=60))
    assert encoder.frame_history == CachedEncoder(encoder, 3).frame_history == 2
    pictures = np.random.default_rng(0).integers(0, 256, (2, 2, 24, 24, 3), dtype=np.uint8)
    contexts = [{"instruction": "left"}, {"instruction": "near " * 90}]
    with pytest.warns(UserWarning, match="truncated to max_prompt_tokens=60"):
        tokens = encoder.encode(pictures, contexts)
    assert encoder.metrics()["prompt/truncated"] == 1 / 2
    assert tokens.values.shape[1] == encoder.tokens == 2 * model.image_length() + 60 + model.new_tokens
    expected = model.hidden([list(row) for row in pictures], encoder.prompts(contexts), prompt_tokens=60)
    assert torch.equal(tokens.mask, expected.mask)
    assert torch.equal(tokens.values, expected.states.transpose(1, 2).flatten(2))
    reversed_frames = encoder.encode(pictures[:, ::-1].copy(), contexts)
    assert not torch.allclose(reversed_frames.values, tokens.values)


def test_frames_of_a_conversation_are_pooled_separately():
    model = vlm(CASE["llava"])
    pictures = np.random.default_rng(0).integers(0, 256, (1, 2, 24, 24, 3), dtype=np.uint8)
    options = {"max_prompt_tokens": 60, "segments": ("image",)}
    full, pooled = (
        prompted.create(source_of(model, chat(frames=2)), prompted.Defaults(**options, image_tokens=count))
        for count in (None, 1)
    )
    tokens = full.encode(pictures, [{"instruction": "left"}]).values.unflatten(1, (2, -1)).mean(dim=2)
    assert torch.allclose(pooled.encode(pictures, [{"instruction": "left"}]).values, tokens, atol=1e-5)
    assert pooled.tokens == 2


def clip(frames, fps=2.0):
    parts = [{"type": "video", "frames": frames, "fps": fps}, {"type": "text", "text": "do {instruction}"}]
    messages = [{"role": "user", "content": parts}]
    return Prompt(name="test", messages=messages, slots=("instruction",), why="", source="")


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_video_of_the_last_frames_equals_the_states_of_the_vlm(name):
    model = vlm(CASE[name])
    encoder = prompted.create(source_of(model, clip(frames=3)), prompted.Defaults(max_prompt_tokens=90))
    assert encoder.frame_history == 3
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 24, 3), dtype=np.uint8)
    contexts = [{"instruction": "left"}, {"instruction": "near"}]
    tokens = encoder.encode(pictures, contexts)
    length = sum(encoder.prompts.grids)
    assert length == {"llava_onevision": 3 * 4 + 1}.get(name, 2 * 16)
    assert tokens.values.shape[1] == encoder.tokens == length + 90 + model.new_tokens
    expected = model.hidden([list(row) for row in pictures], encoder.prompts(contexts), prompt_tokens=90)
    assert torch.equal(tokens.values, expected.states.transpose(1, 2).flatten(2))
    images = prompted.create(source_of(model, chat(frames=3)), prompted.Defaults(max_prompt_tokens=90))
    assert (
        images.key()
        != encoder.key()
        != prompted.create(source_of(model, clip(frames=3, fps=1.0)), prompted.Defaults(max_prompt_tokens=90)).key()
    )


@pytest.mark.parametrize(("name", "grids"), [("llava_onevision", [4, 4, 4, 4, 1]), ("qwen2_5_vl", [16, 16])])
def test_grids_of_a_video_are_pooled_separately(name, grids):
    """LLaVA-OneVision's single token after the frames stays."""
    model = vlm(CASE[name])
    pictures = np.random.default_rng(0).integers(0, 256, (1, 4, 24, 24, 3), dtype=np.uint8)
    options = {"max_prompt_tokens": 60, "segments": ("image",)}
    full, pooled = (
        prompted.create(source_of(model, clip(frames=4)), prompted.Defaults(**options, image_tokens=count))
        for count in (None, 1)
    )
    tokens = full.encode(pictures, [{"instruction": "left"}]).values
    means = torch.stack([grid.mean(dim=1) for grid in tokens.split(grids, dim=1)], dim=1)
    assert torch.allclose(pooled.encode(pictures, [{"instruction": "left"}]).values, means, atol=1e-5)
    assert pooled.tokens == len(grids)


def test_video_is_refused_by_a_family_that_takes_none():
    with pytest.raises(UserError, match="a smolvlm takes no videos. Use llava_onevision"):
        prompted.create(source_of(vlm(CASE["smolvlm"]), clip(frames=4)), prompted.Defaults(max_prompt_tokens=60))


def test_wrong_number_of_frames_is_refused():
    model = vlm(CASE["llava"])
    encoder = prompted.create(source_of(model, chat(frames=3)), prompted.Defaults(max_prompt_tokens=60))
    for shape in ((1, 8, 8, 3), (1, 2, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"prompt 'test' needs \['B', 3, 'H', 'W', 3\]"):
            encoder.encode(np.zeros(shape, np.uint8), [{"instruction": "left"}])
    with pytest.raises(ValueError, match=r"needs \['B', 'H', 'W', 3\]"):
        create().encode(np.zeros((1, 2, 4, 8, 3), np.uint8), [{"instruction": "", "history": ""}])


def test_pca_has_one_projection_for_all_frames_of_a_prompt():
    model = vlm(CASE["llava"])
    pictures = np.random.default_rng(0).integers(0, 256, (9, 2, 24, 24, 3), dtype=np.uint8)
    contexts = [{"instruction": "left"}] * 9
    plain, encoder = (
        prompted.create(source_of(model, chat(frames=2)), prompted.Defaults(max_prompt_tokens=60, pca=components))
        for components in (None, 4)
    )
    encoder.fit(pictures, contexts)
    states, mask = plain.states(pictures, contexts)
    pca = PCA(components=4, layers=len(model.options.layers), width=model.hidden_size)
    pca.update(states, mask)
    pca.finish()
    torch.testing.assert_close(encoder.pca.basis, pca.basis)
    tokens = encoder.encode(pictures, contexts)
    assert tokens.values.shape[1] == 2 * model.image_length() + 60 + model.new_tokens
    torch.testing.assert_close(tokens.values, encoder.pca.transform(states).transpose(1, 2).flatten(2))


def test_conversations_are_refused_by_families_with_one_image():
    model = vlm(CASE["florence2"])
    with pytest.raises(UserError, match="one image and then one text"):
        prompted.create(source_of(model, chat(frames=2)), prompted.Defaults(max_prompt_tokens=60))


def test_native_aspect_uses_the_frame_shape_of_the_environment():
    case = CASE["qwen2_5_vl"]
    options = Defaults(aspect="native", generation="none")
    native = EncoderSource(str(folder(case)), options, chat(frames=1), None, (60, 30, 3), ())
    assert native.load_vlm().options.frame_size == (60, 30)
    encoder = prompted.create(native, prompted.Defaults(max_prompt_tokens=60))
    frame = np.zeros((1, 60, 30, 3), np.uint8)
    assert encoder.encode(frame, [{"instruction": "left"}]).values.shape[1] == encoder.tokens
    with pytest.raises(UserError, match="image_tokens=1 needs a square grid.*aspect=letterbox"):
        prompted.create(native, prompted.Defaults(max_prompt_tokens=60, image_tokens=1))


OPEN_WORLD = """
from toy_world import *
from toy_world import Colours as Closed, Defaults

class Task:
    id, prompt, horizon = "colours", None, 7
    reward = success = "every action is the one that the colour stands for"

TASKS = {"colours": Task()}

class Colours(Closed):
    def _info(self):
        self.history = getattr(self, "history", "") + " colour " + str(self.time)
        return super()._info() | {"context": {"instruction": "do as the colour says", "history": self.history}}

def make(task, options=None, *, split="train", labels=False):
    return Colours(options or Defaults(), split, labels)
"""


def test_training_with_open_contexts_logs_truncated_prompts(write_plugin, tmp_path):
    from pr2l.core.config import load_config
    from pr2l.training.check import check
    from pr2l.training.train import train

    write_plugin("environments", "open_world", OPEN_WORLD)
    (tmp_path / "do.yaml").write_text(
        "text: do {instruction} . so far {history}\nslots: [instruction, history]\nkeep_end: [history]\n"
        "why: a test\nsource: this file\n"
    )
    (tmp_path / "run.yaml").write_text(
        "why: a test\nenvironment: open_world\ntask: colours\nencoder: prompted\nnetwork: token_transformer\n"
        "steps: 32\nnum_envs: 2\nevaluation_episodes: 2\nencoder_options: {segments: [prompt], max_prompt_tokens: 20}\n"
        "vlm_options: {image_size: 32, generation: none}\n"
        f"algorithm_options: {{n_steps: 16, batch_size: 16, n_epochs: 1}}\nprompt: {tmp_path / 'do.yaml'}\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert check(config)
    with pytest.warns(UserWarning, match="was truncated to max_prompt_tokens=20"):
        run = train(config, root=tmp_path)
    header, row = (line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[:2])
    values = dict(zip(header, row, strict=True))
    assert 0 < float(values["prompt/truncated"]) < 1 and float(values["prompt/longest"]) > 20
    assert registry.load("environments", "open_world").TASKS


@pytest.mark.parametrize("pca", ["null", "4"])
def test_training_with_conversations_of_two_frames(write_plugin, tmp_path, pca):
    from pathlib import Path

    from pr2l.core.config import load_config
    from pr2l.training.check import check
    from pr2l.training.train import train

    llava = CASE["llava"]
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text())
    (tmp_path / "chat.yaml").write_text(
        "messages: [{role: user, content: [{type: image, frames: 2}, {type: text, text: 'is it {target} ?'}]}]\n"
        "slots: [target]\nwhy: a test\nsource: this file\n"
    )
    (tmp_path / "run.yaml").write_text(
        f"why: a test\nenvironment: toy\ntask: colours\nvlm: {folder(llava)}\nencoder: prompted\n"
        "network: mlp\nnetwork_options: {hidden: [16]}\nsteps: 32\nnum_envs: 2\nevaluation_episodes: 2\n"
        f"encoder_options: {{image_tokens: 1, pca: {pca}, pca_frames: 20}}\nvlm_options: {{generation: none}}\n"
        f"prompt: {tmp_path / 'chat.yaml'}\n"
        "algorithm_options: {n_steps: 16, batch_size: 16, n_epochs: 1}\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert check(config)
    run = train(config, root=tmp_path)
    assert (run / "results.json").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


def two_cameras(*parts):
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "do {instruction}"}]}]
    slots = ("instruction",)
    return Prompt(name="test", messages=messages, cameras=("front", "wrist"), slots=slots, why="", source="")


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl"])
def test_cameras_side_by_side_become_several_images(name):
    model = vlm(CASE[name])
    parts = [{"type": "image", "camera": "wrist"}, {"type": "image", "camera": "front", "frames": 2}]
    source = source_of(model, two_cameras(*parts))
    encoder = prompted.create(
        dataclasses.replace(source, frame_shape=(24, 48, 3)), prompted.Defaults(max_prompt_tokens=90)
    )
    assert encoder.frame_history == 2 and encoder.prompts.grids == [model.image_length()] * 3
    front, wrist = np.random.default_rng(0).integers(0, 256, (2, 1, 2, 24, 24, 3), dtype=np.uint8)
    contexts = [{"instruction": "left"}]
    tokens = encoder.encode(np.concatenate([front, wrist], axis=3), contexts)
    images = [wrist[0, 1], front[0, 0], front[0, 1]]
    expected = model.hidden([images], encoder.prompts(contexts), prompt_tokens=90)
    assert torch.equal(tokens.values, expected.states.transpose(1, 2).flatten(2))


def test_native_aspect_uses_the_shape_of_a_camera():
    options = Defaults(aspect="native", generation="none")
    case, prompt = CASE["qwen2_5_vl"], two_cameras({"type": "image", "camera": "wrist"})
    native = EncoderSource(str(folder(case)), options, prompt, None, (60, 60, 3), ())
    assert native.load_vlm().options.frame_size == (60, 30)
    encoder = prompted.create(native, prompted.Defaults(max_prompt_tokens=60))
    frame = np.zeros((1, 60, 60, 3), np.uint8)
    assert encoder.encode(frame, [{"instruction": "left"}]).values.shape[1] == encoder.tokens


def test_frames_that_cannot_be_split_are_refused_before_the_first_step():
    odd = dataclasses.replace(source_of(vlm(CASE["smolvlm"]), two_cameras({"type": "image", "camera": "front"})),
                              frame_shape=(24, 25, 3))  # fmt: skip
    with pytest.raises(UserError, match="25 pixels wide, not a multiple of 2"):
        prompted.create(odd, prompted.Defaults(max_prompt_tokens=60))


def test_video_prompt_of_the_documentation(tmp_path):
    """The example of docs/encoders.md has 2 x 16 video tokens, and depends on the order of the frames."""
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    [block] = [block for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "type: video" in block]
    (tmp_path / "video.yaml").write_text(block, encoding="utf-8")
    example = load(str(tmp_path / "video.yaml"))
    encoder = prompted.create(source_of(vlm(CASE["qwen2_5_vl"]), example), prompted.Defaults(max_prompt_tokens=90))
    assert (encoder.frame_history, encoder.prompts.grids) == (4, [16, 16])
    pictures = np.random.default_rng(0).integers(0, 256, (1, 4, 24, 24, 3), dtype=np.uint8)
    forth, back = (encoder.encode(frames, [{"target": "imp"}]).values for frames in (pictures, pictures[:, ::-1]))
    assert not torch.allclose(forth, back)

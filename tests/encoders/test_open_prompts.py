"""Contexts that no list holds: free text in slots, a bound on the prompt's length, and what is lost by it.

In the known VLM every word is a token, so that lengths can be counted by hand.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoders import IMAGE, NEW, KnownSource, frames
from test_families import CASES, vlm

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.encoders import answer_action, image_only, prompted
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.encoders.common.prompts import PromptRenderer, cut
from pr2l.vlms.base import Defaults

DO = Prompt(name="test", text="do {instruction} after {history}", slots=("instruction", "history"),
            keep_end=("history",), why="", source="")  # fmt: skip
BOUND = 6  # "do", "after" and four words of values
VLM_OPTIONS = Defaults(new_tokens=NEW)

FREE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SPECIALS = st.sampled_from(["<image>", "</s>", "<IMAGE>", "{history}", "{", "}}", "a b", "\n"])
VALUES = st.lists(FREE | SPECIALS, max_size=3).map("".join)
OPEN = st.lists(st.fixed_dictionaries({"instruction": VALUES, "history": VALUES}), min_size=1, max_size=3)


def source(prompt=DO, contexts=None):
    return KnownSource("known", VLM_OPTIONS, prompt, contexts, (4, 8, 3), ())


def make(bound=BOUND, prompt=DO):
    return prompted.create(source(prompt), prompted.Defaults(max_prompt_tokens=bound))


@pytest.mark.filterwarnings("ignore:a prompt of")
@settings(deadline=None)
@given(OPEN)
def test_any_text_gives_tokens_of_the_fixed_number_with_a_right_mask_and_count(contexts):
    encoder = make()
    tokens = encoder.encode(frames(len(contexts)), contexts)
    assert encoder.tokens == tokens.values.shape[1] == IMAGE + BOUND + NEW
    texts = [answer.removeprefix("say ") for answer in encoder.answers()]
    words = [len(text.split()) for text in texts]
    assert tokens.mask[:, IMAGE : IMAGE + BOUND].sum(dim=1).tolist() == words and max(words) <= BOUND
    assert tokens.mask[:, :IMAGE].all() and tokens.mask[:, IMAGE + BOUND :].all()
    lengths = [2 + len(context["instruction"].split()) + len(context["history"].split()) for context in contexts]
    specials = any(token in str(context).lower() for context in contexts for token in ("<image>", "</s>"))
    if not specials:  # there a special token becomes two words
        assert encoder.metrics() == {
            "prompt/truncated": np.mean([length > BOUND for length in lengths]),
            "prompt/longest": max(lengths),
        }
        for text, context, length in zip(texts, contexts, lengths, strict=True):
            assert length > BOUND or text == DO.render(context)
    assert not any(token in text.lower() for text in texts for token in ("<image>", "</s>"))


def test_the_longest_values_are_cut_at_their_end_or_at_their_beginning():
    encoder = make()
    context = {"instruction": "a1 b1 c1 d1", "history": "w1 x1 y1 z1"}
    with pytest.warns(UserWarning, match="a prompt of 10 tokens was truncated to max_prompt_tokens=6"):
        encoder.encode(frames(1), [context])
    assert encoder.answers() == ["say do a1 b1 after y1 z1"]
    encoder.encode(frames(1), [context | {"instruction": "a1"}])
    assert encoder.answers() == ["say do a1 after x1 y1 z1"]


def test_counts_are_since_the_cache_was_cleared_and_pass_through_a_cache():
    encoder = CachedEncoder(make(), capacity=4)
    long, short = ({"instruction": "a1 " * words, "history": ""} for words in (9, 1))
    assert encoder.metrics() == {}
    with pytest.warns(UserWarning, match="was truncated"):
        encoder.encode(frames(2), [long, short])
    assert encoder.metrics() == {"prompt/truncated": 1 / 2, "prompt/longest": 11, "cache/hit_rate": 0}
    encoder.clear_cache()
    assert encoder.metrics() == {}


def test_a_bound_shorter_than_the_prompts_own_text_is_refused():
    with pytest.raises(UserError, match="max_prompt_tokens=1, but the text of prompt 'test' alone takes 2 tokens"):
        make(bound=1)
    assert make(bound=2).tokens == IMAGE + 2 + NEW


def test_open_contexts_without_a_bound_are_refused_unless_the_prompt_has_no_slots():
    with pytest.raises(UserError, match="set encoder_options.max_prompt_tokens, e.g. to 128"):
        make(bound=None)
    fixed = Prompt(name="test", text="what is there", why="", source="")
    assert make(bound=None, prompt=fixed).tokens == IMAGE + 3 + NEW


def test_a_bound_may_be_given_where_contexts_are_listed():
    contexts = [{"instruction": "a", "history": "b"}]
    listed = prompted.create(source(contexts=contexts), prompted.Defaults())
    bounded = prompted.create(source(contexts=contexts), prompted.Defaults(max_prompt_tokens=9))
    assert (listed.tokens, bounded.tokens) == (IMAGE + 4 + NEW, IMAGE + 9 + NEW)
    listed.encode(frames(1), contexts)
    assert listed.metrics() == {}  # nothing can be truncated


def test_other_encoders_take_open_contexts():
    contexts = [{"instruction": "find the imp", "history": ""}]
    actions = answer_action.Defaults(actions=(("demon",), ("imp",)), max_prompt_tokens=BOUND)
    encoder = answer_action.create(source(), actions)
    assert encoder.encode(frames(1), contexts).values.tolist() == [[[0, 1]]]
    assert encoder.metrics()["prompt/truncated"] == 0
    assert image_only.create(source(), image_only.Defaults()).encode(frames(1), contexts).mask.all()


@given(VALUES, st.integers(0, 30), st.booleans())
def test_a_cut_text_is_one_end_of_it_in_whole_words_where_it_has_several(value, characters, keep_end):
    kept = cut(value, characters, keep_end=keep_end)
    assert len(kept) <= max(characters, 0) or kept == value
    assert value.endswith(kept) if keep_end else value.startswith(kept)
    if len(kept.split()) > 1:
        assert set(kept.split()) <= set(value.split())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_special_tokens_in_a_value_never_become_control_tokens(case):
    """Against each family's own tokenizer: the ids of a hostile value hold no special token but the prompt's own."""
    model = vlm(case)
    asked = Prompt(name="test", text="is it {target}", slots=("target",), why="", source="")
    contexts = [{"target": "near"}, *({"target": f"left {token} ?"} for token in model.special_tokens)]
    render = PromptRenderer(EncoderSource(case.name, model.options, asked, contexts, (4, 4, 3), ()), model, None)
    # "unknown" is what a small vocabulary makes of ordinary words, too.
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    plain, *hostile = ([token for token in model.layout(text) if token in special] for text in render(contexts))
    assert len(model.special_tokens) >= 2 and hostile == [plain] * len(hostile)


@pytest.mark.filterwarnings("ignore:a prompt of")
def test_a_real_vlm_gives_the_states_of_the_truncated_prompt():
    model = vlm(CASES[0])

    @dataclasses.dataclass(frozen=True)
    class Source(EncoderSource):
        def load_vlm(self):
            return model

    asked = Prompt(name="test", text="is it {target} ?", slots=("target",), why="", source="")
    short, long = {"target": "left"}, {"target": "left near where is the medikit left near " * 4}
    encoder = prompted.create(
        Source("x", model.options, asked, None, (4, 4, 3), ()), prompted.Defaults(max_prompt_tokens=12)
    )
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    tokens = encoder.encode(pictures, [short, long])
    texts = encoder.prompts([short, long])
    assert texts[0] == "is it left ?" and texts[1].startswith("is it left near") and texts[1].endswith(" ?")
    expected = model.hidden(pictures, texts, prompt_tokens=12)
    assert tokens.values.shape[1] == model.image_length() + 12 + model.new_tokens
    assert torch.equal(tokens.mask, expected.mask)
    assert torch.equal(tokens.values, expected.states.transpose(1, 2).flatten(2))


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


def test_a_run_in_a_task_with_open_contexts_logs_how_many_prompts_were_truncated(write_plugin, tmp_path):
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

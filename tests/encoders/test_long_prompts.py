"""Prompts that are longer than a VLM's positions are refused before a run, and free text in them is truncated."""

from types import SimpleNamespace

import pytest
from small_vlms import CASE, folder
from test_encoders import IMAGE, NEW, FakeSource, frames

from pr2l.core.errors import TooLong
from pr2l.core.prompt import Prompt
from pr2l.encoders import prompted
from pr2l.encoders.common.prompts import PromptRenderer
from pr2l.training import check as checks
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

DO = Prompt(name="test", text="do {instruction}", slots=("instruction",), why="", source="")
MAX_TOKENS = 3  # "do" and two words of the value


def create():
    source = FakeSource("fake", Defaults(new_tokens=NEW), DO, None, (4, 8, 3), ())
    return prompted.create(source, prompted.Defaults(max_prompt_tokens=MAX_TOKENS))


def test_free_text_beyond_the_positions_is_truncated_in_training(monkeypatch):
    """The VLM refuses to count such a text, which stopped the training in the middle of an episode."""
    encoder = create()
    count = encoder.vlm.prompt_length

    def checked(texts):
        if count(texts) > 50:
            raise TooLong("the prompt is too long")
        return count(texts)

    monkeypatch.setattr(encoder.vlm, "prompt_length", checked)
    encoder.prompts = PromptRenderer(encoder.source, encoder.vlm, MAX_TOKENS)
    with pytest.warns(UserWarning, match=f"truncated to max_prompt_tokens={MAX_TOKENS}"):
        tokens = encoder.encode(frames(1), [{"instruction": "a1 " * 10_000}])
    assert int(tokens.mask[0, IMAGE : IMAGE + MAX_TOKENS].sum()) == MAX_TOKENS
    assert encoder.metrics()["prompt/truncated"] == 1


def test_own_text_beyond_the_positions_is_refused_with_the_positions(monkeypatch):
    encoder = create()

    def refuse(texts):
        raise TooLong("positions for 50")

    monkeypatch.setattr(encoder.vlm, "prompt_length", refuse)
    with pytest.raises(TooLong, match="positions for 50"):
        PromptRenderer(encoder.source, encoder.vlm, MAX_TOKENS)


def test_q_former_of_instructblip_has_positions_of_its_own():
    """Its text is not part of the language model's input, so a check of that input does not find it."""
    vlm = load_vlm(str(folder(CASE["instructblip-t5"])), Defaults(new_tokens=1))  # T5 computes its positions
    longest = 64 - 2  # beside [CLS] and [SEP]
    assert vlm.prompt_length([" ".join(["is"] * longest)]) > 0
    with pytest.raises(TooLong, match="65 tokens, and the Q-Former has 64 positions"):
        vlm.prompt_length([" ".join(["is"] * (longest + 1))])


@pytest.mark.parametrize(("positions", "good"), [(21, True), (20, False), (None, True)])
def test_prompt_beyond_the_positions_of_the_vlm_fails(positions: int | None, good: bool) -> None:
    """The input has 3 tokens of the prompt, 16 of the image and 2 of the answer."""
    encoder = create()
    encoder.vlm.is_encoder_decoder = False
    encoder.vlm.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=positions))
    [finding] = checks._prompt_length(encoder)
    assert finding.good is good and finding.description.startswith("at most 3 tokens, 21 with images and answer")
    assert good or "shorter prompt" in finding.problem

"""Choosing tokens: exact distributions, and rows that do not know of each other."""

import numpy as np
import pytest
import torch
from test_families import CASES, TEXTS, N, pictures, vlm

from pr2l.vlms.decoding import Decoding, uniforms

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
END = 3
CASE = next(case for case in CASES if case.name == "llava")


def chosen(decoding, logits, steps=1):
    ids = torch.zeros(len(logits), 0, dtype=torch.long)
    return torch.stack([decoding(ids, logits).argmax(-1) for _ in range(steps)], dim=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 5.0])
def test_samples_follow_the_softmax_at_the_temperature(temperature):
    """A thousand evenly spaced numbers fall on each token as often as its probability says."""
    numbers = (np.arange(1000)[:, None] + 0.5) / 1000
    tokens = chosen(Decoding((), 0, numbers, temperature), LOGITS.expand(1000, -1))
    shares = torch.bincount(tokens.flatten(), minlength=4) / 1000
    torch.testing.assert_close(shares, torch.softmax(LOGITS[0] / temperature, dim=0), rtol=0, atol=1e-3)


def test_the_ends_of_the_range_are_tokens_too():
    impossible_last = torch.tensor([[0.0, 1.0, float("-inf")]] * 2)
    numbers = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    assert chosen(Decoding((), 0, numbers), impossible_last).flatten().tolist() == [0, 1]


def test_an_answer_cannot_end_before_its_least_length():
    ending = torch.tensor([[0.0, 1.0, 0.5, 9.0]])
    assert chosen(Decoding((END,), 2), ending, steps=4).tolist() == [[1, 1, END, END]]
    numbers = np.full((1, 4), 0.5)
    assert chosen(Decoding((END,), 2, numbers, 0.4), ending, steps=4).tolist() == [[1, 1, END, END]]


def test_a_rows_numbers_are_its_own():
    frames, texts = pictures(CASE), list(TEXTS)
    together = uniforms(0, frames[:, None], texts, 5)
    assert together.shape == (3, 5) and (together >= 0).all() and (together < 1).all()
    backwards = uniforms(0, frames[::-1][:, None], texts[::-1], 5)
    assert np.array_equal(together, backwards[::-1])
    other_text = uniforms(0, frames[:1][:, None], ["something else"], 5)
    other_seed = uniforms(1, frames[:1][:, None], texts[:1], 5)
    other_frame = uniforms(0, frames[1:2][:, None], texts[:1], 5)
    for other in (other_text, other_seed, other_frame):
        assert not np.isclose(together[:1], other).any()


def sampled(seed=0, **options):
    # Hot, so that the tokens of so small a model differ from its greedy ones.
    return vlm(CASE, generation="sample", temperature=3.0, seed=seed, new_tokens=12, min_new_tokens=8, **options)


def test_a_sampled_text_does_not_depend_on_its_neighbours():
    frames = pictures(CASE)
    together = sampled().hidden(frames, TEXTS)
    assert sampled().hidden(frames[::-1], TEXTS[::-1]).answers == together.answers[::-1]
    for row, text in enumerate(TEXTS):
        alone = sampled().hidden(frames[row : row + 1], [text], together.spans["prompt"].stop - 16)
        assert alone.answers[0] == together.answers[row]
        torch.testing.assert_close(alone.states[0], together.states[row], rtol=0, atol=1e-5)


def test_the_seed_changes_what_is_sampled():
    frames = pictures(CASE)
    answers = {tuple(sampled(seed).hidden(frames, TEXTS).answers) for seed in (0, 1, 2)}
    greedy = vlm(CASE, new_tokens=12, min_new_tokens=8).hidden(frames, TEXTS).answers
    assert len(answers | {tuple(greedy)}) == 4


def test_sampled_states_are_those_of_the_sampled_text():
    """The states that come with a sampled text are what the model says about that text, not about the greedy
    one."""
    frames = pictures(CASE)[:1]
    model = sampled()
    _, (_, ids, after) = next(model.passes(frames, TEXTS[:1]))
    inputs = model.inputs(frames, TEXTS[:1])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        states = model.model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(after[:, -1], states[-1][:, -12:], rtol=0, atol=1e-5)


def test_without_generation_there_are_no_generated_tokens():
    silent = vlm(CASE, generation="none").hidden(pictures(CASE), TEXTS)
    spoken = vlm(CASE).hidden(pictures(CASE), TEXTS)
    end = silent.spans["prompt"].stop
    assert silent.spans["generated"] == slice(end, end) and silent.states.shape[2] == end
    assert silent.answers == ["", "", ""]
    torch.testing.assert_close(silent.states, spoken.states[:, :, :end], rtol=0, atol=1e-5)


def test_states_after_the_end_of_an_answer_are_masked():
    """Declared the end, the second token that the model says ends its answer: itself real, the third not."""
    model = vlm(CASE, min_new_tokens=0)
    frames, texts = pictures(CASE)[:1], TEXTS[:1]
    before = model.hidden(frames, texts)
    _, (_, ids, _) = next(model.passes(frames, texts))
    assert len(set(ids[0].tolist())) == N and before.mask.all()
    ends, model.eos_token_ids = model.eos_token_ids, (int(ids[0, 1]),)
    after, answer = model.hidden(frames, texts), model.answer(frames, texts, N)
    model.eos_token_ids = ends
    generated = after.spans["generated"]
    assert after.mask[0, generated].tolist() == [True, True, False]
    assert torch.equal(after.states[:, :, generated][:, :, :2], before.states[:, :, generated][:, :, :2])
    assert not after.states[:, :, generated][:, :, 2].any()
    assert after.answers == answer == [model.tokenizer.decode(ids[0, :2], skip_special_tokens=True).strip()]

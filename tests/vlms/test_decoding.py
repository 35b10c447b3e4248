"""Sampling: exact distributions, and rows that do not depend on each other."""

import numpy as np
import pytest
import torch
from small_vlms import CASE, NEW_TOKENS, TEXTS, hidden, pictures, vlm

from pr2l.vlms.decoding import Decoding, uniforms

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
END = 3
LLAVA = CASE["llava"]


def sample(decoding, logits, steps=1):
    ids = torch.zeros(len(logits), 0, dtype=torch.long)
    return torch.stack([decoding(ids, logits).argmax(-1) for _ in range(steps)], dim=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 5.0])
def test_samples_follow_the_softmax(temperature):
    """A thousand evenly spaced numbers choose each token as often as its probability says."""
    numbers = (np.arange(1000)[:, None] + 0.5) / 1000
    tokens = sample(Decoding((), 0, numbers, temperature), LOGITS.expand(1000, -1))
    frequencies = torch.bincount(tokens.flatten(), minlength=4) / 1000
    torch.testing.assert_close(frequencies, torch.softmax(LOGITS[0] / temperature, dim=0), rtol=0, atol=1e-3)


def test_smallest_and_largest_number_choose_a_possible_token():
    impossible_last = torch.tensor([[0.0, 1.0, float("-inf")]] * 2)
    numbers = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    assert sample(Decoding((), 0, numbers), impossible_last).flatten().tolist() == [0, 1]


def test_min_new_tokens_delays_eos():
    ending = torch.tensor([[0.0, 1.0, 0.5, 9.0]])
    assert sample(Decoding((END,), 2), ending, steps=4).tolist() == [[1, 1, END, END]]
    numbers = np.full((1, 4), 0.5)
    assert sample(Decoding((END,), 2, numbers, 0.4), ending, steps=4).tolist() == [[1, 1, END, END]]


def test_random_numbers_of_a_row_depend_on_its_content_only():
    frames, texts = pictures(LLAVA), list(TEXTS)
    batched = uniforms(0, frames[:, None], texts, 5)
    assert batched.shape == (3, 5) and (batched >= 0).all() and (batched < 1).all()
    reversed_rows = uniforms(0, frames[::-1][:, None], texts[::-1], 5)
    assert np.array_equal(batched, reversed_rows[::-1])
    other_text = uniforms(0, frames[:1][:, None], ["something else"], 5)
    other_seed = uniforms(1, frames[:1][:, None], texts[:1], 5)
    other_frame = uniforms(0, frames[1:2][:, None], texts[:1], 5)
    for other in (other_text, other_seed, other_frame):
        assert not np.isclose(batched[:1], other).any()


def test_each_row_can_have_a_seed_of_its_own():
    frames, texts = pictures(LLAVA)[[0, 0]][:, None], [TEXTS[0]] * 2
    numbers = uniforms([0, 1], frames, texts, 5)
    assert np.array_equal(numbers[:1], uniforms(0, frames[:1], texts[:1], 5))
    assert np.array_equal(numbers[1:], uniforms(1, frames[:1], texts[:1], 5))


def sampling_vlm(seed=0, **options):
    # A high temperature, so that the samples of so small a model differ from its greedy answers.
    return vlm(LLAVA, generation="sample", temperature=3.0, seed=seed, new_tokens=12, min_new_tokens=8, **options)


def test_sample_does_not_depend_on_other_rows():
    frames = pictures(LLAVA)
    batched = sampling_vlm().hidden(frames, TEXTS)
    assert sampling_vlm().hidden(frames[::-1], TEXTS[::-1]).answers == batched.answers[::-1]
    for row, text in enumerate(TEXTS):
        single = sampling_vlm().hidden(frames[row : row + 1], [text], batched.spans["prompt"].stop - 16)
        assert single.answers[0] == batched.answers[row]
        torch.testing.assert_close(single.states[0], batched.states[row], rtol=0, atol=1e-5)


def test_samples_depend_on_the_seed():
    frames = pictures(LLAVA)
    answers = {tuple(sampling_vlm(seed).hidden(frames, TEXTS).answers) for seed in (0, 1, 2)}
    greedy = vlm(LLAVA, new_tokens=12, min_new_tokens=8).hidden(frames, TEXTS).answers
    assert len(answers | {tuple(greedy)}) == 4


def test_generated_states_belong_to_the_sampled_tokens():
    """Not to the greedy ones: one pass of the unmodified model over the sampled tokens gives the same states."""
    frames = pictures(LLAVA)[:1]
    model = sampling_vlm()
    _, (_, ids, after) = next(model.passes(frames, TEXTS[:1]))
    inputs = model.inputs(frames, TEXTS[:1])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        states = model.model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(after[:, -1], states[-1][:, -12:], rtol=0, atol=1e-5)


def test_generation_none_has_no_generated_tokens():
    prompt_only, with_answer = hidden(LLAVA, generation="none"), hidden(LLAVA)
    end = prompt_only.spans["prompt"].stop
    assert prompt_only.spans["generated"] == slice(end, end) and prompt_only.states.shape[2] == end
    assert prompt_only.answers == ["", "", ""]
    torch.testing.assert_close(prompt_only.states, with_answer.states[:, :, :end], rtol=0, atol=1e-5)


def test_states_after_eos_are_masked():
    """With the second generated token as EOS, the first two are real and the third is masked."""
    model = vlm(LLAVA, min_new_tokens=0)
    frames, texts = pictures(LLAVA)[:1], TEXTS[:1]
    before = model.hidden(frames, texts)
    _, (_, ids, _) = next(model.passes(frames, texts))
    assert len(set(ids[0].tolist())) == NEW_TOKENS and before.mask.all()
    ends, model.eos_token_ids = model.eos_token_ids, (int(ids[0, 1]),)
    after, answer = model.hidden(frames, texts), model.answer(frames, texts, NEW_TOKENS)
    model.eos_token_ids = ends
    generated = after.spans["generated"]
    assert after.mask[0, generated].tolist() == [True, True, False]
    assert torch.equal(after.states[:, :, generated][:, :, :2], before.states[:, :, generated][:, :, :2])
    assert not after.states[:, :, generated][:, :, 2].any()
    assert after.answers == answer == [model.tokenizer.decode(ids[0, :2], skip_special_tokens=True).strip()]

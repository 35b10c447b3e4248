"""The notebook's way and the plain batch: the same states as pr2l, and the number of passes that they take."""

import numpy as np
import pytest
import torch
from small_vlms import CASE
from small_vlms import TEXTS as SMALL_TEXTS
from small_vlms import vlm as small_vlm

from pr2l.profiling.baselines import as_plain_batch, as_the_notebook, row_by_row
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import OPTIMIZATIONS, Defaults

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 120, 160, 3), dtype=np.uint8)
TEXTS = ["where is the imp ?"] * 3


def steps_of(vlm, monkeypatch):
    """Return a list that grows by the number of steps of each call of `generate`."""
    generate, steps = vlm.model.generate, []

    def counted(**options):
        out = generate(**options)
        steps.append(len(out.decoder_hidden_states if vlm.is_encoder_decoder else out.hidden_states))
        return out

    monkeypatch.setattr(vlm.model, "generate", counted)
    return steps


@pytest.mark.parametrize("generation", ["greedy", "none"])
def test_baselines_compute_the_same_states(generation):
    vlm = load_vlm("tiny", Defaults(generation=generation, new_tokens=3, min_new_tokens=3))
    ours = vlm.hidden(FRAMES, TEXTS)
    end = ours.spans["prompt"].stop
    notebook = as_the_notebook(vlm, FRAMES, TEXTS)
    torch.testing.assert_close(notebook.states[:, :, :end], ours.states[:, :, :end], rtol=0, atol=2e-5)
    plain = as_plain_batch(vlm, FRAMES, TEXTS)
    torch.testing.assert_close(plain[:, :end], ours.states[:, :, :end].transpose(1, 2).flatten(2), rtol=0, atol=2e-5)
    slow = row_by_row(load_vlm("tiny", vlm.options.model_copy(update={"disable": OPTIMIZATIONS})).hidden)(FRAMES, TEXTS)
    torch.testing.assert_close(slow.states, ours.states, rtol=0, atol=2e-5)
    assert slow.answers == ours.answers and slow.spans == ours.spans and slow.mask.equal(ours.mask)


def test_notebook_runs_one_generate_per_frame_with_its_number_of_tokens(monkeypatch):
    """An encoder-decoder has a state of the start token, and so as many states as tokens without one more step."""
    vlm = load_vlm("tiny", Defaults(new_tokens=3, min_new_tokens=3))
    ours, steps = vlm.hidden(FRAMES, TEXTS), steps_of(vlm, monkeypatch)
    monkeypatch.setattr(vlm, "decode", lambda ids: pytest.fail("the notebook decodes no text"))
    notebook = as_the_notebook(vlm, FRAMES, TEXTS, prompt_tokens=20)
    assert steps == [3, 3, 3]
    assert notebook.states.shape == (3, 2, vlm.image_length() + 20 + 3, vlm.hidden_size)
    assert notebook.answers == ["", "", ""] and notebook.states.device.type == "cpu"
    answer, of_notebook = ours.spans["generated"], notebook.spans["generated"]
    assert notebook.mask[:, of_notebook].all()
    ours_after_start = ours.states[:, :, answer.start : answer.stop - 1]
    torch.testing.assert_close(
        notebook.states[:, :, of_notebook.start + 1 : of_notebook.stop], ours_after_start, rtol=0, atol=2e-5
    )


def test_notebook_has_no_state_of_the_last_token_of_a_causal_model(monkeypatch):
    vlm = small_vlm(CASE["llava"], new_tokens=3, min_new_tokens=3)
    frames, texts = FRAMES[:2], [SMALL_TEXTS[0]] * 2
    ours, steps = vlm.hidden(frames, texts), steps_of(vlm, monkeypatch)
    notebook = as_the_notebook(vlm, frames, texts)
    assert steps == [3, 3] and notebook.spans == ours.spans
    last = ours.spans["generated"].stop - 1
    assert notebook.mask[:, :last].equal(ours.mask[:, :last]) and not notebook.mask[:, last].any()
    torch.testing.assert_close(notebook.states[:, :, :last], ours.states[:, :, :last], rtol=0, atol=2e-5)

"""Conversations of several messages and images, against what Hugging Face's processors and models make of them."""

import numpy as np
import pytest
import torch
from test_families import CASES, N, close, folder, stacked, unmodified, vlm
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.loading import family

CHAT = [case for case in CASES if issubclass(family(case.model_type).load.__self__, ChatVLM)]
OTHERS = [case for case in CASES if case not in CHAT]
CASE = {case.name: case for case in CASES}

IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


TWO_TURNS = [
    {"role": "user", "content": [text("what do you see ?"), IMAGE]},
    {"role": "assistant", "content": [text("a wall")]},
    {"role": "user", "content": [IMAGE, text("is it near ?")]},
]
ONE_IMAGE = [{"role": "user", "content": [IMAGE, text("is it left ?")]}]
TWO_IMAGES = [{"role": "user", "content": [IMAGE, text("yes"), IMAGE, text("no")]}]

chat_cases = pytest.mark.parametrize("case", CHAT, ids=lambda case: case.name)


def pictures(case, count, seed=0):
    return list(frames(count, case.size, case.size, seed))


@torch.no_grad()
def reference(case, images, messages):
    """The unmodified model's input states [1, L, T, D] in Hidden's order, how many are image tokens, and the inputs."""
    inputs = case.inputs(folder(case), images, messages, "")
    states = stacked(unmodified(case)(**inputs, output_hidden_states=True).hidden_states)
    image = inputs["input_ids"][0] == unmodified(case).config.image_token_id
    return torch.cat([states[:, :, image], states[:, :, ~image]], dim=2), int(image.sum()), inputs


@chat_cases
def test_states_of_two_turns_with_two_images_are_the_unmodified_models(case):
    images = pictures(case, 2)
    hidden = vlm(case).hidden([images], [TWO_TURNS])
    theirs, count, inputs = reference(case, images, TWO_TURNS)
    assert count == 2 * case.image_tokens == hidden.spans["image"].stop
    close(hidden.states[:, :, : hidden.spans["prompt"].stop], theirs)
    with torch.no_grad():
        out = unmodified(case).generate(
            **inputs,
            do_sample=False,
            min_new_tokens=N + 1,
            max_new_tokens=N + 1,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    generated = torch.cat([stacked(step)[:, :, -1:] for step in out.hidden_states[1:]], dim=2)
    close(hidden.states[:, :, hidden.spans["generated"]], generated)


@pytest.mark.parametrize("order", ["image_first", "text_first"])
@chat_cases
def test_rows_with_different_conversations_are_those_alone(case, order):
    """One and two images, one and two turns, a frame that comes again; padding is masked."""
    images = pictures(case, 3)
    batch = [images[:2], images[1:2], images[:1], images[1:]]
    prompts = [TWO_TURNS, ONE_IMAGE, ONE_IMAGE, TWO_IMAGES]
    together = vlm(case, order).hidden(batch, prompts)
    lengths = {name: span.stop - span.start for name, span in together.spans.items()}
    assert lengths["image"] == 2 * case.image_tokens and lengths["prompt"] == vlm(case).prompt_length(prompts)
    for row, (shown, prompt) in enumerate(zip(batch, prompts, strict=True)):
        alone = vlm(case, order).hidden([shown], [prompt])
        for name, span in together.spans.items():
            mask = together.mask[row, span]
            assert int(mask.sum()) == int(alone.mask[0, alone.spans[name]].sum())
            ours = together.states[row, :, span][:, mask]
            close(ours, alone.states[0, :, alone.spans[name]][:, alone.mask[0, alone.spans[name]]])
            assert not together.states[row, :, span][:, ~mask].any()
        assert together.answers[row] == alone.answers[0]


@chat_cases
def test_one_message_with_one_image_is_the_text_alone(case):
    images = pictures(case, 1)
    if not vlm(case)._template_keeps_order:
        pytest.skip("the template moves images, so a text goes through it as one part")
    ours = vlm(case).hidden([images], [ONE_IMAGE])
    theirs = vlm(case).hidden(np.stack(images), ["is it left ?"])
    assert torch.equal(ours.states, theirs.states) and ours.answers == theirs.answers


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_other_families_take_one_image_and_then_one_text(case):
    images = pictures(case, 2)
    ours = vlm(case).hidden([images[:1]], [ONE_IMAGE])
    assert torch.equal(ours.states, vlm(case).hidden(np.stack(images[:1]), ["is it left ?"]).states)
    for prompt, count in ((TWO_TURNS, 2), (TWO_IMAGES, 2), ([{"role": "user", "content": [text("no"), IMAGE]}], 1)):
        with pytest.raises(UserError, match="one image and then one text"):
            vlm(case).hidden([images[:count]], [prompt])


def test_images_of_several_shapes_come_together():
    case = CASE["idefics3"]
    images = [frames(1, 20, 50)[0], frames(1, 40, 24)[0]]
    ours = vlm(case).hidden([images], [TWO_TURNS])
    fitted = [vlm(case).fit(image[None])[0] for image in images]
    assert torch.equal(ours.states, vlm(case).hidden([fitted], [TWO_TURNS]).states)


def test_conversations_that_cannot_be_answered_are_refused():
    case = CASE["idefics3"]
    images = pictures(case, 2)
    with pytest.raises(ValueError, match=r"\[1\].*\[2\]"):
        vlm(case).hidden([images[:1]], [TWO_TURNS])
    with pytest.raises(UserError, match="no image"):
        vlm(case).hidden([[]], [[{"role": "user", "content": [text("hello")]}]])
    with pytest.raises(UserError, match="end the conversation with a message of the 'user'"):
        vlm(case).hidden([images[:1]], [TWO_TURNS[:2]])
    with pytest.raises(UserError, match="chat_template=false"):
        vlm(case, chat_template=False).hidden([images], [TWO_TURNS])
    with pytest.raises(UserError, match="has that word in it"):
        vlm(case).hidden([images[:1]], [[{"role": "user", "content": [IMAGE, text("an <image> ?")]}]])


def test_a_template_that_refuses_a_role_says_so():
    case = CASE["llava"]
    model = vlm(case, new_tokens=1, min_new_tokens=0)
    template, model.template = model.template, "{{ raise_exception('no system role') }}"
    try:
        with pytest.raises(UserError, match="does not take the conversation.*no system role"):
            model.hidden([pictures(case, 1)], [[{"role": "user", "content": [IMAGE, text("is it far ?")]}]])
    finally:
        model.template = template

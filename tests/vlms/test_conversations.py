"""Conversations of several messages and images, compared with Hugging Face's processors and models."""

import numpy as np
import pytest
import torch
from small_vlms import CASE, CASES, assert_close, folder, generated_states, stacked, unmodified, vlm
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.loading import family

CHAT_CASES = [case for case in CASES if issubclass(family(case.model_type).load.__self__, ChatVLM)]
OTHER_CASES = [case for case in CASES if case not in CHAT_CASES]

IMAGE = {"type": "image"}


def text(content):
    return {"type": "text", "text": content}


TWO_TURNS = [
    {"role": "user", "content": [text("what do you see ?"), IMAGE]},
    {"role": "assistant", "content": [text("a wall")]},
    {"role": "user", "content": [IMAGE, text("is it near ?")]},
]
ONE_IMAGE = [{"role": "user", "content": [IMAGE, text("is it left ?")]}]
TWO_IMAGES = [{"role": "user", "content": [IMAGE, text("yes"), IMAGE, text("no")]}]

chat_cases = pytest.mark.parametrize("case", CHAT_CASES, ids=lambda case: case.name)


def pictures(case, count, seed=0):
    return list(frames(count, case.size, case.size, seed))


@torch.no_grad()
def reference(case, images, messages):
    """Return the unmodified model's input states [1, L, T, D] in Hidden's order, their image tokens, and its inputs."""
    inputs = case.inputs(folder(case), images, messages, "")
    states = stacked(unmodified(case)(**inputs, output_hidden_states=True).hidden_states)
    image = inputs["input_ids"][0] == unmodified(case).config.image_token_id
    return torch.cat([states[:, :, image], states[:, :, ~image]], dim=2), int(image.sum()), inputs


@chat_cases
def test_states_of_two_turns_with_two_images_equal_the_unmodified_model(case):
    images = pictures(case, 2)
    hidden = vlm(case).hidden([images], [TWO_TURNS])
    theirs, count, inputs = reference(case, images, TWO_TURNS)
    assert count == 2 * case.image_tokens == hidden.spans["image"].stop
    assert_close(hidden.states[:, :, : hidden.spans["prompt"].stop], theirs)
    generated, _ = generated_states(unmodified(case), inputs)
    assert_close(hidden.states[:, :, hidden.spans["generated"]], generated)


@pytest.mark.parametrize("order", ["image_first", "text_first"])
@chat_cases
def test_rows_with_different_conversations_equal_single_rows(case, order):
    """Rows have one or two images, one or two turns, and a repeated frame; padding is masked."""
    images = pictures(case, 3)
    batch = [images[:2], images[1:2], images[:1], images[1:]]
    prompts = [TWO_TURNS, ONE_IMAGE, ONE_IMAGE, TWO_IMAGES]
    batched = vlm(case, order).hidden(batch, prompts)
    lengths = {name: span.stop - span.start for name, span in batched.spans.items()}
    assert lengths["image"] == 2 * case.image_tokens and lengths["prompt"] == vlm(case).prompt_length(prompts)
    for row, (row_images, prompt) in enumerate(zip(batch, prompts, strict=True)):
        single = vlm(case, order).hidden([row_images], [prompt])
        for name, span in batched.spans.items():
            mask = batched.mask[row, span]
            assert int(mask.sum()) == int(single.mask[0, single.spans[name]].sum())
            ours = batched.states[row, :, span][:, mask]
            assert_close(ours, single.states[0, :, single.spans[name]][:, single.mask[0, single.spans[name]]])
            assert not batched.states[row, :, span][:, ~mask].any()
        assert batched.answers[row] == single.answers[0]


@chat_cases
def test_one_message_with_one_image_equals_the_text(case):
    images = pictures(case, 1)
    if not vlm(case)._template_keeps_order:
        pytest.skip("the template moves images, so a text is formatted as one part")
    ours = vlm(case).hidden([images], [ONE_IMAGE])
    theirs = vlm(case).hidden(np.stack(images), ["is it left ?"])
    assert torch.equal(ours.states, theirs.states) and ours.answers == theirs.answers


@pytest.mark.parametrize("case", OTHER_CASES, ids=lambda case: case.name)
def test_other_families_accept_one_image_and_then_one_text_only(case):
    images = pictures(case, 2)
    ours = vlm(case).hidden([images[:1]], [ONE_IMAGE])
    assert torch.equal(ours.states, vlm(case).hidden(np.stack(images[:1]), ["is it left ?"]).states)
    for prompt, count in ((TWO_TURNS, 2), (TWO_IMAGES, 2), ([{"role": "user", "content": [text("no"), IMAGE]}], 1)):
        with pytest.raises(UserError, match="one image and then one text.*smolvlm"):
            vlm(case).hidden([images[:count]], [prompt])


def test_images_of_different_shapes_in_one_conversation():
    case = CASE["idefics3"]
    images = [frames(1, 20, 50)[0], frames(1, 40, 24)[0]]
    ours = vlm(case).hidden([images], [TWO_TURNS])
    fitted = [vlm(case).fit(image[None])[0] for image in images]
    assert torch.equal(ours.states, vlm(case).hidden([fitted], [TWO_TURNS]).states)


def test_invalid_conversations_are_refused():
    case = CASE["idefics3"]
    images = pictures(case, 2)
    with pytest.raises(ValueError, match=r"\[1\].*\[2\]"):
        vlm(case).hidden([images[:1]], [TWO_TURNS])
    with pytest.raises(UserError, match="no image"):
        vlm(case).hidden([[]], [[{"role": "user", "content": [text("hello")]}]])
    with pytest.raises(UserError, match="must have the role 'user'"):
        vlm(case).hidden([images[:1]], [TWO_TURNS[:2]])
    with pytest.raises(UserError, match="chat_template=false"):
        vlm(case, chat_template=False).hidden([images], [TWO_TURNS])
    text_only = [{"role": "user", "content": [IMAGE, text("left ?")]}, {"role": "assistant", "content": [text("no")]}]
    with pytest.raises(UserError, match="chat template"):
        vlm(case, chat_template=False).hidden([images[:1]], [[*text_only, {"role": "user", "content": [text("?")]}]])
    with pytest.raises(UserError, match="<image>"):
        named = [{"role": "user", "content": [IMAGE, text("an <image> ?")]}]
        vlm(case, special_tokens="control").hidden([images[:1]], [named])


def test_reason_of_a_chat_template_is_in_the_error():
    case = CASE["llava"]
    model = vlm(case, new_tokens=1, min_new_tokens=0)
    template, model.template = model.template, "{{ raise_exception('no system role') }}"
    try:
        with pytest.raises(UserError, match="no system role"):
            model.hidden([pictures(case, 1)], [[{"role": "user", "content": [IMAGE, text("is it far ?")]}]])
    finally:
        model.template = template

"""Every family against the unmodified Hugging Face model, on small random-weight checkpoints with real processors.

Tolerance: float32, 1e-5 (states here are of order 1). The reference loads the same folder itself, takes its inputs from
the family's own Hugging Face processor and calls the model once per row.
"""

from importlib import import_module

import pytest
import torch
from small_vlms import (
    CASES,
    FAMILIES,
    NEW_TOKENS,
    TEXTS,
    all_cases,
    all_orders,
    assert_close,
    folder,
    hidden,
    load,
    pictures,
    stacked,
    unmodified,
    unmodified_inputs,
    vlm,
)
from tiny_parts import Case, frames

from pr2l.core import registry
from pr2l.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")  # pr2l follows new names of transformers


def language_output(out):
    """Return the part of a model's output that has hidden states; BLIP-2 and InstructBLIP nest it."""
    return getattr(out, "language_model_outputs", out)


@torch.no_grad()
def reference(case: Case, order: str, row: int):
    """Return the unmodified model's input states [1, L, T, D], in its own order, and a mask [T] of the image tokens."""
    inputs = unmodified_inputs(case, order, row)
    start = {"decoder_input_ids": torch.tensor([[1]])} if case.encoder_decoder else {}
    out = language_output(unmodified(case)(**inputs, **start, output_hidden_states=True))
    states = out.encoder_hidden_states if case.encoder_decoder else out.hidden_states
    return stacked(states), inputs["input_ids"][0] == unmodified(case).config.image_token_id


@pytest.mark.parametrize("name", FAMILIES)
def test_every_model_type_of_a_family_has_a_small_checkpoint(name):
    model_types = {case.model_type for case in import_module(f"builders.{name}").CASES}
    missing = set(registry.load("vlms", name).MODEL_TYPES) - model_types
    assert not missing, f"tests/vlms/builders/{name}.py must build {missing}"


@all_cases
def test_random_weights_depend_on_the_seed_alone(case):
    model, other_seed = (vlm(case, random_weights=seed).model for seed in (0, 1))
    checkpoint, weights, other_weights, of_fewer_layers = (
        dict(model.named_parameters())
        for model in (
            vlm(case).model,
            model,
            other_seed,
            load(case, layers=(1,), generation="none", random_weights=0).model,
        )
    )
    from_checkpoint = [
        name
        for name, weight in weights.items()
        if torch.equal(weight, checkpoint[name]) and weight.unique().numel() > 1
    ]
    assert from_checkpoint == []
    assert any(not torch.equal(weights[name], other_weights[name]) for name in weights)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)  # as at the start of training
    # With fewer layers, the remaining ones have the same weights.
    assert [name for name in of_fewer_layers if not torch.equal(of_fewer_layers[name], weights[name])] == []


@all_orders
def test_input_states_equal_the_unmodified_model(case, order):
    ours = hidden(case, order)
    for row in range(len(TEXTS)):
        states, image = reference(case, order, row)
        assert_close(ours.states[row : row + 1, :, ours.spans["image"]], states[:, :, image])
        prompt = ours.mask[row, ours.spans["prompt"]]
        assert_close(ours.states[row : row + 1, :, ours.spans["prompt"]][:, :, prompt], states[:, :, ~image])


@all_orders
@torch.no_grad()
def test_generated_states_equal_generate(case, order):
    """`generate` has states of all but its last token, so it generates one token more."""
    ours = hidden(case, order)
    for row in range(len(TEXTS)):
        inputs = unmodified_inputs(case, order, row)
        out = unmodified(case).generate(
            **inputs,
            do_sample=False,
            min_new_tokens=NEW_TOKENS + 1,
            max_new_tokens=NEW_TOKENS + 1,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        steps = out.decoder_hidden_states if case.encoder_decoder else out.hidden_states
        theirs = torch.cat([stacked(step)[:, :, -1:] for step in steps[1:]], dim=2)
        assert_close(ours.states[row : row + 1, :, ours.spans["generated"]], theirs)


@all_orders
@torch.no_grad()
def test_generated_states_equal_one_pass_over_prompt_and_answer(case, order):
    """The unmodified model reads the answer at once instead of token by token."""
    model = unmodified(case)
    ours = hidden(case, order)
    inputs = unmodified_inputs(case, order, 0)
    sequence = model.generate(**inputs, do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
    if case.encoder_decoder:
        out = language_output(model(**inputs, decoder_input_ids=sequence, output_hidden_states=True))
        states = stacked(out.decoder_hidden_states)
    else:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], sequence[:, -NEW_TOKENS:]], dim=1)
        for key in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if key in inputs:
                value = case.answer_types if key != "attention_mask" else 1
                inputs[key] = torch.cat([inputs[key], torch.full((1, NEW_TOKENS), value)], dim=1)
        states = stacked(language_output(model(**inputs, output_hidden_states=True)).hidden_states)
    assert_close(ours.states[:1, :, ours.spans["generated"]], states[:, :, -NEW_TOKENS:])


@all_orders
def test_rows_of_a_batch_equal_single_rows(case, order):
    batch = hidden(case, order)
    for row, text in enumerate(TEXTS):
        width = batch.spans["prompt"].stop - batch.spans["prompt"].start
        single = vlm(case, order).hidden(pictures(case)[row : row + 1], [text], prompt_tokens=width)
        assert_close(batch.states[row : row + 1], single.states)
        assert torch.equal(batch.mask[row], single.mask[0])
        assert batch.answers[row] == single.answers[0]


@all_cases
def test_larger_prompt_tokens_add_masked_zeros_only(case):
    tight = hidden(case)
    wide = vlm(case).hidden(pictures(case), TEXTS, prompt_tokens=vlm(case).prompt_length(TEXTS) + 5)
    for name in ("image", "generated"):
        assert torch.equal(tight.states[:, :, tight.spans[name]], wide.states[:, :, wide.spans[name]])
    start, stop = tight.spans["prompt"].start, tight.spans["prompt"].stop
    assert torch.equal(tight.states[:, :, start:stop], wide.states[:, :, start:stop])
    assert wide.states.shape[2] == tight.states.shape[2] + 5
    assert not wide.states[:, :, stop : stop + 5].any()
    assert not wide.mask[:, stop : stop + 5].any()
    assert torch.equal(tight.mask.sum(1), wide.mask.sum(1))


@all_cases
def test_shorter_prompts_are_padded_on_the_right_and_masked(case):
    ours = hidden(case)
    lengths = [vlm(case).prompt_length([text]) for text in TEXTS]
    assert lengths[0] > lengths[1] == lengths[2]
    prompt = ours.mask[:, ours.spans["prompt"]]
    assert torch.equal(prompt, torch.arange(lengths[0]) < torch.tensor(lengths)[:, None])
    assert not ours.states[1, :, ours.spans["prompt"]][:, lengths[1] :].any()


@all_orders
def test_image_sees_prompt_is_true_if_image_states_depend_on_the_prompt(case, order):
    """One frame with two prompts of equal length: image states are bit-identical or clearly different."""
    frame = pictures(case)[:1]
    first, second = (vlm(case, order).hidden(frame, [text]) for text in TEXTS[1:])
    difference = (first.states - second.states)[:, :, first.spans["image"]].abs().amax()
    assert vlm(case, order).image_sees_prompt == (case.image_sees_prompt or order == "text_first")
    if vlm(case, order).image_sees_prompt:
        assert difference > 1e-3
    else:
        assert difference == 0.0


@all_cases
def test_wide_frame_has_as_many_image_tokens_as_a_square_one(case):
    wide = frames(2, 30, 90)
    assert vlm(case).image_length() == case.image_tokens
    ours = vlm(case).hidden(wide, TEXTS[:2])
    assert ours.spans["image"] == slice(0, case.image_tokens)
    assert ours.states.shape[1:] == (3, ours.mask.shape[1], vlm(case).hidden_size)


@all_cases
def test_vision_tokens_depend_on_the_frame(case):
    tokens = vlm(case).vision(pictures(case))
    assert tokens.values.shape == (len(TEXTS), vlm(case).vision_length, vlm(case).vision_size)
    assert tokens.values.dtype == torch.float32 and tokens.mask.all()
    assert (tokens.values[0] - tokens.values[1]).abs().max() > 1e-2
    assert_close(tokens.values[1:2], vlm(case).vision(pictures(case)[1:2]).values)


@all_cases
def test_answers_equal_generate(case):
    tokenizer = vlm(case).tokenizer
    for row, answer in enumerate(vlm(case).answer(pictures(case), TEXTS, 4)):
        inputs = unmodified_inputs(case, "image_first", row)
        sequence = unmodified(case).generate(**inputs, do_sample=False, max_new_tokens=4)
        start = 1 if case.encoder_decoder else inputs["input_ids"].shape[1]
        assert answer == tokenizer.decode(sequence[0, start:], skip_special_tokens=True).strip()


@all_cases
def test_text_first_puts_the_text_before_the_image_or_is_refused(case):
    if "text_first" in vlm(case).token_orders:
        layouts = [vlm(case, order).layout(TEXTS[0]) for order in ("image_first", "text_first")]
        starts = [ids.index(vlm(case).image_token_id) for ids in layouts]
        assert starts[1] - starts[0] >= len(vlm(case).tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    else:
        with pytest.raises(UserError, match="token_order='text_first'.*image_first"):
            vlm(case, "text_first")


__all__ = ["CASES", "folder", "unmodified"]  # for tests/agents

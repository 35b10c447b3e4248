"""Every family against the unmodified Hugging Face model, on small random-weight checkpoints with real
processors.

Tolerance: float32, 1e-5 (states here are of order 1). The reference loads the same folder itself, takes its
inputs from the family's own Hugging Face processor and calls the model once per row.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from tiny_parts import Case, frames
from transformers import AutoModelForImageTextToText

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import family, load_vlm

FAMILIES = registry.names("vlms")
CASES = [case for name in FAMILIES if find_spec(f"builders.{name}") for case in import_module(f"builders.{name}").CASES]
ORDERS = [
    pytest.param(case, order, id=f"{case.name}-{order}")
    for case in CASES
    for order in family(case.model_type).load.__self__.token_orders
]
# Three lengths; the second and the third have equally many tokens.
TEXTS = ["where is the medikit ?", "is it near ?", "is it left ?"]
N = 3

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
all_orders = pytest.mark.parametrize(("case", "order"), ORDERS)


@cache
def folder(case: Case) -> Path:
    path = Path(mkdtemp(prefix=case.name))
    case.save(path)
    return path


@cache
def vlm(case: Case, order: str = "image_first", **options) -> VLM:
    given = {"new_tokens": N, "min_new_tokens": N, "layers": (0, -2, -1), "image_size": case.image_size}
    return load_vlm(str(folder(case)), Defaults(token_order=order, **(given | options)))


@cache
def unmodified(case: Case):
    if case.original is not None:
        return case.original(folder(case))
    return AutoModelForImageTextToText.from_pretrained(folder(case)).eval()


def pictures(case: Case):
    return frames(len(TEXTS), case.size, case.size)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def stacked(states, layers=(0, -2, -1)):
    return torch.stack([states[layer] for layer in layers], dim=1)


def language_output(out):
    """The part of a model's output that has hidden states: BLIP-2 and InstructBLIP nest it."""
    return getattr(out, "language_model_outputs", out)


@torch.no_grad()
def reference(case: Case, order: str, row: int):
    """The unmodified model's input states [1, L, T, D], in its own order, and which of the T are image
    tokens."""
    inputs = case.inputs(folder(case), pictures(case)[row], TEXTS[row], order)
    start = {"decoder_input_ids": torch.tensor([[1]])} if case.encoder_decoder else {}
    out = language_output(unmodified(case)(**inputs, **start, output_hidden_states=True))
    states = out.encoder_hidden_states if case.encoder_decoder else out.hidden_states
    return stacked(states), inputs["input_ids"][0] == unmodified(case).config.image_token_id


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_small_checkpoint_here(name):
    built = {case.model_type for case in import_module(f"builders.{name}").CASES}
    assert built >= set(registry.load("vlms", name).MODEL_TYPES), f"tests/vlms/builders/{name}.py must build each"


@all_cases
def test_random_weights_are_drawn_from_their_seed_and_nothing_is_left_of_the_checkpoints(case):
    drawn = {name: vlm(case, random_weights=seed).model for name, seed in (("one", 0), ("other", 1))}
    shallow = Defaults(layers=(1,), generation="none", random_weights=0, image_size=case.image_size)
    again = load_vlm(str(folder(case)), shallow).model
    read, one, other, fewer = (
        dict(model.named_parameters()) for model in (vlm(case).model, drawn["one"], drawn["other"], again)
    )
    kept = [name for name in one if torch.equal(one[name], read[name]) and one[name].unique().numel() > 1]
    assert kept == []
    assert any(not torch.equal(one[name], other[name]) for name in one)
    norms = [module for module in drawn["one"].modules() if isinstance(module, torch.nn.LayerNorm)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)  # as training begins
    # Fewer layers are read out, and those that are have the same weights.
    assert [name for name in fewer if not torch.equal(fewer[name], one[name])] == []


@all_orders
def test_input_states_are_those_of_the_unmodified_model(case, order):
    hidden = vlm(case, order).hidden(pictures(case), TEXTS)
    for row in range(len(TEXTS)):
        states, image = reference(case, order, row)
        close(hidden.states[row : row + 1, :, hidden.spans["image"]], states[:, :, image])
        prompt = hidden.mask[row, hidden.spans["prompt"]]
        close(hidden.states[row : row + 1, :, hidden.spans["prompt"]][:, :, prompt], states[:, :, ~image])


@all_orders
@torch.no_grad()
def test_generated_states_are_those_of_generate(case, order):
    """`generate` has states for all but its last token, so one more is asked of it than of ours."""
    hidden = vlm(case, order).hidden(pictures(case), TEXTS)
    for row in range(len(TEXTS)):
        inputs = case.inputs(folder(case), pictures(case)[row], TEXTS[row], order)
        out = unmodified(case).generate(
            **inputs,
            do_sample=False,
            min_new_tokens=N + 1,
            max_new_tokens=N + 1,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        steps = out.decoder_hidden_states if case.encoder_decoder else out.hidden_states
        theirs = torch.cat([stacked(step)[:, :, -1:] for step in steps[1:]], dim=2)
        close(hidden.states[row : row + 1, :, hidden.spans["generated"]], theirs)


@all_orders
@torch.no_grad()
def test_generated_states_are_those_of_one_pass_over_the_whole_text(case, order):
    """Fed the answer at once instead of token by token, the unmodified model has the same states at all N
    tokens."""
    model, pixels = unmodified(case), pictures(case)[:1]
    hidden = vlm(case, order).hidden(pixels, TEXTS[:1])
    inputs = case.inputs(folder(case), pixels[0], TEXTS[0], order)
    sequence = model.generate(**inputs, do_sample=False, min_new_tokens=N, max_new_tokens=N)
    if case.encoder_decoder:
        out = language_output(model(**inputs, decoder_input_ids=sequence, output_hidden_states=True))
        states = stacked(out.decoder_hidden_states)
    else:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], sequence[:, -N:]], dim=1)
        for key in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if key in inputs:
                new = case.answer_types if key != "attention_mask" else 1
                inputs[key] = torch.cat([inputs[key], torch.full((1, N), new)], dim=1)
        states = stacked(language_output(model(**inputs, output_hidden_states=True)).hidden_states)
    close(hidden.states[:, :, hidden.spans["generated"]], states[:, :, -N:])


@all_orders
def test_a_batch_is_its_rows_one_by_one(case, order):
    together = vlm(case, order).hidden(pictures(case), TEXTS)
    for row, text in enumerate(TEXTS):
        width = together.spans["prompt"].stop - together.spans["prompt"].start
        alone = vlm(case, order).hidden(pictures(case)[row : row + 1], [text], prompt_tokens=width)
        close(together.states[row : row + 1], alone.states)
        assert torch.equal(together.mask[row], alone.mask[0])
        assert together.answers[row] == alone.answers[0]


@all_cases
def test_a_wider_prompt_segment_only_adds_masked_zeros(case):
    tight = vlm(case).hidden(pictures(case), TEXTS)
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
def test_a_shorter_prompt_is_padded_on_the_right_and_masked(case):
    hidden = vlm(case).hidden(pictures(case), TEXTS)
    lengths = [vlm(case).prompt_length([text]) for text in TEXTS]
    assert lengths[0] > lengths[1] == lengths[2]
    prompt = hidden.mask[:, hidden.spans["prompt"]]
    assert torch.equal(prompt, torch.arange(lengths[0]) < torch.tensor(lengths)[:, None])
    assert not hidden.states[1, :, hidden.spans["prompt"]][:, lengths[1] :].any()


@all_orders
def test_whether_image_tokens_see_the_prompt(case, order):
    """One frame, two prompts of equal length: bit-identical image states, or clearly different ones."""
    frame = pictures(case)[:1]
    first, second = (vlm(case, order).hidden(frame, [text]) for text in TEXTS[1:])
    difference = (first.states - second.states)[:, :, first.spans["image"]].abs().amax()
    assert vlm(case, order).image_sees_prompt == (case.image_sees_prompt or order == "text_first")
    if vlm(case, order).image_sees_prompt:
        assert difference > 1e-3
    else:
        assert difference == 0.0


@all_cases
def test_a_frame_of_any_shape_is_one_picture(case):
    wide = frames(2, 30, 90)
    assert vlm(case).image_length() == case.image_tokens
    hidden = vlm(case).hidden(wide, TEXTS[:2])
    assert hidden.spans["image"] == slice(0, case.image_tokens)
    assert hidden.states.shape[1:] == (3, hidden.mask.shape[1], vlm(case).hidden_size)


@all_cases
def test_vision_tokens_know_the_frame_and_no_prompt(case):
    tokens = vlm(case).vision(pictures(case))
    assert tokens.values.shape == (len(TEXTS), vlm(case).vision_length, vlm(case).vision_size)
    assert tokens.values.dtype == torch.float32 and tokens.mask.all()
    assert (tokens.values[0] - tokens.values[1]).abs().max() > 1e-2
    close(tokens.values[1:2], vlm(case).vision(pictures(case)[1:2]).values)


@all_cases
def test_the_answer_is_what_generate_says(case):
    words = vlm(case).tokenizer
    for row, given in enumerate(vlm(case).answer(pictures(case), TEXTS, 4)):
        inputs = case.inputs(folder(case), pictures(case)[row], TEXTS[row], "image_first")
        sequence = unmodified(case).generate(**inputs, do_sample=False, max_new_tokens=4)
        start = 1 if case.encoder_decoder else inputs["input_ids"].shape[1]
        assert given == words.decode(sequence[0, start:], skip_special_tokens=True).strip()


@all_cases
def test_an_order_that_the_family_cannot_take_is_refused(case):
    if "text_first" in vlm(case).token_orders:
        texts = [vlm(case, order).layout(TEXTS[0]) for order in ("image_first", "text_first")]
        starts = [ids.index(vlm(case).image_token_id) for ids in texts]
        assert starts[1] - starts[0] >= len(vlm(case).tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    else:
        with pytest.raises(UserError, match="one place for its image"):
            vlm(case, "text_first")

"""Special tokens in prompts are text, unless special_tokens=control."""

import pytest
import torch
from small_vlms import CASE, CASES, all_cases, hidden, pictures, vlm
from test_conversations import CHAT_CASES, IMAGE, text

from pr2l.core.errors import UserError
from pr2l.vlms.plain_text import INTERRUPTION, control_tokens, encode, interrupt

LLAVA = CASE["llava"]


def special(model):
    """Return all special tokens of a VLM's tokenizer that have more than one character."""
    return [token for token in dict.fromkeys([*model.special_tokens, *model.placeholders]) if len(token) > 1]


def controlling(model, ids):
    """Return how often each special token occurs."""
    return {token: list(ids).count(model.tokenizer.convert_tokens_to_ids(token)) for token in special(model)}


@all_cases
def test_special_tokens_in_a_prompt_do_not_control_the_model(case):
    model = vlm(case)
    harmless = controlling(model, model.token_ids("is it near ?"))
    for token in special(model):
        ids = model.token_ids(f"is {token} near ?")
        assert controlling(model, ids) == harmless
        assert token.strip() in model.tokenizer.decode([i for i in ids if i != model.image_token_id]).replace(" ", "")


@all_cases
def test_states_exist_for_a_prompt_that_names_every_special_token(case):
    prompt = "is " + " ".join(special(vlm(case))) + " near ?"
    states = vlm(case).hidden(pictures(case)[:1], [prompt])
    assert states.mask[0, states.spans["prompt"]].all() and states.states.isfinite().all()


@pytest.mark.parametrize("case", CHAT_CASES, ids=lambda case: case.name)
def test_special_tokens_in_messages_do_not_control_the_model(case):
    model = vlm(case)
    token = special(model)[-1]

    def messages(words):
        return [[{"role": "user", "content": [IMAGE, text(words)]}]]

    images = [list(pictures(case)[:1])]
    ours = model.hidden(images, messages(f"is {token} near ?"))
    assert ours.spans["image"] == model.hidden(images, messages("is it near ?")).spans["image"]


def test_control_gives_special_tokens_their_effect():
    model = vlm(LLAVA, special_tokens="control")
    end = model.tokenizer.eos_token
    assert controlling(model, model.token_ids(f"near {end}"))[end] == 1
    assert controlling(vlm(LLAVA), vlm(LLAVA).token_ids(f"near {end}"))[end] == 0
    with pytest.raises(UserError, match=r"image tokens.*special_tokens=text"):
        model.token_ids("an <image> ?")


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "prismatic"], ids=lambda case: case.name)
def test_prompts_without_special_tokens_keep_their_states(case):
    ours = vlm(case, special_tokens="control").hidden(
        pictures(case), ["where is the medikit ?", "is it near ?", "is it left ?"]
    )
    assert torch.equal(ours.states, hidden(case).states)


def test_key_of_stored_embeddings_has_the_option_only_if_it_is_set():
    assert "special_tokens" not in vlm(LLAVA).key()
    assert vlm(LLAVA, special_tokens="control").key()["special_tokens"] == "control"


def test_interruption_is_inside_every_token_even_if_tokens_overlap():
    tokenizer = vlm(LLAVA).tokenizer
    tokens = control_tokens(tokenizer, None, "|NEWLINE|", "|SPEAKER|")
    interrupted = interrupt("|NEWLINE|SPEAKER|", tokens)
    assert tokens.search(interrupted) is None and not any(map(tokens.search, interrupted.split(INTERRUPTION)))
    assert interrupted.replace(INTERRUPTION, "") == "|NEWLINE|SPEAKER|"
    assert interrupt(f"a{INTERRUPTION}b", tokens) == "ab" and interrupt("plain", tokens) == "plain"


def test_encode_keeps_the_tokens_around_a_text():
    tokenizer = vlm(LLAVA).tokenizer
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("is <", "image> near ?")]
    assert encode(tokenizer, f"is <{INTERRUPTION}image> near ?") == [tokenizer.bos_token_id, *parts[0], *parts[1]]
    assert encode(tokenizer, "is it near ?") == tokenizer("is it near ?")["input_ids"]


@pytest.mark.parametrize("prompt", ["is it \ud83d near ?", [{"role": "user", "content": [IMAGE, text("\udc00")]}]])
def test_half_of_a_surrogate_pair_is_refused(prompt):
    frames = pictures(LLAVA)[:1]
    with pytest.raises(UserError, match=r"surrogate.*Remove it"):
        vlm(LLAVA).hidden(frames if isinstance(prompt, str) else [list(frames)], [prompt])
    with pytest.raises(UserError, match="surrogate"):
        vlm(LLAVA).prompt_length([prompt])

"""The levers of the engine: each gives what is given without it, and leaves out the work it claims to."""

import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import CASES, ORDERS, TEXTS, N, close, folder, pictures, vlm

from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import distinct
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import family, load_vlm

ENGINES = [case for case in CASES if family(case.model_type).load.__self__.has_engine]

all_orders = pytest.mark.parametrize(("case", "order"), [order for order in ORDERS if order.values[0] in ENGINES])
all_cases = pytest.mark.parametrize("case", ENGINES, ids=lambda case: case.name)


def fresh(case, **options):
    """Not the shared one: early exit changes the model."""
    return load_vlm(str(folder(case)), Defaults(image_size=case.image_size, **options))


def same(ours, theirs):
    assert ours.spans == theirs.spans and ours.answers == theirs.answers
    assert torch.equal(ours.mask, theirs.mask)
    close(ours.states, theirs.states)


def calls(module):
    """A list that grows by one with every forward pass of a module."""
    made = []
    module.register_forward_hook(lambda *_: made.append(1))
    return made


def parameters(model):
    return sum(one.numel() for one in model.parameters())


def measured(model, sizes):
    sizes.append(parameters(model))
    return model


@all_orders
@pytest.mark.parametrize("generation", ["none", "greedy", "sample"])
def test_own_passes_give_what_generate_gives(case, order, generation):
    options = {"generation": generation, "min_new_tokens": 0}
    theirs = vlm(case, order, **options, disable=("own_passes",)).hidden(pictures(case), TEXTS)
    same(vlm(case, order, **options).hidden(pictures(case), TEXTS), theirs)


@all_cases
def test_no_head_runs_where_nothing_is_generated(case):
    silent, speaking = fresh(case, generation="none"), fresh(case, new_tokens=N)
    heads = [calls(each.language_model.get_output_embeddings()) for each in (silent, speaking)]
    for each in (silent, speaking):
        each.hidden(pictures(case)[:1], TEXTS[:1])
    assert [len(head) for head in heads] == [0, N + 1]


@all_orders
@pytest.mark.parametrize("layers", [(0,), (1,), (-2, 0), (-1, 1)])
def test_early_exit_gives_what_the_whole_model_gives(case, order, layers):
    options = {"generation": "none", "layers": layers, "token_order": order}
    whole, short = fresh(case, **options, disable=("early_exit",)), fresh(case, **options)
    same(short.hidden(pictures(case), TEXTS), whole.hidden(pictures(case), TEXTS))
    needs_all = min(layers) + short.spare_layers == -1 or -1 in layers
    assert (parameters(short.model) < parameters(whole.model)) == (not needs_all)


@all_cases
def test_early_exit_never_reads_the_upper_layers(case, tmp_path, monkeypatch, caplog):
    """The same states come of a checkpoint whose upper layers are not there, and nobody is warned of them."""
    whole = fresh(case, generation="none", layers=(1,), disable=("early_exit",))
    read, sizes = checkpoint.read_model, []
    monkeypatch.setattr(checkpoint, "read_model", lambda *how: measured(read(*how), sizes))
    short = fresh(case, generation="none", layers=(1,))
    beyond_final_norms = 2 * 2 * whole.hidden_size  # weight and bias, in encoder and decoder
    assert parameters(short.model) <= sizes[0] <= parameters(short.model) + beyond_final_norms
    assert sizes[0] < parameters(whole.model) - 2 * beyond_final_norms
    if not (folder(case) / "model.safetensors").exists():
        return  # Prismatic's, a trainer's run
    partial = shutil.copytree(folder(case), tmp_path / "partial")
    present = {tensor.numpy().tobytes() for tensor in short.model.state_dict().values()}
    given = load_file(partial / "model.safetensors")
    kept = {key: tensor for key, tensor in given.items() if tensor.ndim == 1 or tensor.numpy().tobytes() in present}
    assert len(kept) < len(given)
    save_file(kept, partial / "model.safetensors", {"format": "pt"})
    logging.getLogger("transformers.modeling_utils").addHandler(caplog.handler)
    options = Defaults(image_size=case.image_size, generation="none", layers=(1,))
    theirs = load_vlm(str(partial), options).hidden(pictures(case), TEXTS)
    logging.getLogger("transformers.modeling_utils").removeHandler(caplog.handler)
    same(theirs, whole.hidden(pictures(case), TEXTS))
    assert "REPORT" not in caplog.text


@all_cases
def test_a_model_without_its_upper_layers_does_not_answer(case):
    with pytest.raises(UserError, match="generation=greedy"):
        fresh(case, generation="none", layers=(1,)).answer(pictures(case), TEXTS, 2)
    assert len(fresh(case, generation="none", layers=(-1,)).answer(pictures(case), TEXTS, 2)) == len(TEXTS)


@all_orders
def test_a_frame_is_seen_once_for_all_its_prompts(case, order, monkeypatch):
    first, second = pictures(case)[:2]
    frames, texts = np.stack([first, second, first, first]), [TEXTS[0], *TEXTS]
    theirs = vlm(case, order, disable=("shared_vision",)).hidden(frames, texts)
    shared, batches = vlm(case, order), []
    see = shared.pixels
    monkeypatch.setattr(shared, "pixels", lambda given: batches.append(len(given)) or see(given))
    same(shared.hidden(frames, texts), theirs)
    assert batches == [2]  # though rows of other lengths are passes of their own


PREFIXED = [order for order in ORDERS if family(order.values[0].model_type).load.__self__.can_share_prefix]


@pytest.mark.parametrize(("case", "order"), [order for order in PREFIXED if order.values[0] in ENGINES])
@pytest.mark.parametrize(("generation", "layers"), [("none", (1, -1)), ("none", (1,)), ("greedy", (1, -1))])
def test_a_shared_prefix_is_read_once(case, order, generation, layers):
    """Two frames under two texts of one length; text first, the second batch reads only what is new."""
    first, second = pictures(case)[:2]
    frames, texts = np.stack([first, second, first, first]), [TEXTS[1], TEXTS[2], TEXTS[2], TEXTS[1]]
    options = {"generation": generation, "new_tokens": N, "token_order": order, "layers": layers}
    shared = fresh(case, **options)
    theirs = fresh(case, **options, disable=("shared_prefix",)).hidden(frames, texts)
    same(shared.hidden(frames, texts), theirs)
    embedded = shared.model.get_input_embeddings()
    read = []
    embedded.register_forward_hook(lambda module, args, output: read.append(args[0].numel()))
    same(shared.hidden(frames, texts), theirs)
    input_tokens, made = shared.ids(texts), len(texts) * shared.new_tokens
    assert sum(read) - made < input_tokens.numel()


def test_distinct_frames_by_hand():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert distinct(np.stack([white, black, white, black, black])) == ([0, 1], [0, 1, 0, 1, 1])
    assert distinct(np.stack([black])) == ([0], [0])

"""The optimizations of backends/local.py: the states are the same with and without, and the work is less."""

import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_vlms import (
    ENGINES,
    NEW_TOKENS,
    ORDERS,
    TEXTS,
    assert_close,
    assert_same_hidden,
    count_tokens,
    folder,
    hidden,
    load,
    pictures,
    vlm,
)

from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import distinct
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import family, load_vlm

ENGINE_ORDERS = [order for order in ORDERS if order.values[0] in ENGINES]
PREFIX_ORDERS = [order for order in ENGINE_ORDERS if family(order.values[0].model_type).load.__self__.can_share_prefix]

all_orders = pytest.mark.parametrize(("case", "order"), ENGINE_ORDERS)
all_cases = pytest.mark.parametrize("case", ENGINES, ids=lambda case: case.name)


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@all_orders
@pytest.mark.parametrize("generation", ["none", "greedy", "sample"])
def test_own_passes_equal_generate(case, order, generation):
    options = {"generation": generation, "min_new_tokens": 0}
    assert_same_hidden(hidden(case, order, **options), hidden(case, order, **options, disable=("own_passes",)))


@all_cases
def test_head_runs_only_if_text_is_generated(case):
    for options, passes in (({"generation": "none"}, 0), ({"new_tokens": NEW_TOKENS}, NEW_TOKENS + 1)):
        model = load(case, **options)
        with count_tokens(model.language_model.get_output_embeddings()) as tokens:
            model.hidden(pictures(case)[:1], TEXTS[:1])
        assert len(tokens) == passes


@all_orders
@pytest.mark.parametrize("layers", [(0,), (1,), (-2, 0), (-1, 1)])
def test_early_exit_equals_the_whole_model(case, order, layers):
    """The whole model reads all these layers at once."""
    options = {"generation": "none", "token_order": order}
    all_layers = (0, 1, -2, -1)
    whole = load(case, **options, layers=all_layers, disable=("early_exit",))
    short = load(case, **options, layers=layers)
    ours, theirs = short.hidden(pictures(case), TEXTS), whole.hidden(pictures(case), TEXTS)
    assert ours.spans == theirs.spans and ours.answers == theirs.answers and torch.equal(ours.mask, theirs.mask)
    assert_close(ours.states, theirs.states[:, [all_layers.index(layer) for layer in layers]])
    needs_all = min(layers) + short.spare_layers == -1 or -1 in layers
    assert (parameter_count(short.model) < parameter_count(whole.model)) == (not needs_all)


@all_cases
def test_early_exit_does_not_read_the_upper_layers(case, tmp_path, monkeypatch, caplog):
    """A checkpoint without the upper layers gives the same states, without a warning about them."""
    options = {"generation": "none", "layers": (1,)}
    whole = load(case, **options, disable=("early_exit",))
    read_model, sizes = checkpoint.read_model, []

    def read_and_count(*args):
        model = read_model(*args)
        sizes.append(parameter_count(model))
        return model

    monkeypatch.setattr(checkpoint, "read_model", read_and_count)
    short = load_vlm(str(folder(case)), Defaults(image_size=case.image_size, **options))
    final_norms = 2 * 2 * whole.hidden_size  # weight and bias, in encoder and decoder
    assert parameter_count(short.model) <= sizes[0] <= parameter_count(short.model) + final_norms
    assert sizes[0] < parameter_count(whole.model) - 2 * final_norms
    if not (folder(case) / "model.safetensors").exists():
        return  # a run of Prismatic's trainer
    partial = shutil.copytree(folder(case), tmp_path / "partial")
    needed = {tensor.numpy().tobytes() for tensor in short.model.state_dict().values()}
    weights = load_file(partial / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if tensor.ndim == 1 or tensor.numpy().tobytes() in needed}
    assert len(kept) < len(weights)
    save_file(kept, partial / "model.safetensors", {"format": "pt"})
    logging.getLogger("transformers.modeling_utils").addHandler(caplog.handler)
    model = load_vlm(str(partial), Defaults(image_size=case.image_size, **options))
    logging.getLogger("transformers.modeling_utils").removeHandler(caplog.handler)
    assert_same_hidden(model.hidden(pictures(case), TEXTS), whole.hidden(pictures(case), TEXTS))
    assert "REPORT" not in caplog.text


@all_cases
def test_model_without_its_upper_layers_refuses_to_answer(case):
    with pytest.raises(UserError, match="generation=greedy"):
        load(case, generation="none", layers=(1,)).answer(pictures(case), TEXTS, 2)
    assert len(load(case, generation="none", layers=(-1,)).answer(pictures(case), TEXTS, 2)) == len(TEXTS)


@all_orders
def test_repeated_frames_pass_the_vision_tower_once(case, order, monkeypatch):
    first, second = pictures(case)[:2]
    frames, texts = np.stack([first, second, first, first]), [TEXTS[0], *TEXTS]
    theirs = vlm(case, order, disable=("shared_vision",)).hidden(frames, texts)
    model, batches = vlm(case, order), []
    pixels = model.pixels
    monkeypatch.setattr(model, "pixels", lambda frames: batches.append(len(frames)) or pixels(frames))
    assert_same_hidden(model.hidden(frames, texts), theirs)
    assert batches == [2]  # although prompts of other lengths need passes of their own


@pytest.mark.parametrize(("case", "order"), PREFIX_ORDERS)
@pytest.mark.parametrize(("generation", "layers"), [("none", (1, -1)), ("none", (1,)), ("greedy", (1, -1))])
def test_shared_prefix_is_read_once(case, order, generation, layers):
    """Two frames with two texts of one length; with the text first, a second batch reads only its images."""
    first, second = pictures(case)[:2]
    frames, texts = np.stack([first, second, first, first]), [TEXTS[1], TEXTS[2], TEXTS[2], TEXTS[1]]
    options = {"generation": generation, "new_tokens": NEW_TOKENS, "token_order": order}
    # This seed, which greedy decoding ignores, makes it a VLM that no other test uses, with no prefix stored yet.
    model = load(case, **options, layers=layers, seed=7)
    whole = load(case, **options, layers=(1, -1), disable=("shared_prefix",)).hidden(frames, texts)
    theirs = whole if layers == (1, -1) else type(whole)(whole.states[:, :1], whole.mask, whole.spans, whole.answers)
    assert_same_hidden(model.hidden(frames, texts), theirs)
    with count_tokens(model.model.get_input_embeddings()) as tokens:
        assert_same_hidden(model.hidden(frames, texts), theirs)
    generated = len(texts) * model.new_tokens
    assert sum(tokens) - generated < model.ids(texts).numel()


def test_distinct_frames():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert distinct(np.stack([white, black, white, black, black])) == ([0, 1], [0, 1, 0, 1, 1])
    assert distinct(np.stack([black])) == ([0], [0])

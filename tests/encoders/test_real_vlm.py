"""Encoders with a small untrained VLM: fixed shapes and independent rows."""

import numpy as np
import pytest
import torch

from pr2l.core.prompt import Prompt
from pr2l.encoders import image_only, prompted
from pr2l.encoders.base import EncoderSource
from pr2l.pretraining import architecture as scratch
from pr2l.vlms.base import Defaults

CONTEXTS = [{"target": "imp"}, {"target": "green armor"}, {"target": "big red torch"}]
WHERE = Prompt(name="test", text="where is the {target}", slots=("target",), why="", source="")
WORDS = ["where", "is", "the", "imp", "green", "armor", "big", "red", "torch"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    sizes = scratch.Architecture(image_size=64, tower_widths=(32, 64), tower_depths=(1, 1), width=32)
    scratch.build(sizes, WORDS, folder, seed=0)
    return str(folder)


def source(checkpoint, prompt=WHERE, **options):
    return EncoderSource(checkpoint, Defaults(new_tokens=2, **options), prompt, CONTEXTS, (24, 32, 3), ())


def frames(rows):
    return np.random.default_rng(0).integers(0, 256, (rows, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("generation", ["none", "greedy"])
@pytest.mark.parametrize("prompt", [WHERE, None])
def test_every_context_gives_the_same_shape(checkpoint, generation, prompt):
    encoder = prompted.create(source(checkpoint, prompt, generation=generation), prompted.Defaults())
    tokens = encoder.encode(frames(3), CONTEXTS)
    assert tokens.values.shape == (3, encoder.tokens, encoder.width)
    for context in CONTEXTS:
        assert encoder.encode(frames(1), [context]).values.shape == (1, encoder.tokens, encoder.width)


def test_rows_are_independent(checkpoint):
    encoder = prompted.create(source(checkpoint), prompted.Defaults())
    batched = encoder.encode(frames(3), CONTEXTS)
    for row, context in enumerate(CONTEXTS):
        single = encoder.encode(frames(3)[row : row + 1], [context])
        assert torch.equal(single.mask[0], batched.mask[row])
        difference = (single.values[0] - batched.values[row])[single.mask[0]]
        assert difference.abs().max() < 1e-5


def test_tokens_of_prompted_depend_on_the_context(checkpoint):
    for module, differs in ((prompted, True), (image_only, False)):
        encoder = module.create(source(checkpoint), module.Defaults())
        first, second = (encoder.encode(frames(1), [context]).values for context in CONTEXTS[:2])
        assert torch.equal(first, second) != differs


def test_pooling_and_pca_of_vision_tokens(checkpoint):
    encoder = image_only.create(source(checkpoint), image_only.Defaults(image_tokens=1, pca=4, pca_frames=8))
    encoder.fit(frames(8), [CONTEXTS[0]] * 8)
    # The pooled grid, and the mean token of Florence-2 before it.
    assert encoder.encode(frames(2), CONTEXTS[:2]).values.shape == (2, 1 + 1, 4)

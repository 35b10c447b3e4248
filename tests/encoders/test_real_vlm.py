"""Encoders over a real (small, untrained) VLM: lengths known beforehand, rows that do not depend on neighbours."""

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
def test_every_context_gives_the_promised_shape(checkpoint, generation, prompt):
    encoder = prompted.create(source(checkpoint, prompt, generation=generation), prompted.Defaults())
    longest = encoder.encode(frames(3), CONTEXTS)
    assert longest.values.shape == (3, encoder.tokens, encoder.width)
    for context in CONTEXTS:
        assert encoder.encode(frames(1), [context]).values.shape == (1, encoder.tokens, encoder.width)


def test_a_row_does_not_depend_on_its_neighbours(checkpoint):
    encoder = prompted.create(source(checkpoint), prompted.Defaults())
    together = encoder.encode(frames(3), CONTEXTS)
    for row, context in enumerate(CONTEXTS):
        alone = encoder.encode(frames(3)[row : row + 1], [context])
        assert torch.equal(alone.mask[0], together.mask[row])
        difference = (alone.values[0] - together.values[row])[alone.mask[0]]
        assert difference.abs().max() < 1e-5


def test_the_prompt_reaches_prompted_tokens_and_no_others(checkpoint):
    frame, other = frames(1), [CONTEXTS[1]]
    for module, differs in ((prompted, True), (image_only, False)):
        encoder = module.create(source(checkpoint), module.Defaults())
        one, two = (encoder.encode(frame, context).values for context in ([CONTEXTS[0]], other))
        assert torch.equal(one, two) != differs


def test_pooling_and_pca_of_vision_tokens(checkpoint):
    encoder = image_only.create(source(checkpoint), image_only.Defaults(image_tokens=1, pca=4, pca_frames=8))
    encoder.fit(frames(8), [CONTEXTS[0]] * 8)
    # The pooled grid, and the mean token that a Florence-2 tower puts before it.
    assert encoder.encode(frames(2), CONTEXTS[:2]).values.shape == (2, 1 + 1, 4)

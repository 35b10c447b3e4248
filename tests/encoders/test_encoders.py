"""Encoders on frames, states and labels whose tokens can be computed by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
import small_weights
import torch
from pydantic import ValidationError

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.core.types import Hidden, Tokens
from pr2l.encoders import answer_action, image_only, oracle, pixels, prompted
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.pca import PCA
from pr2l.vlms.base import Defaults

SIZE, IMAGE, NEW = 6, 16, 2
CONTEXTS = [{"target": "imp"}, {"target": "green armor"}]
WHERE = Prompt(name="test", text="where is {target}", slots=("target",), why="", source="")


class FakeVLM:
    """A VLM whose states are 1000 * layer + 100 * segment + position + brightness.

    Every word is a token, so prompts differ in length and the shorter one is padded.
    """

    hidden_size, vision_size = SIZE, SIZE
    special_tokens = ("<image>", "</s>")

    def __init__(self, options):
        self.options, self.layers = options, len(options.layers)
        self.new_tokens = 0 if options.generation == "none" else options.new_tokens
        self.vision_length = IMAGE

    def image_length(self):
        return IMAGE

    def grids(self, prompt):
        return [IMAGE]

    def prompt_length(self, texts):
        return max(len(text.split()) for text in texts)

    def hidden(self, frames, texts, prompt_tokens=None):
        lengths = {"image": IMAGE, "prompt": prompt_tokens, "generated": self.new_tokens}
        positions = torch.cat([100.0 * s + torch.arange(n) for s, n in enumerate(lengths.values())])
        brightness = torch.from_numpy(frames.mean(axis=(1, 2, 3))).float()
        states = 1000.0 * torch.arange(self.layers)[None, :, None] + positions + brightness[:, None, None]
        mask = torch.ones(len(frames), len(positions), dtype=torch.bool)
        for row, text in enumerate(texts):
            mask[row, IMAGE + len(text.split()) : IMAGE + prompt_tokens] = False
        starts = np.cumsum([0, *lengths.values()])
        spans = {name: slice(*starts[i : i + 2]) for i, name in enumerate(lengths)}
        return Hidden(states[..., None].repeat(1, 1, 1, SIZE), mask, spans, [f"say {text}" for text in texts])

    def vision(self, frames):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(IMAGE, SIZE, generator=generator) * torch.from_numpy(frames[:, :1, 0, :1]).float()
        return Tokens(values, torch.ones(len(frames), IMAGE, dtype=torch.bool))


@dataclass(frozen=True)
class FakeSource(EncoderSource):
    def load_vlm(self):
        return FakeVLM(self.vlm_options)


def source(prompt=WHERE, generation="greedy", layers=(-2, -1)):
    options = Defaults(layers=layers, generation=generation, new_tokens=NEW)
    return FakeSource("known", options, prompt, CONTEXTS, (4, 8, 3), ("imp", "armor"))


def frames(rows=2, value=0):
    return np.full((rows, 4, 8, 3), value, np.uint8)


def encode(options, **source_options):
    encoder = prompted.create(source(**source_options), prompted.Defaults(**options))
    return encoder, encoder.encode(frames(), CONTEXTS)


def test_prompted_joins_segments_and_layers():
    encoder, tokens = encode({})
    positions = [*range(16), 100, 101, 102, 103, 200, 201]
    assert (encoder.tokens, encoder.width) == (22, 2 * SIZE)
    assert tokens.values.shape == (2, 22, 12)
    assert tokens.values[0, :, 0].tolist() == positions
    assert tokens.values[0, :, -1].tolist() == [1000 + position for position in positions]
    assert encoder.answers() == ["say where is imp", "say where is green armor"]


def test_prompted_masks_padding():
    _, tokens = encode({})
    assert tokens.mask.sum(dim=1).tolist() == [21, 22]
    assert not tokens.mask[0, IMAGE + 3]


def test_layer_join_tokens():
    encoder, tokens = encode({"layer_join": "tokens", "segments": ("prompt",)})
    assert (encoder.tokens, encoder.width) == (8, SIZE)
    assert tokens.values[0, :, 0].tolist() == [100, 101, 102, 103, 1100, 1101, 1102, 1103]
    assert tokens.mask.tolist() == [[True, True, True, False] * 2, [True] * 8]


def test_image_tokens_averages_quarters_of_the_grid():
    """A 4 x 4 grid numbered by rows: the upper left quarter is 0, 1, 4, 5."""
    encoder, tokens = encode({"image_tokens": 4, "segments": ("image",)})
    assert encoder.tokens == 4
    assert tokens.values[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize(
    ("options", "source_options", "length"),
    [
        ({"segments": ("prompt", "generated")}, {}, 6),  # without image tokens
        ({}, {"generation": "none"}, 20),  # without generation
        ({}, {"prompt": None}, 18),  # without a prompt
        ({}, {"prompt": WHERE.model_copy(update={"text": "a {target} is red . where is {target}"})}, 28),
    ],
)
def test_number_of_tokens(options, source_options, length):
    encoder, tokens = encode(options, **source_options)
    assert encoder.tokens == tokens.values.shape[1] == length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_tokens": 5}, "1, 4, 9, 16 or null"),
        ({"image_tokens": 25}, "1, 4, 9, 16 or null"),
        ({"segments": ()}, "at least one segment"),
        ({"pca": 7}, "pca=7, .*use 1 to 6"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        encode(options)


def test_token_before_the_grid_is_not_pooled(monkeypatch):
    """Florence-2's first image token is the mean of the picture; the grid of tokens 1 to 16 is pooled."""
    monkeypatch.setattr("test_encoders.IMAGE", 17)
    encoder, tokens = encode({"image_tokens": 4, "segments": ("image",)})
    assert encoder.tokens == 5
    assert tokens.values[0, :, 0].tolist() == [0, 3.5, 5.5, 11.5, 13.5]


def test_pooling_of_tokens_without_a_square_grid_is_refused(monkeypatch):
    monkeypatch.setattr("test_encoders.IMAGE", 18)
    with pytest.raises(UserError, match="18 image tokens"):
        encode({"image_tokens": 4})


@pytest.mark.parametrize("before", [0, 1])
def test_grid_that_is_not_square_is_pooled_to_rows_and_columns(monkeypatch, before):
    """Four rows of eight tokens; each pooled one is the mean of two by two. A token before the grid is left out."""
    monkeypatch.setattr("test_encoders.IMAGE", 32 + before)
    encoder, tokens = encode({"image_tokens": [2, 4], "segments": ("image",)})
    assert encoder.tokens == 8
    values = [before + 4.5 + 2 * column + 16 * row for row in range(2) for column in range(4)]
    assert tokens.values[0, :, 0].tolist() == values


@pytest.mark.parametrize("shape", [[3, 4], [4, 2, 1], [0, 4], [8, 8]])
def test_rows_and_columns_that_do_not_divide_the_grid_are_refused(monkeypatch, shape):
    monkeypatch.setattr("test_encoders.IMAGE", 32)
    with pytest.raises((UserError, ValueError), match="image_tokens"):
        encode({"image_tokens": shape})


def test_image_only_pools_vision_tokens():
    encoder = image_only.create(source(prompt=None), image_only.Defaults(image_tokens=4))
    tokens = encoder.encode(frames(value=2), CONTEXTS)
    full = source().load_vlm().vision(frames(value=2)).values.reshape(2, 4, 4, SIZE)
    assert (encoder.tokens, encoder.width) == (4, SIZE)
    assert torch.allclose(tokens.values[:, 1], full[:, :2, 2:].mean(dim=(1, 2)))
    assert encoder.answers() == []


def random_states(rows=40, layers=2, tokens=5, size=6):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, layers, tokens, size, generator=generator) @ torch.diag(torch.arange(1.0, 7.0))
    states[:, 1] = 100 * states[:, 1] + 7
    mask = torch.rand(rows, tokens, generator=generator) < 0.8
    return states, mask


def test_pca_equals_svd():
    states, mask = random_states()
    pca = PCA(components=3, layers=2, width=6)
    for rows in (slice(0, 7), slice(7, 40)):  # in batches
        pca.update(states[rows], mask[rows])
    pca.finish()
    for layer in range(2):
        tokens = states[:, layer][mask].double()
        centred = tokens - tokens.mean(dim=0)
        components = torch.linalg.svd(centred, full_matrices=False)[2][:3]
        expected = centred @ components.T
        transformed = pca.transform(states)[:, layer][mask].double()
        signs = (expected * transformed).sum(dim=0).sign()
        assert torch.allclose(transformed, expected * signs, atol=1e-3 * 100**layer)


def test_pca_ignores_padding():
    states, mask = random_states()
    with_garbage = torch.where(mask[:, None, :, None], states, torch.tensor(1e6))
    bases = []
    for padded_states in (states, with_garbage):
        pca = PCA(components=3, layers=2, width=6)
        pca.update(padded_states, mask)
        pca.finish()
        bases.append(pca.basis)
    assert torch.equal(*bases)


def test_state_dict_restores_a_fitted_encoder():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 4, 8, 3), dtype=np.uint8)
    options = image_only.Defaults(pca=2, pca_frames=40)
    first, second = (image_only.create(source(), options) for _ in range(2))
    assert (first.width, first.fit_frames) == (2, 40)
    first.fit(pictures, CONTEXTS * 20)
    second.load_state_dict(first.state_dict())
    ours, theirs = (encoder.encode(pictures[:3], CONTEXTS) for encoder in (first, second))
    assert ours.values.shape == (3, IMAGE, 2)
    assert torch.equal(ours.values, theirs.values)
    assert ours.values.abs().max() > 1


def test_pca_with_too_few_tokens_is_refused():
    pca = PCA(components=3, layers=1, width=6)
    pca.update(torch.ones(1, 1, 2, 6), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(UserError, match="3 components.* 2"):
        pca.finish()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_pca_refuses_values_that_are_not_finite(value):
    states, mask = random_states()
    states[3, 1, 2], mask[3] = value, True
    pca = PCA(components=3, layers=2, width=6)
    pca.update(states[:3], mask[:3])
    with pytest.raises(UserError, match=r"1 of \d+ numbers .* layer number 1 of vlm_options.layers.*dtype=float32"):
        pca.update(states, mask)
    mask[3, 2] = False  # padding may contain anything
    pca.update(states, mask)
    pca.finish()
    assert pca.basis.isfinite().all()


def test_encoder_without_fit_has_no_state():
    encoder = pixels.create(source(), pixels.Defaults())
    assert encoder.state_dict() == {} and encoder.metrics() == {}
    encoder.load_state_dict({})
    with pytest.raises(ValueError, match="basis"):
        encoder.load_state_dict({"basis": torch.zeros(1)})


def test_pixels_are_rows_of_rgb_values():
    encoder = pixels.create(source(), pixels.Defaults(size=2))
    frame = frames(rows=1)
    frame[0, :2, 4:] = (255, 0, 51)  # the upper right quarter
    tokens = encoder.encode(frame, CONTEXTS[:1])
    assert (encoder.tokens, encoder.width) == (2, 6)
    expected = torch.tensor([[[0, 0, 0, 1, 0, 0.2], [0, 0, 0, 0, 0, 0]]])
    assert torch.allclose(tokens.values, expected)
    assert tokens.mask.all()


def test_oracle_encodes_the_nearest_objects():
    encoder = oracle.create(source(), oracle.Defaults(objects=2, distance_unit=100))
    labels = [
        {"name": "imp", "box": (0, 0, 8, 4), "distance": 300.0},
        {"name": "blood", "box": (0, 0, 1, 1), "distance": 1.0},
        {"name": "armor", "box": (4, 1, 6, 3), "distance": 50.0},
        {"name": "imp", "box": (0, 0, 2, 2), "distance": 200.0},
    ]
    tokens = encoder.encode(frames(), [{"target": "imp"}, {"target": "armor"}], [labels, labels[:1]])
    assert encoder.needs_labels and encoder.width == 8
    armor, imp = [0, 1, 5 / 8, 0.5, 0.25, 0.5, 0.5, 0], [1, 0, 1 / 8, 0.25, 0.25, 0.5, 2, 1]
    assert torch.allclose(tokens.values[0], torch.tensor([armor, imp], dtype=torch.float32))
    assert tokens.mask.tolist() == [[True, True], [True, False]]
    assert tokens.values[1, 0, -1] == 0  # its context names another object
    assert oracle.create(source(), oracle.Defaults(named=False)).width == 7


def test_oracle_without_labels_is_refused():
    with pytest.raises(ValueError, match="labels=True"):
        oracle.create(source(), oracle.Defaults()).encode(frames(), CONTEXTS)


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("far left", 0),
        ("Turn right, not left.", 1),
        ("a leftover", None),  # inside another word
        ("walk on: ahead", 2),
        ("forward", 2),
        ("nowhere", None),
        ("", None),
        ("go up", 3),
        ("go up the stairs", 4),  # starts at the same position as "go up" and is longer
    ],
)
def test_find_action_takes_the_action_whose_word_is_first(answer, action):
    actions = (("left",), ("right",), ("ahead", "forward"), ("go up",), ("go up the stairs",), ())
    assert answer_action.find_action(answer, actions) == action


def test_empty_action_words_are_refused():
    with pytest.raises(ValidationError, match="at least 1 character"):
        answer_action.Defaults(actions=(("left",), ("",)))


@pytest.mark.parametrize("module", [prompted, image_only])
def test_pca_frames_must_be_positive(module):
    with pytest.raises(ValidationError, match="greater than 0"):
        module.Defaults(pca=4, pca_frames=0)


def test_answer_action_is_one_hot_or_padding():
    options = answer_action.Defaults(actions=(("demon",), ("imp",)))  # FakeVLM answers "say where is <target>"
    encoder = answer_action.create(source(), options)
    tokens = encoder.encode(frames(), CONTEXTS)
    assert tokens.values.tolist() == [[[0, 1]], [[0, 0]]]
    assert tokens.mask.tolist() == [[True], [False]]
    assert encoder.answers() == ["say where is imp", "say where is green armor"]


@pytest.mark.parametrize("name", registry.names("encoders"))
def test_every_encoder_has_the_right_shape_and_independent_rows(name, tmp_path):
    """Its values are also in the range of float16."""
    module = registry.load("encoders", name)
    encoder = module.create(source(), module.Defaults(**small_weights.options(name, tmp_path)))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 3), dtype=np.uint8)
    tokens = encoder.encode(pictures, [CONTEXTS[0]] * 3, [[]] * 3)
    assert tokens.values.shape == (3, encoder.tokens, encoder.width)
    assert tokens.mask.shape == (3, encoder.tokens)
    assert tokens.values.abs().max() < 60_000
    single = encoder.encode(pictures[1:2], CONTEXTS[:1], [[]])
    assert torch.equal(single.mask[0], tokens.mask[1])
    assert torch.allclose(single.values[0], tokens.values[1], atol=1e-4)

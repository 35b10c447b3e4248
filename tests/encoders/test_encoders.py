"""Encoders on frames, states and labels whose tokens can be worked out by hand."""

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


class KnownVLM:
    """Every entry of every state says what it is: 1000 * layer + 100 * segment + position + brightness.

    Words are tokens, so prompts differ in length and the shorter one is padded.
    """

    hidden_size, vision_size = SIZE, SIZE
    special_tokens = ("<image>", "</s>")

    def __init__(self, options):
        self.options, self.layers = options, len(options.layers)
        self.new_tokens = 0 if options.generation == "none" else options.new_tokens
        self.vision_length = IMAGE

    def image_length(self):
        return IMAGE

    def prompt_length(self, texts):
        return max(len(text.split()) for text in texts)

    def hidden(self, frames, texts, prompt_tokens=None):
        lengths = {"image": IMAGE, "prompt": prompt_tokens, "generated": self.new_tokens}
        places = torch.cat([100.0 * s + torch.arange(n) for s, n in enumerate(lengths.values())])
        bright = torch.from_numpy(frames.mean(axis=(1, 2, 3))).float()
        states = 1000.0 * torch.arange(self.layers)[None, :, None] + places + bright[:, None, None]
        mask = torch.ones(len(frames), len(places), dtype=torch.bool)
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
class KnownSource(EncoderSource):
    def load_vlm(self):
        return KnownVLM(self.vlm_options)


def source(prompt=WHERE, generation="greedy", layers=(-2, -1)):
    options = Defaults(layers=layers, generation=generation, new_tokens=NEW)
    return KnownSource("known", options, prompt, CONTEXTS, (4, 8, 3), ("imp", "armor"))


def frames(rows=2, value=0):
    return np.full((rows, 4, 8, 3), value, np.uint8)


def encode(options, **where):
    encoder = prompted.create(source(**where), prompted.Defaults(**options))
    return encoder, encoder.encode(frames(), CONTEXTS)


def test_prompted_joins_segments_in_order_and_layers_side_by_side():
    encoder, tokens = encode({})
    places = [*range(16), 100, 101, 102, 103, 200, 201]
    assert (encoder.tokens, encoder.width) == (22, 2 * SIZE)
    assert tokens.values.shape == (2, 22, 12)
    assert tokens.values[0, :, 0].tolist() == places
    assert tokens.values[0, :, -1].tolist() == [1000 + place for place in places]
    assert encoder.answers() == ["say where is imp", "say where is green armor"]


def test_prompted_masks_the_padding_of_the_shorter_prompt():
    _, tokens = encode({})
    assert tokens.mask.sum(dim=1).tolist() == [21, 22]
    assert not tokens.mask[0, IMAGE + 3]


def test_layers_as_tokens():
    encoder, tokens = encode({"layer_join": "tokens", "segments": ("prompt",)})
    assert (encoder.tokens, encoder.width) == (8, SIZE)
    assert tokens.values[0, :, 0].tolist() == [100, 101, 102, 103, 1100, 1101, 1102, 1103]
    assert tokens.mask.tolist() == [[True, True, True, False] * 2, [True] * 8]


def test_image_pooling_averages_neighbours_of_the_grid():
    """A 4 x 4 grid numbered by rows: the upper left quarter is 0, 1, 4, 5."""
    encoder, tokens = encode({"image_tokens": 4, "segments": ("image",)})
    assert encoder.tokens == 4
    assert tokens.values[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize(
    ("options", "where", "length"),
    [
        ({"segments": ("prompt", "generated")}, {}, 6),  # without image tokens
        ({}, {"generation": "none"}, 20),  # without generation
        ({}, {"prompt": None}, 18),  # without a prompt
        ({}, {"prompt": WHERE.model_copy(update={"text": "a {target} is red . where is {target}"})}, 28),
    ],
)
def test_ablations_are_options(options, where, length):
    encoder, tokens = encode(options, **where)
    assert encoder.tokens == tokens.values.shape[1] == length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_tokens": 5}, "must be one of 1, 4, 9, 16 or null"),
        ({"image_tokens": 25}, "must be one of 1, 4, 9, 16 or null"),
        ({"segments": ()}, "name at least one segment"),
        ({"pca": 7}, "pca=7 components of tokens 6 wide; use 1 to 6"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        encode(options)


def test_a_token_before_the_grid_stays(monkeypatch):
    """Florence-2's first image token is the mean of the picture; the grid of tokens 1 to 16 is pooled."""
    monkeypatch.setattr("test_encoders.IMAGE", 17)
    encoder, tokens = encode({"image_tokens": 4, "segments": ("image",)})
    assert encoder.tokens == 5
    assert tokens.values[0, :, 0].tolist() == [0, 3.5, 5.5, 11.5, 13.5]


def test_tokens_that_form_no_square_cannot_be_pooled(monkeypatch):
    monkeypatch.setattr("test_encoders.IMAGE", 18)
    with pytest.raises(UserError, match="18 image tokens are no square grid"):
        encode({"image_tokens": 4})


def test_image_only_sees_no_prompt_and_pools():
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


def test_pca_equals_an_exact_svd():
    states, mask = random_states()
    pca = PCA(components=3, layers=2, width=6)
    for rows in (slice(0, 7), slice(7, 40)):  # batches do not matter
        pca.update(states[rows], mask[rows])
    pca.finish()
    for layer in range(2):
        tokens = states[:, layer][mask].double()
        centred = tokens - tokens.mean(dim=0)
        right = torch.linalg.svd(centred, full_matrices=False)[2][:3]
        expected = centred @ right.T
        given = pca.transform(states)[:, layer][mask].double()
        signs = (expected * given).sum(dim=0).sign()
        assert torch.allclose(given, expected * signs, atol=1e-3 * 100**layer)


def test_pca_ignores_padding():
    states, mask = random_states()
    dirty = torch.where(mask[:, None, :, None], states, torch.tensor(1e6))
    bases = []
    for each in (states, dirty):
        pca = PCA(components=3, layers=2, width=6)
        pca.update(each, mask)
        pca.finish()
        bases.append(pca.basis)
    assert torch.equal(*bases)


def test_a_fitted_encoder_comes_back_from_its_state():
    generator = np.random.default_rng(0)
    many = generator.integers(0, 256, (40, 4, 8, 3), dtype=np.uint8)
    options = image_only.Defaults(pca=2, pca_frames=40)
    first, second = (image_only.create(source(), options) for _ in range(2))
    assert (first.width, first.fit_frames) == (2, 40)
    first.fit(many, CONTEXTS * 20)
    second.load_state_dict(first.state_dict())
    ours, theirs = (encoder.encode(many[:3], CONTEXTS) for encoder in (first, second))
    assert ours.values.shape == (3, IMAGE, 2)
    assert torch.equal(ours.values, theirs.values)
    assert ours.values.abs().max() > 1


def test_a_pca_needs_as_many_tokens_as_components():
    pca = PCA(components=3, layers=1, width=6)
    pca.update(torch.ones(1, 1, 2, 6), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(UserError, match="with 3 components needs as many tokens; it saw 2"):
        pca.finish()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_pca_is_not_fitted_on_values_that_are_not_finite(value):
    states, mask = random_states()
    states[3, 1, 2], mask[3] = value, True
    pca = PCA(components=3, layers=2, width=6)
    pca.update(states[:3], mask[:3])
    with pytest.raises(UserError, match=r"1 of \d+ states .* layer number 1 of vlm_options.layers.*dtype=float32"):
        pca.update(states, mask)
    mask[3, 2] = False  # padding may hold anything
    pca.update(states, mask)
    pca.finish()
    assert pca.basis.isfinite().all()


def test_pixels_are_rows_of_rgb_from_0_to_1():
    encoder = pixels.create(source(), pixels.Defaults(size=2))
    frame = frames(rows=1)
    frame[0, :2, 4:] = (255, 0, 51)  # the upper right quarter
    tokens = encoder.encode(frame, CONTEXTS[:1])
    assert (encoder.tokens, encoder.width) == (2, 6)
    expected = torch.tensor([[[0, 0, 0, 1, 0, 0.2], [0, 0, 0, 0, 0, 0]]])
    assert torch.allclose(tokens.values, expected)
    assert tokens.mask.all()


def test_oracle_keeps_the_nearest_known_objects():
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
    assert tokens.values[1, 0, -1] == 0  # there the context names something else
    plain = oracle.create(source(), oracle.Defaults(named=False))
    assert plain.width == 7


def test_oracle_without_labels_says_how_to_get_them():
    with pytest.raises(ValueError, match="labels=True"):
        oracle.create(source(), oracle.Defaults()).encode(frames(), CONTEXTS)


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("far left", 0),
        ("Turn right, not left.", 1),
        ("a leftover", None),  # the word inside another
        ("walk on: ahead", 2),
        ("forward", 2),
        ("nowhere", None),
        ("", None),
        ("go up", 3),
        ("go up the stairs", 4),  # begins where "go up" does, and is longer
    ],
)
def test_an_answer_names_the_action_whose_word_comes_first(answer, action):
    actions = (("left",), ("right",), ("ahead", "forward"), ("go up",), ("go up the stairs",), ())
    assert answer_action.find_action(answer, actions) == action


def test_an_empty_word_names_nothing():
    with pytest.raises(ValidationError, match="at least 1 character"):
        answer_action.Defaults(actions=(("left",), ("",)))


@pytest.mark.parametrize("module", [prompted, image_only])
def test_a_pca_is_fitted_on_some_frames(module):
    with pytest.raises(ValidationError, match="greater than 0"):
        module.Defaults(pca=4, pca_frames=0)


def test_the_action_that_is_named_is_one_hot_and_none_is_padding():
    options = answer_action.Defaults(actions=(("demon",), ("imp",)))  # KnownVLM answers "say where is <target>"
    encoder = answer_action.create(source(), options)
    tokens = encoder.encode(frames(), CONTEXTS)
    assert tokens.values.tolist() == [[[0, 1]], [[0, 0]]]
    assert tokens.mask.tolist() == [[True], [False]]
    assert encoder.answers() == ["say where is imp", "say where is green armor"]


@pytest.mark.parametrize("name", registry.names("encoders"))
def test_every_encoder_keeps_its_promises(name, tmp_path):
    """Its shape, rows that do not depend on their neighbours, and numbers that half precision can hold."""
    module = registry.load("encoders", name)
    encoder = module.create(source(), module.Defaults(**small_weights.options(name, tmp_path)))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 3), dtype=np.uint8)
    tokens = encoder.encode(pictures, [CONTEXTS[0]] * 3, [[]] * 3)
    assert tokens.values.shape == (3, encoder.tokens, encoder.width)
    assert tokens.mask.shape == (3, encoder.tokens)
    assert tokens.values.abs().max() < 60_000
    alone = encoder.encode(pictures[1:2], CONTEXTS[:1], [[]])
    assert torch.equal(alone.mask[0], tokens.mask[1])
    assert torch.allclose(alone.values[0], tokens.values[1], atol=1e-4)

"""Encoders that could give other tokens have other keys; those that could not, and differ in name only, the same."""

import json
import shutil
from functools import lru_cache
from types import SimpleNamespace

import huggingface_hub.constants
import numpy as np
import pytest
import small_weights
import torch
from safetensors.torch import load_file, save_file
from test_families import CASES, folder

from pr2l.core import registry
from pr2l.core.prompt import Prompt
from pr2l.encoders import oracle, prompted
from pr2l.encoders.base import EncoderSource
from pr2l.pretraining import architecture as scratch
from pr2l.vlms import checkpoint as checkpoints
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

CONTEXTS = [{"target": "imp"}, {"target": "green armor"}]
WHERE = Prompt(name="test", text="where is the {target}", slots=("target",), why="", source="")

# Another value for each option of each encoder; small ones, as they are made on a small VLM.
ENCODER_OPTIONS = {
    "prompted": {
        "max_prompt_tokens": 40,
        "segments": ("image",),
        "image_tokens": 1,
        "pca": 4,
        "pca_frames": 7,
        "layer_join": "tokens",
    },
    "image_only": {"image_tokens": 1, "pca": 4, "pca_frames": 7},
    "oracle": {"objects": 3, "named": False, "distance_unit": 7.0},
    "pixels": {"size": 7},
    "random_features": {"seed": 1, "size": 16, "channels": (8, 8)},
    "answer_text": {"max_prompt_tokens": 40},
    "answer_action": {"max_prompt_tokens": 40, "actions": (("up",), ("down",))},
    "mineclip": {"tokens": "all", "video": True},
    **dict.fromkeys(
        ("clip", "siglip", "dinov2", "dinov3", "resnet50", "vc1", "r3m"), {"tokens": "mean", "image_tokens": 1}
    ),
}
VLM_OPTIONS = {
    "layers": (-1,),
    "generation": "sample",
    "new_tokens": 3,
    "min_new_tokens": 1,
    "temperature": 0.5,
    "seed": 1,
    "image_size": 32,
    "chat_template": False,
    "aspect": "letterbox",
    "dtype": "bfloat16",
    "random_weights": 0,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlms") / "small"
    sizes = scratch.Architecture(image_size=64, tower_widths=(32, 64), tower_depths=(1, 1), width=32)
    scratch.build(sizes, ["where", "is", "the", "imp", "green", "armor"], folder, seed=0)
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    """The same checkpoint elsewhere, for a test to change."""
    return shutil.copytree(checkpoint, tmp_path / "small")


load_once = lru_cache(load_vlm)


class Source(EncoderSource):
    def load_vlm(self):
        return load_once(self.vlm, self.vlm_options)


def source(vlm, prompt=WHERE, **options):
    return Source(str(vlm), Defaults(**options), prompt, CONTEXTS, (24, 32, 3), ("imp", "armor"))


def key(name, source, **options):
    module = registry.load("encoders", name)
    return module.create(source, module.Defaults(**options)).key()


@pytest.mark.parametrize("name", registry.names("encoders"))
def test_every_option_of_an_encoder_is_in_its_key(name, checkpoint, tmp_path):
    plain, varied = {}, ENCODER_OPTIONS[name]
    if hasattr(small_weights, name):
        folders = [tmp_path / "one", tmp_path / "other"]
        for folder in folders:
            folder.mkdir()
        plain, other = (small_weights.options(name, folder, seed) for seed, folder in enumerate(folders))
        varied = varied | other
    assert set(varied) == set(registry.load("encoders", name).Defaults.model_fields), "give a value for the new option"
    changes = [{}, *({option: value} for option, value in varied.items())]
    keys = [key(name, source(checkpoint), **plain | change) for change in changes]
    # pca_frames alone changes nothing; all the others must be told apart, and it does no harm.
    assert len({json.dumps(each, sort_keys=True) for each in keys}) == len(keys)
    assert all(json.loads(json.dumps(each)) == each for each in keys)
    assert keys[0] == key(name, source(checkpoint), **plain)


def test_every_option_of_the_vlm_is_in_its_key(checkpoint):
    sources = [source(checkpoint, **{option: value}) for option, value in VLM_OPTIONS.items()]
    keys = [each.load_vlm().key() for each in (*sources, source(checkpoint))]
    assert len({json.dumps(each, sort_keys=True) for each in keys}) == len(keys)
    # A server shows as "backend" (tests/vlms/test_vllm.py); random_weights, aspect and frame_size are left out at their
    # defaults, so that embeddings from before these options are found; the others change no states.
    unnamed = {"device", "disable", "compile", "server", "random_weights", "aspect", "frame_size"}
    assert set(Defaults.model_fields) - unnamed <= set(keys[0])


def test_levers_change_no_key_and_int8_does(checkpoint):
    plain, pulled, rounded = (
        source(checkpoint, **options).load_vlm().key()
        for options in ({}, {"disable": ("own_passes",)}, {"dtype": "int8"})
    )
    assert plain == pulled
    assert {name for name in plain if plain[name] != rounded[name]} == {"dtype"}


@pytest.mark.parametrize("name", ["prompted", "image_only"])
def test_the_key_of_the_vlm_is_in_that_of_its_encoder(name, checkpoint):
    assert key(name, source(checkpoint))["vlm"] == source(checkpoint).load_vlm().key()


def test_the_token_order_is_in_the_key():
    llava = next(case for case in CASES if case.name == "llava")
    first, second = (
        load_vlm(str(folder(llava)), Defaults(token_order=order)).key() for order in ("image_first", "text_first")
    )
    assert {name for name in first if first[name] != second[name]} == {"token_order"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is another precision on a GPU")
def test_options_left_to_the_checkpoint_are_in_the_key_as_they_came_out(checkpoint):
    assert key("prompted", source(checkpoint)) == key(
        "prompted", source(checkpoint, dtype="float32", image_size=64, device="cpu")
    )


def test_the_prompts_text_is_in_the_key_and_its_name_is_not(checkpoint):
    renamed, reworded = (WHERE.model_copy(update=update) for update in ({"name": "other", "why": "x"}, {"text": "is"}))
    named, asked, none = (key("prompted", source(checkpoint, prompt)) for prompt in (renamed, reworded, None))
    assert named == key("prompted", source(checkpoint))
    assert len({each["prompt"] for each in (named, asked, none)}) == 3


def test_which_end_of_a_value_is_kept_is_in_the_key_where_a_prompt_may_be_truncated(checkpoint):
    prompts = [WHERE, WHERE.model_copy(update={"keep_end": ("target",)})]
    assert len({str(key("prompted", source(checkpoint, prompt))) for prompt in prompts}) == 1
    assert len({str(key("prompted", source(checkpoint, prompt), max_prompt_tokens=9)) for prompt in prompts}) == 2


def test_the_weights_are_in_the_key_and_their_place_is_not(checkpoint, copy):
    weights = load_file(copy / "model.safetensors")
    here = source(checkpoint).load_vlm().key()
    assert checkpoints.source(str(copy)) == {"name": "small", "revision": here["revision"]}
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert source(copy).load_vlm().key()["revision"] != here["revision"]


@pytest.mark.parametrize("file", ["preprocessor_config.json", "tokenizer.json", "generation_config.json"])
def test_what_stands_beside_the_weights_is_in_the_key(copy, file):
    before = checkpoints.source(str(copy))
    (copy / "README.md").write_text("nothing that a model reads")
    assert checkpoints.source(str(copy)) == before
    (copy / file).write_text((copy / file).read_text() + " ")
    assert checkpoints.source(str(copy)) != before


def test_the_embedded_vlm_is_known_by_its_name_and_digest():
    """It is pinned: with another digest, embeddings that were stored before would not be found."""
    found = load_vlm("tiny").key()
    assert (found["name"], found["revision"]) == ("tiny", "sha256 73298c09b1b222c3")


def test_a_hub_model_is_known_by_its_commit(checkpoint, tmp_path, monkeypatch):
    """A cache as `hf download someone/small` leaves it."""
    commit = "0123456789" * 4
    cache = tmp_path / "models--someone--small"
    shutil.copytree(checkpoint, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = load_vlm("someone/small").key()
    assert (found["name"], found["revision"]) == ("someone/small", f"commit {commit}")


def test_a_fitted_pca_is_in_the_key(checkpoint):
    def fitted(seed):
        encoder = prompted.create(source(checkpoint), prompted.Defaults(pca=4, pca_frames=6))
        frames = np.random.default_rng(seed).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
        encoder.fit(frames, CONTEXTS * 3)
        return encoder

    one, same, other = fitted(0), fitted(0), fitted(1)
    assert one.key() == same.key()
    assert one.key()["fitted"] != other.key()["fitted"]
    other.load_state_dict(one.state_dict())
    assert one.key() == other.key()


def test_the_oracle_goes_by_the_kinds_and_the_frame_too():
    changes = [{}, {"kinds": ("armor", "imp")}, {"frame_shape": (24, 33, 3)}, {"frame_shape": (25, 32, 3)}]
    plain = {"kinds": ("imp", "armor"), "frame_shape": (24, 32, 3)}
    keys = [oracle.create(SimpleNamespace(**plain | change), oracle.Defaults()).key() for change in changes]
    assert len({json.dumps(each) for each in keys}) == 4

"""Keys of encoders and VLMs differ if and only if their tokens can differ."""

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
from small_vlms import CASE, load

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

# A value other than the default for each option of each encoder; small, because the VLM is small.
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
    "dom": {"rows": 3, "columns": 4, "words": 7},
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
    "special_tokens": "control",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlms") / "small"
    sizes = scratch.Architecture(image_size=64, tower_widths=(32, 64), tower_depths=(1, 1), width=32)
    scratch.build(sizes, ["where", "is", "the", "imp", "green", "armor"], folder, seed=0)
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    """Return a copy of the checkpoint that a test may change."""
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
    assert set(varied) == set(registry.load("encoders", name).Defaults.model_fields), "add a value for the new option"
    changes = [{}, *({option: value} for option, value in varied.items())]
    keys = [key(name, source(checkpoint), **plain | change) for change in changes]
    # pca_frames without pca changes no tokens, but is in the key too.
    assert len({json.dumps(value, sort_keys=True) for value in keys}) == len(keys)
    assert all(json.loads(json.dumps(value)) == value for value in keys)
    assert keys[0] == key(name, source(checkpoint), **plain)


def test_every_option_of_the_vlm_is_in_its_key(checkpoint):
    sources = [source(checkpoint, **{option: value}) for option, value in VLM_OPTIONS.items()]
    keys = [vlm_source.load_vlm().key() for vlm_source in (*sources, source(checkpoint))]
    assert len({json.dumps(value, sort_keys=True) for value in keys}) == len(keys)
    # A server appears as "backend" (tests/vlms/test_vllm.py). The defaults of the newer options are left out, so that
    # embeddings stored before these options existed are found. The others change no states.
    newer = {"random_weights", "aspect", "frame_size", "special_tokens"}
    unnamed = {"device", "disable", "compile", "server"} | newer
    assert set(Defaults.model_fields) - unnamed <= set(keys[0])


def test_optimizations_do_not_change_the_key_and_int8_does(checkpoint):
    default, without_passes, int8 = (
        source(checkpoint, **options).load_vlm().key()
        for options in ({}, {"disable": ("own_passes",)}, {"dtype": "int8"})
    )
    assert default == without_passes
    assert {name for name in default if default[name] != int8[name]} == {"dtype"}


@pytest.mark.parametrize("name", ["prompted", "image_only"])
def test_key_of_an_encoder_contains_the_key_of_its_vlm(name, checkpoint):
    assert key(name, source(checkpoint))["vlm"] == source(checkpoint).load_vlm().key()


def test_token_order_is_in_the_key():
    first, second = (load(CASE["llava"], token_order=order).key() for order in ("image_first", "text_first"))
    assert {name for name in first if first[name] != second[name]} == {"token_order"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is another precision on a GPU")
def test_automatic_options_are_in_the_key_with_their_values(checkpoint):
    assert key("prompted", source(checkpoint)) == key(
        "prompted", source(checkpoint, dtype="float32", image_size=64, device="cpu")
    )


def test_text_of_the_prompt_is_in_the_key_but_not_its_name(checkpoint):
    renamed, reworded = (WHERE.model_copy(update=update) for update in ({"name": "other", "why": "x"}, {"text": "is"}))
    other_name, other_text, no_prompt = (
        key("prompted", source(checkpoint, prompt)) for prompt in (renamed, reworded, None)
    )
    assert other_name == key("prompted", source(checkpoint))
    assert len({value["prompt"] for value in (other_name, other_text, no_prompt)}) == 3


def test_key_of_a_prompt_with_special_tokens_says_that_they_are_text(checkpoint):
    prompt = WHERE.model_copy(update={"text": "where is </s> the {target}"})
    assert key("prompted", source(checkpoint, prompt))["special_tokens"] == "text"
    control = key("prompted", source(checkpoint, prompt, special_tokens="control"))
    for other in (control, key("prompted", source(checkpoint))):
        assert "special_tokens" not in other
    assert control["vlm"]["special_tokens"] == "control"


def test_keep_end_is_in_the_key_if_prompts_may_be_truncated(checkpoint):
    prompts = [WHERE, WHERE.model_copy(update={"keep_end": ("target",)})]
    assert len({str(key("prompted", source(checkpoint, prompt))) for prompt in prompts}) == 1
    assert len({str(key("prompted", source(checkpoint, prompt), max_prompt_tokens=9)) for prompt in prompts}) == 2


def test_weights_are_in_the_key_but_not_their_path(checkpoint, copy):
    weights = load_file(copy / "model.safetensors")
    original = source(checkpoint).load_vlm().key()
    assert checkpoints.source(str(copy)) == {"name": "small", "revision": original["revision"]}
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert source(copy).load_vlm().key()["revision"] != original["revision"]


@pytest.mark.parametrize("file", ["preprocessor_config.json", "tokenizer.json", "generation_config.json"])
def test_files_beside_the_weights_are_in_the_key(copy, file):
    before = checkpoints.source(str(copy))
    (copy / "README.md").write_text("no model reads this")
    assert checkpoints.source(str(copy)) == before
    (copy / file).write_text((copy / file).read_text() + " ")
    assert checkpoints.source(str(copy)) != before


def test_key_of_tiny_contains_its_digest():
    """With another digest, embeddings that users stored would not be found."""
    key = load_vlm("tiny").key()
    assert (key["name"], key["revision"]) == ("tiny", "sha256 73298c09b1b222c3")


def test_key_of_a_hub_model_contains_its_commit(checkpoint, tmp_path, monkeypatch):
    """The cache is as `hf download someone/small` writes it."""
    commit = "0123456789" * 4
    cache = tmp_path / "models--someone--small"
    shutil.copytree(checkpoint, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    key = load_vlm("someone/small").key()
    assert (key["name"], key["revision"]) == ("someone/small", f"commit {commit}")


def test_fitted_pca_is_in_the_key(checkpoint):
    def fitted(seed):
        encoder = prompted.create(source(checkpoint), prompted.Defaults(pca=4, pca_frames=6))
        frames = np.random.default_rng(seed).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
        encoder.fit(frames, CONTEXTS * 3)
        return encoder

    first, same_seed, other_seed = fitted(0), fitted(0), fitted(1)
    assert first.key() == same_seed.key()
    assert first.key()["fitted"] != other_seed.key()["fitted"]
    other_seed.load_state_dict(first.state_dict())
    assert first.key() == other_seed.key()


def test_key_of_the_oracle_contains_kinds_and_frame_shape():
    changes = [{}, {"kinds": ("armor", "imp")}, {"frame_shape": (24, 33, 3)}, {"frame_shape": (25, 32, 3)}]
    defaults = {"kinds": ("imp", "armor"), "frame_shape": (24, 32, 3)}
    keys = [oracle.create(SimpleNamespace(**defaults | change), oracle.Defaults()).key() for change in changes]
    assert len({json.dumps(value) for value in keys}) == 4

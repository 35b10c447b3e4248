"""Runs of Prismatic's trainer: files, backbones in other folders or on the Hub, and prompt."""

import json
import os
import shutil

import huggingface_hub.constants
import pytest
import torch
from builders.prismatic import timm_features
from safetensors.torch import load_file, save_file
from small_vlms import CASE as CASES
from small_vlms import LAYERS, NEW_TOKENS, TEXTS, assert_close, folder, hidden, pictures, vlm

from pr2l.core.errors import UserError
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

CASE = CASES["prismatic"]
CHECKPOINT = "checkpoints/latest-checkpoint.pt"
DINO, SIGLIP, LLAMA = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224.webli", "Llama-2-7b-hf"
OPTIONS = Defaults(new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, layers=LAYERS)


@pytest.fixture
def run(tmp_path):
    """Return a copy of the run that a test may change."""
    return shutil.copytree(folder(CASE), tmp_path / "run")


def assert_equal_hidden(ours, theirs):
    assert ours.answers == theirs.answers and torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.states, theirs.states)


def test_layout_is_bos_image_prompt():
    model = vlm(CASE)
    ids = model.layout("  is it near ? ")
    assert ids[:17] == [model.tokenizer.bos_token_id, *[model.image_token_id] * 16]
    assert model.tokenizer.decode(ids[17:]) == "In: is it near ?\nOut:"
    assert model.image_token_id >= len(model.tokenizer)  # no text contains it
    assert model.tokenizer.decode(vlm(CASE, chat_template=False).layout("is it near ?")[17:]) == "is it near ?"


def test_vision_towers_run_without_their_last_block():
    """Features are those of the second-to-last block, of four and of three."""
    inner = vlm(CASE).model.model
    assert (len(inner.dino_tower.encoder.layer), len(inner.vision_tower.encoder.layers)) == (3, 2)


@pytest.mark.parametrize("tower", [DINO, SIGLIP])
def test_weights_after_the_second_to_last_block_are_not_used(run, tower):
    """Last block, final norm and pooling have no effect; the end of the second-to-last block has."""
    file = run / tower / "model.safetensors"
    weights = load_file(file)
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def vision_with_doubled(*prefixes):
        save_file({name: weight * (1 + name.startswith(prefixes)) for name, weight in weights.items()}, file)
        return load_vlm(str(run), OPTIONS).vision(pictures(CASE)).values

    expected = vlm(CASE).vision(pictures(CASE)).values
    assert torch.equal(vision_with_doubled(f"blocks.{last}.", "norm.", "attn_pool."), expected)
    assert (vision_with_doubled(f"blocks.{last - 1}.mlp.fc2") - expected).abs().max() > 1e-3


def test_384_pixels_use_another_siglip(run):
    """6 x 6 whole patches of 56 pixels, as many as DINOv2 has position embeddings for, at 336 pixels."""
    (run / "config.json").write_text((run / "config.json").read_text().replace("224px", "384px"))
    siglip = load_file(run / SIGLIP / "model.safetensors")
    siglip["pos_embed"] = torch.linspace(-1, 1, 36 * 48).reshape(1, 36, 48)
    (larger := run / SIGLIP.replace("224", "384")).mkdir()
    save_file(siglip, larger / "model.safetensors")
    model = load_vlm(str(run))
    pixels = model.pixels(pictures(CASE))["pixel_values"]
    assert pixels.shape == (len(TEXTS), 6, 384, 384) and model.image_length() == 36
    with torch.no_grad():
        dino = timm_features(load_file(run / DINO / "model.safetensors"), pixels[:, :3])
        expected = model.model.model.multi_modal_projector(torch.cat([dino, timm_features(siglip, pixels[:, 3:])], -1))
    assert_close(model.vision(pictures(CASE)).values, expected)


def test_backbones_outside_the_folder_are_read_from_the_hub_cache(run, tmp_path, monkeypatch):
    """The cache is as `hf download` writes it; its commits are in the key."""
    inside = load_vlm(str(run)).key()
    assert inside["parts"] == [LLAMA, DINO, SIGLIP]
    for number, part in enumerate([f"meta-llama/{LLAMA}", f"timm/{DINO}", f"timm/{SIGLIP}"]):
        cache, commit = tmp_path / f"models--{part.replace('/', '--')}", str(number) * 40
        shutil.move(run / part.split("/")[1], cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fetched = load_vlm(str(run), OPTIONS)
    assert_equal_hidden(fetched.hidden(pictures(CASE), TEXTS), hidden(CASE))
    assert fetched.key()["parts"] == ["0" * 40, "1" * 40, "2" * 40]


@pytest.mark.parametrize(("part", "kind"), [(LLAMA, "json"), (DINO, "safetensors"), (SIGLIP, "safetensors")])
def test_missing_backbone_gives_the_download_command(run, part, kind):
    shutil.rmtree(run / part)
    download = rf"hf download [\w-]+/{part} --include '\*\.{kind}' --local-dir '.*run/{part}'"
    with pytest.raises(UserError, match=download):
        load_vlm(str(run))


def test_missing_weights_are_refused(run):
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    del saved["model"]["llm_backbone"]["llm.model.norm.weight"]
    torch.save(saved, run / CHECKPOINT)
    with pytest.raises(UserError, match=r"1 weights are missing, such as model\.language_model\.norm\.weight"):
        load_vlm(str(run))
    (run / CHECKPOINT).unlink()
    with pytest.raises(UserError, match=f"has no weights {CHECKPOINT}"):
        load_vlm(str(run))


class CreatesFolder:
    """Its pickle creates a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_that_runs_code_is_refused(run, tmp_path):
    torch.save({"model": CreatesFolder(tmp_path / "created")}, run / CHECKPOINT)
    with pytest.raises(UserError, match="more than tensors"):
        load_vlm(str(run))
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize(
    ("key", "other", "nearest"),
    [
        ("vision_backbone_id", "clip-vit-l-336px", "dinosiglip-vit-so-384px"),
        ("llm_backbone_id", "llama2-7b-chat", "Did you mean 'llama2-7b-pure'"),
    ],
)
def test_unknown_backbones_are_refused(run, key, other, nearest):
    values = json.loads((run / "config.json").read_text())
    values["model"][key] = other
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"'{other}' is not among the {key}s.*{nearest}"):
        load_vlm(str(run))


def test_saved_model_loads_with_the_same_states(run, tmp_path):
    """As after fine-tuning, which saves safetensors."""
    load_vlm(str(run)).model.save_pretrained(tmp_path / "saved")
    shutil.copytree(run / LLAMA, tmp_path / "saved" / LLAMA)
    again = load_vlm(str(tmp_path / "saved"), OPTIONS)
    assert_close(again.hidden(pictures(CASE), TEXTS).states, hidden(CASE).states)

"""What is particular about a run of Prismatic's trainer: its layout on disk, its parts elsewhere, its prompt."""

import json
import os
import shutil

import huggingface_hub.constants
import pytest
import torch
from builders.prismatic import timm_features
from safetensors.torch import load_file, save_file
from test_families import CASES, TEXTS, N, close, folder, pictures, vlm

from pr2l.core.errors import UserError
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

CASE = next(case for case in CASES if case.name == "prismatic")
CHECKPOINT = "checkpoints/latest-checkpoint.pt"
DINO, SIGLIP, LLAMA = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224.webli", "Llama-2-7b-hf"
OPTIONS = Defaults(new_tokens=N, min_new_tokens=N, layers=(0, -2, -1))


@pytest.fixture
def run(tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(folder(CASE), tmp_path / "run")


def same(ours, theirs):
    assert ours.answers == theirs.answers and torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.states, theirs.states)


def test_the_picture_stands_between_the_first_token_and_the_trainers_prompt():
    model = vlm(CASE)
    ids = model.layout("  is it near ? ")
    assert ids[:17] == [model.tokenizer.bos_token_id, *[model.image_token_id] * 16]
    assert model.tokenizer.decode(ids[17:]) == "In: is it near ?\nOut:"
    assert model.image_token_id >= len(model.tokenizer)  # no text can write it
    assert model.tokenizer.decode(vlm(CASE, chat_template=False).layout("is it near ?")[17:]) == "is it near ?"


def test_the_towers_end_before_the_block_that_nobody_reads():
    """Four blocks and three, of which the last stay out."""
    inner = vlm(CASE).model.model
    assert (len(inner.dino_tower.encoder.layer), len(inner.vision_tower.encoder.layers)) == (3, 2)


@pytest.mark.parametrize("tower", [DINO, SIGLIP])
def test_what_comes_after_the_second_to_last_block_changes_nothing(run, tower):
    """The last block, the final norm and the pooling; the end of the block before does."""
    file = run / tower / "model.safetensors"
    weights = load_file(file)
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def seen_with_double(*beginnings):
        save_file({name: weight * (1 + name.startswith(beginnings)) for name, weight in weights.items()}, file)
        return load_vlm(str(run), OPTIONS).vision(pictures(CASE)).values

    expected = vlm(CASE).vision(pictures(CASE)).values
    assert torch.equal(seen_with_double(f"blocks.{last}.", "norm.", "attn_pool."), expected)
    assert (seen_with_double(f"blocks.{last - 1}.mlp.fc2") - expected).abs().max() > 1e-3


def test_a_run_at_384_pixels_has_a_siglip_of_its_own(run):
    """6 x 6 whole patches of 56 pixels; the positions of DINOv2, made for 336, fit as they are."""
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
    close(model.vision(pictures(CASE)).values, expected)


def test_parts_that_are_not_in_the_folder_come_from_the_hub(run, tmp_path, monkeypatch):
    """A cache as `hf download` leaves it; its commits are in the key."""
    inside = load_vlm(str(run)).key()
    assert inside["parts"] == [LLAMA, DINO, SIGLIP]
    for number, part in enumerate([f"meta-llama/{LLAMA}", f"timm/{DINO}", f"timm/{SIGLIP}"]):
        cache, commit = tmp_path / f"models--{part.replace('/', '--')}", str(number) * 40
        shutil.move(run / part.split("/")[1], cache / "snapshots" / commit)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fetched = load_vlm(str(run), OPTIONS)
    same(fetched.hidden(pictures(CASE), TEXTS), vlm(CASE).hidden(pictures(CASE), TEXTS))
    assert fetched.key()["parts"] == ["0" * 40, "1" * 40, "2" * 40]


@pytest.mark.parametrize(("part", "kind"), [(LLAMA, "json"), (DINO, "safetensors"), (SIGLIP, "safetensors")])
def test_a_part_that_is_nowhere_is_named_and_the_next_step_told(run, part, kind):
    shutil.rmtree(run / part)
    download = rf"hf download [\w-]+/{part} --include '\*\.{kind}' --local-dir '.*run/{part}'"
    with pytest.raises(UserError, match=download):
        load_vlm(str(run))


def test_a_run_without_weights_or_with_too_few_is_refused(run):
    learned = torch.load(run / CHECKPOINT, weights_only=True)
    del learned["model"]["llm_backbone"]["llm.model.norm.weight"]
    torch.save(learned, run / CHECKPOINT)
    with pytest.raises(UserError, match=r"lacks 1 weights, as model\.language_model\.norm\.weight"):
        load_vlm(str(run))
    (run / CHECKPOINT).unlink()
    with pytest.raises(UserError, match=f"has no {CHECKPOINT}"):
        load_vlm(str(run))


class Trap:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_checkpoint_that_would_run_something_is_refused(run, tmp_path):
    torch.save({"model": Trap(tmp_path / "sprung")}, run / CHECKPOINT)
    with pytest.raises(UserError, match="more than tensors"):
        load_vlm(str(run))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("key", "other", "nearest"),
    [
        ("vision_backbone_id", "clip-vit-l-336px", "dinosiglip-vit-so-384px"),
        ("llm_backbone_id", "llama2-7b-chat", "Did you mean 'llama2-7b-pure'"),
    ],
)
def test_a_run_with_other_parts_is_refused(run, key, other, nearest):
    values = json.loads((run / "config.json").read_text())
    values["model"][key] = other
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"'{other}' is not among the {key}s.*{nearest}"):
        load_vlm(str(run))


def test_a_model_saved_by_transformers_is_read_back(run, tmp_path):
    """What fine-tuning leaves; from there on it is safetensors."""
    load_vlm(str(run)).model.save_pretrained(tmp_path / "saved")
    shutil.copytree(run / LLAMA, tmp_path / "saved" / LLAMA)
    again = load_vlm(str(tmp_path / "saved"), OPTIONS)
    close(again.hidden(pictures(CASE), TEXTS).states, vlm(CASE).hidden(pictures(CASE), TEXTS).states)

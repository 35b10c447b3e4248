"""What the family `generic` checks when it loads a model, and the errors if a checkpoint does not fit."""

import json
import shutil
from functools import wraps

import pytest
import torch
from small_vlms import CASE, LAYERS, NEW_TOKENS, TEXTS, folder, hidden, pictures
from transformers import VisionEncoderDecoderConfig
from transformers.models.vipllava.modeling_vipllava import VipLlavaModel

from pr2l.core.errors import UserError
from pr2l.vlms.base import Defaults
from pr2l.vlms.families.generic import inserted_text
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.processor import find_class

VIPLLAVA = CASE["vipllava"]
OPTIONS = Defaults(new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, layers=LAYERS)


@pytest.fixture
def checkpoint(tmp_path):
    """Return a copy of the VipLLaVA checkpoint that a test may change."""
    return shutil.copytree(folder(VIPLLAVA), tmp_path / "vipllava")


def change_features(monkeypatch, change):
    """Change the image features of every VipLLaVA model: `change` gets them [B, I, D]."""
    original = VipLlavaModel.get_image_features

    @wraps(original)
    def changed(self, *args, **options):
        output = original(self, *args, **options)
        output.pooler_output = change(output.pooler_output)
        return output

    monkeypatch.setattr(VipLlavaModel, "get_image_features", changed)


def test_inexact_batches_run_row_by_row_with_a_warning(checkpoint, monkeypatch):
    expected = hidden(VIPLLAVA).states  # of the model as it is
    change_features(monkeypatch, lambda features: features * (1 + 0.1 * (len(features) - 1)))
    with pytest.warns(UserWarning, match=r"differ by up to \d\.\de[-+]\d+ .*one by one"):
        vlm = load_vlm(str(checkpoint), OPTIONS)
    assert vlm.row_by_row
    ours = vlm.hidden(pictures(VIPLLAVA), TEXTS)
    torch.testing.assert_close(ours.states, expected, rtol=0, atol=1e-5)


def test_int8_is_compared_in_a_batch_too(checkpoint, monkeypatch):
    change_features(monkeypatch, lambda features: features * (1 + 0.5 * (len(features) - 1)))
    with pytest.warns(UserWarning, match="one by one"):
        assert load_vlm(str(checkpoint), OPTIONS.model_copy(update={"dtype": "int8"})).row_by_row


def test_model_whose_states_do_not_depend_on_the_frame_is_refused(checkpoint, monkeypatch):
    change_features(monkeypatch, torch.zeros_like)
    with pytest.raises(UserError, match="same for two different frames"):
        load_vlm(str(checkpoint))


def test_folder_without_a_processor_class_uses_the_one_of_its_type(checkpoint):
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        values = json.loads((checkpoint / name).read_text())
        values.pop("processor_class", None)
        (checkpoint / name).write_text(json.dumps(values))
    ours = load_vlm(str(checkpoint), OPTIONS).hidden(pictures(VIPLLAVA), TEXTS)
    assert torch.equal(ours.states, hidden(VIPLLAVA).states)


def test_type_without_a_processor_gives_the_next_step(tmp_path):
    with pytest.raises(UserError, match='"processor_class": "NAME"'):
        find_class(str(tmp_path), VisionEncoderDecoderConfig())


@pytest.mark.parametrize("method", ["hidden", "generate"])
def test_error_of_the_processor_has_a_cause_and_a_next_step(method, checkpoint, monkeypatch):
    vlm = load_vlm(str(checkpoint), OPTIONS)
    frames, more = pictures(VIPLLAVA)[:1], () if method == "hidden" else (3,)
    vlm.token_ids(TEXTS[0])

    def failing(**options):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(vlm, "_processor", failing)
    with pytest.raises(UserError, match=r"vipllava raises IndexError: index out of range.*shorter prompt.*list vlms"):
        getattr(vlm, method)(frames, TEXTS[:1], *more)


def test_error_while_loading_names_the_checkpoint(checkpoint):
    settings = json.loads((checkpoint / "processor_config.json").read_text())
    (checkpoint / "processor_config.json").write_text(json.dumps(settings | {"patch_size": 5}))
    with pytest.raises(UserError, match=r"vipllava' is refused: .*raises \w+: .*write one in"):
        load_vlm(str(checkpoint))


def test_chat_template_without_images_gives_the_option(checkpoint):
    (checkpoint / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(UserError, match="chat_template=false"):
        load_vlm(str(checkpoint))


@pytest.mark.parametrize(
    ("without", "whole", "expected"),
    [
        ("user: hi", "user: <img>hi", "<img>"),
        ("user: hi", "user: <img>\nhi", "<img>"),
        ("hi", "<a><img></a>hi", "<a><img></a>"),
        ("hi", "hi", ""),
    ],
)
def test_placeholder_is_the_text_that_an_image_adds(without, whole, expected):
    assert inserted_text(without, whole) == expected

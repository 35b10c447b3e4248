"""Loading of VLMs by name or path and options, and the errors if that is not possible."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from pydantic import ValidationError
from small_vlms import (
    CASE,
    LAYERS,
    NEW_TOKENS,
    TEXTS,
    all_cases,
    assert_close,
    folder,
    hidden,
    load,
    pictures,
    unmodified,
    vlm,
)
from transformers import CLIPConfig, CLIPModel, PreTrainedConfig

import pr2l.vlms
from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.base import Defaults
from pr2l.vlms.families import generic
from pr2l.vlms.int8 import Int8Linear
from pr2l.vlms.loading import family, layer_count, load_vlm

LLAVA, VIPLLAVA = CASE["llava"], CASE["vipllava"]


@pytest.fixture
def llava(tmp_path):
    """Return a copy of the LLaVA checkpoint that a test may change."""
    return shutil.copytree(folder(LLAVA), tmp_path / "llava")


def test_every_model_type_has_one_family():
    model_types = [
        model_type for name in registry.names("vlms") for model_type in registry.load("vlms", name).MODEL_TYPES
    ]
    assert len(model_types) == len(set(model_types))
    assert family("llava").__name__ == "pr2l.vlms.families.llava"
    assert family("unknown").__name__ == "pr2l.vlms.families.generic"


def test_progress_bar_is_shown_only_for_weights_that_take_long(capsys, monkeypatch) -> None:
    load_vlm("tiny")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(checkpoint, "BAR_SECONDS", 0)
    load_vlm("tiny")
    out, err = capsys.readouterr()
    assert out == "" and "Loading weights" in err


def test_every_family_has_the_same_options():
    assert {registry.load("vlms", name).Defaults for name in registry.names("vlms")} == {Defaults}


def test_unknown_model_gives_name_and_next_step():
    with pytest.raises(UserError, match=r"'someone/no-such-vlm'.*tiny.*hf download MODEL --local-dir"):
        load_vlm("someone/no-such-vlm")


def test_misspelt_name_gives_the_most_similar_one():
    with pytest.raises(UserError, match="Did you mean 'tiny'"):
        load_vlm("tinny")


def test_missing_file_of_a_checkpoint_is_named(tmp_path, llava):
    with pytest.raises(UserError, match="no config.json"):
        load_vlm(str(tmp_path))
    (llava / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="no usable image processor"):
        load_vlm(str(llava))


def test_model_that_does_not_generate_text_is_refused(tmp_path):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPModel(CLIPConfig(text_config=small, vision_config=small | {"image_size": 16})).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot read the .* of"):
        load_vlm(str(tmp_path))


def test_shipped_vlms_load_by_name(monkeypatch, tmp_path):
    assert checkpoint.shipped() == ["tiny", "tiny_rooms"]
    (tmp_path / "small").symlink_to(folder(CASE["florence2"]))
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    by_name, by_path = load_vlm("small"), load_vlm(str(folder(CASE["florence2"])))
    frames = pictures(CASE["florence2"])
    assert torch.equal(by_name.hidden(frames, TEXTS).states, by_path.hidden(frames, TEXTS).states)


def test_lengths_and_sizes_equal_those_of_the_states():
    model, states = vlm(LLAVA), hidden(LLAVA)
    assert model.prompt_length(TEXTS) == max(model.prompt_length([text]) for text in TEXTS)
    lengths = [model.image_length(), model.prompt_length(TEXTS), model.new_tokens]
    assert [span.stop - span.start for span in states.spans.values()] == lengths
    assert states.states.shape[-1] == model.hidden_size


@all_cases
def test_number_of_layers_is_known_without_reading_weights(case, monkeypatch):
    depth = load(case).depth
    monkeypatch.setattr(checkpoint, "read_model", lambda *_: pytest.fail("the weights were read"))
    assert layer_count(str(folder(case))) == depth > 0


def test_layers_are_indices_into_hidden_states():
    """0 is the embeddings, 3 the last of three layers, and negative numbers count from the end."""
    states, from_the_end = (hidden(LLAVA, layers=layers).states for layers in ((0, 2, 3), (-4, -2, -1)))
    assert torch.equal(states, from_the_end)
    assert (states[:, 0] - states[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "layer"), [("llava", 4), ("llava", -5), ("blip2-t5", 3), ("florence2", -4)])
def test_layer_out_of_range_is_refused(name, layer):
    """LLaVA has three layers; of an encoder-decoder, the decoder with its two layers decides."""
    with pytest.raises(UserError, match=rf"\[{layer}\] is out of range"):
        load_vlm(str(folder(CASE[name])), Defaults(layers=(-1, layer)))


def test_impossible_image_size_is_refused():
    with pytest.raises(UserError, match="image_size=48 .* image_size=32"):
        load_vlm(str(folder(LLAVA)), Defaults(image_size=48))
    with pytest.raises(UserError, match="8 pixels"):
        load_vlm(str(folder(CASE["qwen2_5_vl"])), Defaults(image_size=36))


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [("florence2", 96, 1 + 36), ("smolvlm", 16, 4), ("smolvlm", 64, 64), ("qwen2_5_vl", 64, 64), ("qwen3_vl", 16, 4)],
)
def test_number_of_image_tokens_depends_on_image_size(name, size, tokens):
    model = load(CASE[name], image_size=size)
    states = model.hidden(pictures(CASE[name]), TEXTS)
    assert model.image_length() == states.spans["image"].stop == tokens


def test_image_token_that_controls_the_model_is_refused_in_a_prompt():
    with pytest.raises(UserError, match="leave '<image>' out.*special_tokens=text"):
        vlm(LLAVA, special_tokens="control").hidden(pictures(LLAVA)[:1], ["what is <image> ?"])


def test_prompt_longer_than_prompt_tokens_is_refused():
    with pytest.raises(UserError, match="prompt_tokens=3"):
        vlm(LLAVA).hidden(pictures(LLAVA)[:1], TEXTS[:1], prompt_tokens=3)


def test_invalid_batches_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[B, H, W, 3\]"):
        vlm(LLAVA).vision(np.zeros((1, 32, 32, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="one text per frame"):
        vlm(LLAVA).hidden(pictures(LLAVA), TEXTS[:1])


def test_min_new_tokens_above_new_tokens_is_refused():
    with pytest.raises(ValidationError, match="min_new_tokens=9.*new_tokens=8"):
        Defaults(min_new_tokens=9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_device_and_dtype_default_to_cpu_and_float32():
    assert vlm(LLAVA).model.device.type == "cpu" and vlm(LLAVA).model.dtype == torch.float32
    with pytest.raises(UserError, match="device='cuda'.*device=cpu"):
        vlm(LLAVA, device="cuda")


@all_cases
def test_bfloat16_states_are_similar_to_float32(case):
    """The default on a GPU. A number keeps three digits, and rounding errors add up over the layers."""
    assert vlm(case, dtype="bfloat16", generation="none").model.dtype == torch.bfloat16
    half, full = (hidden(case, dtype=dtype, generation="none").states for dtype in ("bfloat16", "auto"))
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.999


@all_cases
def test_int8_states_are_similar_to_float32(case):
    """A width of 16 gives larger errors than that of a real model."""
    modules = vlm(case, dtype="int8").model.modules()
    assert any(isinstance(module, Int8Linear) for module in modules)
    int8, full = hidden(case, dtype="int8"), hidden(case)
    inputs = slice(0, int8.spans["prompt"].stop)  # rounding may change a generated token, and then all further states
    assert int8.states.shape == full.states.shape and int8.states.isfinite().all()
    similarity = torch.nn.functional.cosine_similarity(
        int8.states[:, :, inputs].flatten(), full.states[:, :, inputs].flatten(), dim=0
    )
    assert similarity > 0.98


def test_fastest_is_bfloat16_if_the_cpu_supports_it(llava, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False)
        assert load_vlm(str(llava), Defaults(dtype="fastest", device="cpu")).model.dtype == dtype


def test_decoding_settings_of_the_checkpoint_are_ignored(llava):
    """Beams, penalties or sampling in generation_config.json would change the answers."""
    settings = json.loads((llava / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "num_beams": 3, "repetition_penalty": 2.0}
    (llava / "generation_config.json").write_text(json.dumps(settings))
    changed = load_vlm(str(llava), Defaults(new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, layers=LAYERS))
    ours, theirs = hidden(LLAVA), changed.hidden(pictures(LLAVA), TEXTS)
    assert torch.equal(ours.states, theirs.states) and ours.answers == theirs.answers


def test_generation_config_is_optional(llava):
    (llava / "generation_config.json").unlink()
    model = load_vlm(str(llava), Defaults(new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, layers=LAYERS))
    assert model.eos_token_ids == vlm(LLAVA).eos_token_ids
    assert torch.equal(model.hidden(pictures(LLAVA), TEXTS).states, hidden(LLAVA).states)


def test_without_a_chat_template_the_input_is_image_and_text(llava):
    (llava / "chat_template.jinja").unlink()
    disabled = vlm(LLAVA, chat_template=False)
    absent = load_vlm(str(llava))
    for model in (disabled, absent):
        ids = [token for token in model.layout("is it near ?") if token != model.image_token_id]
        assert model.tokenizer.decode(ids) == "<s>\nis it near ?"
    assert "USER:" in vlm(LLAVA).tokenizer.decode(vlm(LLAVA).layout("is it near ?"))


def test_chat_template_json_is_read(llava):
    template = (llava / "chat_template.jinja").read_text()
    (llava / "chat_template.jinja").unlink()
    (llava / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_vlm(str(llava)).layout(TEXTS[0]) == vlm(LLAVA).layout(TEXTS[0])


def test_chat_template_without_images_is_refused(llava):
    (llava / "chat_template.jinja").write_text("{{ messages[0]['role'] }} says something")
    with pytest.raises(UserError, match="chat_template=false"):
        load_vlm(str(llava)).prompt_length(TEXTS)


def test_llava_onevision_uses_no_tiles():
    """Vision tokens are those of tower, projection and "new line" for the whole frame, as for one tile."""
    case = CASE["llava_onevision"]
    model = unmodified(case).model
    with torch.no_grad():
        states = model.vision_tower(vlm(case).preprocess(pictures(case)), output_hidden_states=True).hidden_states
        projected = model.multi_modal_projector(states[model.config.vision_feature_layer])
    new_line = model.image_newline.detach().expand(len(TEXTS), 1, -1)
    expected = torch.cat([projected, new_line], dim=1)
    assert_close(vlm(case).vision(pictures(case)).values, expected)


def test_generic_refuses_a_model_with_wrong_states(monkeypatch):
    """A model whose `generate` ignores the image."""
    model_class = type(unmodified(VIPLLAVA))
    prepare = model_class.prepare_inputs_for_generation

    def without_picture(self, *args, **kwargs):
        return prepare(self, *args, **(kwargs | {"mm_encoder_outputs": None}))

    monkeypatch.setattr(model_class, "prepare_inputs_for_generation", without_picture)
    with pytest.raises(UserError, match=r"by up to \d\.\de[-+]\d+"):
        load_vlm(str(folder(VIPLLAVA)))


def test_generic_equals_the_family(llava):
    settings = {"processor_class": "LlavaProcessor", "patch_size": 8, "num_additional_image_tokens": 1}
    settings |= {"vision_feature_select_strategy": "default"}
    (llava / "processor_config.json").write_text(json.dumps(settings))
    processor = json.loads((llava / "preprocessor_config.json").read_text())
    (llava / "preprocessor_config.json").write_text(json.dumps(processor | {"processor_class": "LlavaProcessor"}))
    options = Defaults(new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, layers=LAYERS)
    ours = generic.load(str(llava), options).hidden(pictures(LLAVA), TEXTS)
    theirs = hidden(LLAVA)
    assert ours.spans == theirs.spans and torch.equal(ours.mask, theirs.mask) and ours.answers == theirs.answers
    assert_close(ours.states, theirs.states)


def test_import_of_the_package_does_not_import_torch():
    """torch and transformers take seconds, and every command imports the package."""
    code = "import sys, pr2l.vlms; assert not {'torch', 'transformers'} & {*sys.modules}; print(*pr2l.vlms.__all__)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert names == pr2l.vlms.__all__ and [getattr(pr2l.vlms, name).__name__ for name in names] == names
    with pytest.raises(AttributeError, match="no attribute 'Vlm'"):
        pr2l.vlms.Vlm  # noqa: B018


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tinny", "Did you mean 'tiny'.*OWNER/NAME"),
        ("./models/llava", "neither a folder.*OWNER/NAME"),
        ("HuggingFaceTB/SmolVLM-256M-Instruct", "http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_wrong_name_is_refused_at_once_without_network(name, reason, monkeypatch):
    """Without the Hub's client, which would retry for half a minute."""
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda *_: pytest.fail("the Hub's client was used"))
    with pytest.raises(UserError, match=reason):
        load_vlm(name)


@pytest.mark.parametrize("name", ["florence2", "blip2-opt"])
def test_inputs_longer_than_the_position_embeddings_are_refused(name):
    """These two models have 128 learned positions; torch's error would be "index out of range in self"."""
    model, frame = vlm(CASE[name]), pictures(CASE[name])[:1]
    with pytest.raises(UserError, match="128.*shorter prompt"):
        model.hidden(frame, ["is it near ? " * 60])
    with pytest.raises(UserError, match="answer of 129 tokens"):
        model.answer(frame, TEXTS[:1], 129)
    with pytest.raises(UserError, match="answer to learn from"):
        model.training_inputs(frame, TEXTS[:1], ["is it near ? " * 60])
    limit = 127 if name == "florence2" else 128 - len(model.token_ids(TEXTS[0]))
    longest = load(CASE[name], new_tokens=limit, min_new_tokens=limit)
    assert longest.hidden(frame, TEXTS[:1]).mask.all()
    with pytest.raises(UserError, match="129 tokens"):
        load(CASE[name], new_tokens=limit + 1).hidden(frame, TEXTS[:1])


def test_computed_positions_have_no_limit():
    assert vlm(LLAVA).max_positions is None
    assert vlm(LLAVA).hidden(pictures(LLAVA)[:1], ["is it near ? " * 100]).spans["prompt"].stop > 256


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cuda:99"])
def test_unavailable_device_is_refused(device):
    with pytest.raises(UserError, match=f"device='{device}'"):
        load_vlm("tiny", Defaults(device=device))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("tokenizer.json", "{}"),
        ("preprocessor_config.json", "[1]"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_damaged_file_names_the_checkpoint(file, text, llava):
    (llava / file).write_text(text)
    with pytest.raises(UserError, match="llava"):
        load_vlm(str(llava))


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_damaged_generation_config_is_refused_and_a_missing_one_is_derived(text, tmp_path):
    config = CLIPConfig(eos_token_id=7)
    config.save_pretrained(tmp_path)
    assert checkpoint.read_generation_config(str(tmp_path), config).eos_token_id == 7
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match="generation_config.json of .*"):
        checkpoint.read_generation_config(str(tmp_path), config)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_chat_template_is_refused(text, tmp_path):
    (tmp_path / "chat_template.json").write_text(text)
    with pytest.raises(UserError, match="chat_template.json of .*"):
        checkpoint.read_chat_template(str(tmp_path), SimpleNamespace(chat_template=None))

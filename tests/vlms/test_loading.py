"""From names and options to a VLM, and what is said when that cannot work."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from pydantic import ValidationError
from test_families import CASES, TEXTS, folder, pictures, unmodified, vlm
from transformers import CLIPConfig, CLIPModel, PreTrainedConfig

import pr2l.vlms
from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.vlms import checkpoint
from pr2l.vlms.base import Defaults
from pr2l.vlms.families import generic
from pr2l.vlms.loading import family, load_vlm

CASE = {case.name: case for case in CASES}
LLAVA, VIPLLAVA = CASE["llava"], CASE["vipllava"]


@pytest.fixture
def llava(tmp_path):
    """A copy of the LLaVA checkpoint that a test may damage."""
    return shutil.copytree(folder(LLAVA), tmp_path / "llava")


def test_each_model_type_has_one_family():
    claimed = [kind for name in registry.names("vlms") for kind in registry.load("vlms", name).MODEL_TYPES]
    assert len(claimed) == len(set(claimed))
    assert family("llava").__name__ == "pr2l.vlms.families.llava"
    assert family("never heard of").__name__ == "pr2l.vlms.families.generic"


def test_a_progress_bar_is_shown_only_for_weights_that_take_long(capsys, monkeypatch) -> None:
    load_vlm("tiny")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(checkpoint, "BAR_SECONDS", 0)
    load_vlm("tiny")
    out, err = capsys.readouterr()
    assert out == "" and "Loading weights" in err


def test_every_family_has_the_same_options():
    assert {registry.load("vlms", name).Defaults for name in registry.names("vlms")} == {Defaults}


def test_a_model_that_is_nowhere_is_named_and_the_next_step_told():
    with pytest.raises(UserError, match=r"'someone/no-such-vlm'.*tiny.*hf download MODEL --local-dir"):
        load_vlm("someone/no-such-vlm")


def test_a_misspelt_tiny_is_recognised():
    with pytest.raises(UserError, match="Did you mean 'tiny'"):
        load_vlm("tinny")


def test_a_folder_that_holds_no_model_says_what_is_missing(tmp_path, llava):
    with pytest.raises(UserError, match="no config.json"):
        load_vlm(str(tmp_path))
    (llava / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="no usable image processor"):
        load_vlm(str(llava))


def test_a_model_that_is_no_vlm_is_refused(tmp_path):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPModel(CLIPConfig(text_config=small, vision_config=small | {"image_size": 16})).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot read the .* of"):
        load_vlm(str(tmp_path))


def test_what_ships_is_a_folder_like_any_other(monkeypatch, tmp_path):
    assert checkpoint.shipped() == ["tiny", "tiny_rooms"]
    (tmp_path / "small").symlink_to(folder(CASE["florence2"]))
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    named, by_path = load_vlm("small"), load_vlm(str(folder(CASE["florence2"])))
    frames = pictures(CASE["florence2"])
    assert torch.equal(named.hidden(frames, TEXTS).states, by_path.hidden(frames, TEXTS).states)


def test_lengths_are_known_before_the_first_frame():
    model = vlm(LLAVA)
    assert model.prompt_length(TEXTS) == max(model.prompt_length([text]) for text in TEXTS)
    hidden = model.hidden(pictures(LLAVA), TEXTS)
    lengths = [model.image_length(), model.prompt_length(TEXTS), model.new_tokens]
    assert [span.stop - span.start for span in hidden.spans.values()] == lengths
    assert hidden.states.shape[-1] == model.hidden_size


def test_layers_count_as_hidden_states_does():
    """0 is the embeddings, 3 the last of three layers, and negative numbers count from the end."""
    forward, backward = (vlm(LLAVA, layers=layers) for layers in ((0, 2, 3), (-4, -2, -1)))
    states = forward.hidden(pictures(LLAVA), TEXTS).states
    assert torch.equal(states, backward.hidden(pictures(LLAVA), TEXTS).states)
    assert (states[:, 0] - states[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "layer"), [("llava", 4), ("llava", -5), ("blip2-t5", 3), ("florence2", -4)])
def test_a_layer_that_is_not_there_is_refused(name, layer):
    """Three layers in LLaVA; the decoders of the others have two, and serve as well."""
    with pytest.raises(UserError, match=rf"layers, so \[{layer}\] is out of range"):
        load_vlm(str(folder(CASE[name])), Defaults(layers=(-1, layer)))


def test_an_image_size_that_the_tower_cannot_take_is_refused():
    with pytest.raises(UserError, match="does not take image_size=48 .* made for image_size=32"):
        load_vlm(str(folder(LLAVA)), Defaults(image_size=48))
    with pytest.raises(UserError, match="a token is 8 pixels wide"):
        load_vlm(str(folder(CASE["qwen2_5_vl"])), Defaults(image_size=36))


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [("florence2", 96, 1 + 36), ("smolvlm", 16, 4), ("smolvlm", 64, 64), ("qwen2_5_vl", 64, 64), ("qwen3_vl", 16, 4)],
)
def test_the_image_size_decides_the_number_of_image_tokens(name, size, tokens):
    model = load_vlm(str(folder(CASE[name])), Defaults(image_size=size))
    hidden = model.hidden(pictures(CASE[name]), TEXTS)
    assert model.image_length() == hidden.spans["image"].stop == tokens


def test_a_prompt_that_names_the_image_token_is_refused():
    with pytest.raises(UserError, match="leave '<image>' out of the prompt"):
        vlm(LLAVA).hidden(pictures(LLAVA)[:1], ["what is <image> ?"])


def test_a_prompt_longer_than_promised_is_refused():
    with pytest.raises(UserError, match="more than prompt_tokens=3"):
        vlm(LLAVA).hidden(pictures(LLAVA)[:1], TEXTS[:1], prompt_tokens=3)


def test_batches_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[B, H, W, 3\]"):
        vlm(LLAVA).vision(np.zeros((1, 32, 32, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="one text per frame"):
        vlm(LLAVA).hidden(pictures(LLAVA), TEXTS[:1])


def test_an_answer_cannot_be_longer_than_its_tokens():
    with pytest.raises(ValidationError, match="min_new_tokens=9 is more than new_tokens=8"):
        Defaults(min_new_tokens=9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_device_and_precision_are_chosen_or_refused():
    assert vlm(LLAVA).model.device.type == "cpu" and vlm(LLAVA).model.dtype == torch.float32
    with pytest.raises(UserError, match="torch sees no GPU"):
        vlm(LLAVA, device="cuda")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_half_precision_changes_the_numbers_only_a_little(case):
    """The default on a GPU. Three digits are left of a number, and rounding adds up over the layers."""
    half, full = vlm(case, dtype="bfloat16", generation="none"), vlm(case, generation="none")
    assert half.model.dtype == torch.bfloat16
    ours, theirs = (model.hidden(pictures(case), TEXTS).states for model in (half, full))
    assert ours.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_int8_layers_change_the_numbers_only_a_little(case):
    """Widths of 16 are rounded more coarsely than those of real models."""
    small, full = vlm(case, dtype="int8"), vlm(case)
    assert any(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in small.model.modules())
    ours, theirs = (model.hidden(pictures(case), TEXTS) for model in (small, full))
    inputs = slice(0, ours.spans["prompt"].stop)  # one rounding more may choose another word to go on with
    assert ours.states.shape == theirs.states.shape and ours.states.isfinite().all()
    one, other = (each.states[:, :, inputs].flatten() for each in (ours, theirs))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98


def test_the_fastest_precision_is_one_that_the_cpu_has(llava, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False)
        assert load_vlm(str(llava), Defaults(dtype="fastest", device="cpu")).model.dtype == dtype


def test_the_checkpoints_own_decoding_is_not_used(llava):
    """Beams, penalties or sampling in generation_config.json would make other answers, or random ones."""
    settings = json.loads((llava / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "num_beams": 3, "repetition_penalty": 2.0}
    (llava / "generation_config.json").write_text(json.dumps(settings))
    changed = load_vlm(str(llava), Defaults(new_tokens=3, min_new_tokens=3, layers=(0, -2, -1)))
    ours, theirs = (model.hidden(pictures(LLAVA), TEXTS) for model in (vlm(LLAVA), changed))
    assert torch.equal(ours.states, theirs.states) and ours.answers == theirs.answers


def test_without_a_chat_template_there_is_only_image_and_text(llava):
    (llava / "chat_template.jinja").unlink()
    switched_off = vlm(LLAVA, chat_template=False)
    absent = load_vlm(str(llava))
    for model in (switched_off, absent):
        ids = [token for token in model.layout("is it near ?") if token != model.image_token_id]
        assert model.tokenizer.decode(ids) == "<s>\nis it near ?"
    assert "USER:" in vlm(LLAVA).tokenizer.decode(vlm(LLAVA).layout("is it near ?"))


def test_a_chat_template_in_the_older_file_is_found(llava):
    template = (llava / "chat_template.jinja").read_text()
    (llava / "chat_template.jinja").unlink()
    (llava / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_vlm(str(llava)).layout(TEXTS[0]) == vlm(LLAVA).layout(TEXTS[0])


def test_a_chat_template_that_knows_no_images_is_refused(llava):
    (llava / "chat_template.jinja").write_text("{{ messages[0]['role'] }} says something")
    with pytest.raises(UserError, match="chat_template=false"):
        load_vlm(str(llava)).prompt_length(TEXTS)


def test_llava_onevision_sees_the_overview_and_nothing_else():
    """Tower, projection and the "new line" by hand: no tiles, although the checkpoint asks for them."""
    case = CASE["llava_onevision"]
    model = unmodified(case).model
    with torch.no_grad():
        seen = model.vision_tower(vlm(case).preprocess(pictures(case)), output_hidden_states=True).hidden_states
        projected = model.multi_modal_projector(seen[model.config.vision_feature_layer])
    new_line = model.image_newline.detach().expand(len(TEXTS), 1, -1)
    expected = torch.cat([projected, new_line], dim=1)
    torch.testing.assert_close(vlm(case).vision(pictures(case)).values, expected, rtol=0, atol=1e-5)


def test_generic_refuses_a_model_whose_states_are_not_the_unmodified_ones(monkeypatch):
    """A `generate` that leaves the picture out, as a careless model's might."""
    kind = type(unmodified(VIPLLAVA))
    prepare = kind.prepare_inputs_for_generation

    def without_picture(self, *args, **kwargs):
        return prepare(self, *args, **(kwargs | {"mm_encoder_outputs": None}))

    monkeypatch.setattr(kind, "prepare_inputs_for_generation", without_picture)
    with pytest.raises(UserError, match=r"is refused: .* largest difference is \d\.\de[-+]\d+"):
        load_vlm(str(folder(VIPLLAVA)))


def test_generic_agrees_with_a_family_on_the_same_checkpoint(llava):
    settings = {"processor_class": "LlavaProcessor", "patch_size": 8, "num_additional_image_tokens": 1}
    settings |= {"vision_feature_select_strategy": "default"}
    (llava / "processor_config.json").write_text(json.dumps(settings))
    processor = json.loads((llava / "preprocessor_config.json").read_text())
    (llava / "preprocessor_config.json").write_text(json.dumps(processor | {"processor_class": "LlavaProcessor"}))
    options = Defaults(new_tokens=3, min_new_tokens=3, layers=(0, -2, -1))
    ours = generic.load(str(llava), options).hidden(pictures(LLAVA), TEXTS)
    theirs = vlm(LLAVA).hidden(pictures(LLAVA), TEXTS)
    assert ours.spans == theirs.spans and torch.equal(ours.mask, theirs.mask) and ours.answers == theirs.answers
    torch.testing.assert_close(ours.states, theirs.states, rtol=0, atol=1e-5)


def test_the_package_imports_its_names_when_they_are_used():
    """transformers and torch take seconds, and the command line imports the package."""
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
def test_without_a_network_a_wrong_name_is_refused_at_once(name, reason, monkeypatch):
    """The Hub's client, which would retry for half a minute, is not asked."""
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda *_: pytest.fail("the Hub's client was asked"))
    with pytest.raises(UserError, match=reason):
        load_vlm(name)


@pytest.mark.parametrize("name", ["florence2", "blip2-opt"])
def test_what_is_longer_than_the_positions_of_a_model_is_refused(name):
    """As torch would say "index out of range in self"; these two models have 128 learned positions."""
    model, frame = vlm(CASE[name]), pictures(CASE[name])[:1]
    with pytest.raises(UserError, match="is too long.*positions for 128.*shorter prompt"):
        model.hidden(frame, ["is it near ? " * 60])
    with pytest.raises(UserError, match="an answer of 129 tokens is too long"):
        model.answer(frame, TEXTS[:1], 129)
    with pytest.raises(UserError, match="an answer to learn from is too long"):
        model.training_inputs(frame, TEXTS[:1], ["is it near ? " * 60])
    most = 127 if name == "florence2" else 128 - len(model.token_ids(TEXTS[0]))
    longest = load_vlm(str(folder(CASE[name])), Defaults(new_tokens=most, min_new_tokens=most))
    assert longest.hidden(frame, TEXTS[:1]).mask.all()
    with pytest.raises(UserError, match="is too long: 129 tokens"):
        load_vlm(str(folder(CASE[name])), Defaults(new_tokens=most + 1)).hidden(frame, TEXTS[:1])


def test_positions_that_are_computed_have_no_end():
    assert vlm(LLAVA).max_positions is None
    assert vlm(LLAVA).hidden(pictures(LLAVA)[:1], ["is it near ? " * 100]).spans["prompt"].stop > 256


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
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
def test_a_damaged_file_of_a_checkpoint_is_named(file, text, llava):
    (llava / file).write_text(text)
    with pytest.raises(UserError, match="llava"):
        load_vlm(str(llava))

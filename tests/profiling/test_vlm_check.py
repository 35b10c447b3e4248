"""`pr2l vlm check`: checkpoints of the right families are exact, and errors of a family are found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_vlms import CASE, CASES, folder

from pr2l.core.errors import UserError
from pr2l.profiling import vlm_check
from pr2l.profiling.exactness import draw_pictures, relative_differences
from pr2l.profiling.processor_inputs import ProcessorInput, compare_with_processor
from pr2l.profiling.vlm_row import read_row
from pr2l.vlms.loading import load_vlm

SAMPLE = ("llava", "instructblip-t5", "prismatic")
OPTIONS = {"new_tokens": 3}
BROKEN = '''"""LLaVA with an error."""

import torch

from pr2l.vlms.families.llava import Defaults, Llava

MODEL_TYPES = ("llava",)


class Broken(Llava):
    def passes(self, frames, prompts):
        for rows, states in super().passes(frames, prompts):
            self.change(states, len(prompts))
            yield rows, states

    def change(self, states, rows):
        pass

'''


@pytest.fixture
def check(tmp_path, capsys, monkeypatch):
    """Check a checkpoint without its speed; return the row, the printed text, and the folder of the file."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(case, batches=(), **options):
        out = tmp_path / "out" / "row.json"
        row = vlm_check.check(
            str(folder(case)),
            {"image_size": case.image_size, **OPTIONS, **options},
            batches=batches,
            out=out,
            seconds=0,
        )
        return row, capsys.readouterr().out, out

    return run


@pytest.fixture
def broken_llava(write_plugin):
    """Install a family that takes the place of `llava`, with a body that overrides a method."""
    return lambda body: write_plugin("vlms", "zz_broken", f"{BROKEN}{body}\n\nload = Broken.load\n")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case.name in SAMPLE else pytest.mark.slow, id=case.name) for case in CASES],
)
def test_checkpoint_of_every_family_is_exact(check, case):
    row, text, out = check(case)
    assert row.verdict == "exact" and row.difference < 2e-6 and row.same_answers == 1
    assert {name: case.rows for name, case in row.cases.items()} == {
        "single rows": 5,
        "equal lengths": 3,
        "different lengths": 4,
        "another order": 4,
        "one frame, two prompts": 2,
        "17 rows": 17,
    }
    assert row.size.image_tokens == case.image_tokens and row.size.new_tokens == 3
    assert (row.image_sees != "nothing of the prompt") == case.image_sees_prompt == row.expects_dependence
    assert read_row(out) == row and "warning" not in text
    assert (row.processor is None) == ("input not compared with the checkpoint's processor: " in text)
    # A local folder appears as its last name and a digest.
    assert (row.source, row.model) == ("folder", folder(case).name) and row.revision.startswith("sha256 ")
    assert str(folder(case).parent) not in out.read_text().replace(row.model, "")


@pytest.mark.slow
def test_image_tokens_after_the_prompt_see_it_in_all_layers_but_the_embeddings(check):
    row, _, _ = check(CASE["llava"], token_order="text_first")
    assert row.layers == (0, 1, -2, -1) and row.image_sees == "the prompt, in layers 1, -2, -1"
    assert row.options["token_order"] == "text_first" and row.name != row.model_copy(update={"options": {}}).name
    assert row.dependence.image_on_prompt[0] == 0 < min(row.dependence.image_on_prompt[1:])


@pytest.mark.slow
def test_checkpoint_without_answers_is_compared_with_the_whole_model(check):
    row, text, _ = check(CASE["llava"], generation="none", layers=(0, 1))
    assert row.verdict == "exact" and row.layers == (0, 1) and row.size.new_tokens == 0
    assert "generated" not in text


@pytest.mark.slow
def test_rounding_of_bfloat16_is_allowed_and_in_the_row(check):
    row, _, _ = check(CASE["llava"], dtype="bfloat16")
    assert (row.verdict, row.dtype) == ("exact up to rounding", "bfloat16")
    assert row.difference < 5e-2  # 0 in some runs: a small model's products can round alike in all batches


@pytest.mark.slow
def test_speed_of_each_batch_size_is_measured(check):
    row, text, _ = check(CASE["llava"], (1, 2))
    assert [speed.batch for speed in row.speed] == [1, 2] and row.memory.batch == 2
    assert all(speed.low <= speed.frames_per_second <= speed.high for speed in row.speed)
    assert row.memory.weights > 100_000 and "batches of 2" in text


@pytest.fixture
def llava_with_processor(tmp_path):
    """A LLaVA with the processor's own file, as on the Hub; return a function that changes its settings."""

    def write(**settings):
        place = tmp_path / "llava"
        shutil.copytree(folder(CASE["llava"]), place)
        usual = {"processor_class": "LlavaProcessor", "patch_size": 8, "num_additional_image_tokens": 1}
        values = usual | {"vision_feature_select_strategy": "default"} | settings
        (place / "processor_config.json").write_text(json.dumps(values))
        return load_vlm(str(place)), str(place)

    return write


def compared(vlm, path):
    return compare_with_processor(vlm, path, draw_pictures(vlm, 1)[0], "is it near ?")


def test_input_equals_that_of_the_checkpoints_processor(llava_with_processor):
    assert compared(*llava_with_processor()) == ProcessorInput(same_text=True, image_tokens=16, pixels=0.0)


def test_other_chat_template_and_other_tokens_of_the_processor_are_found(llava_with_processor):
    vlm, path = llava_with_processor(num_additional_image_tokens=0)
    assert compared(vlm, path).image_tokens == 15
    vlm.template = vlm.template.replace("USER:", "HUMAN:")
    vlm.token_ids.cache_clear()
    assert not compared(vlm, path).same_text


def test_other_pixels_of_the_processor_are_found(llava_with_processor):
    vlm, path = llava_with_processor()
    file = Path(path) / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.0, 0.0, 0.0]}))
    assert 0.1 < compared(vlm, path).pixels < 1


@pytest.mark.slow
def test_wrong_chat_template_gives_a_warning(check, broken_llava, llava_with_processor):
    broken_llava("    def write(self, text):\n        return super().write(text).replace('USER', 'HUMAN')\n")
    _, path = llava_with_processor()
    row = vlm_check.check(path, OPTIONS, batches=(), out=Path(path) / "row.json")
    assert row.is_exact and row.input == "another text, as many image tokens, pixels: up to 0e+00 of difference"
    assert "gives the prompt other tokens" in "".join(vlm_check.problems(row))


def test_error_in_row_2_of_a_batch_is_found(check, broken_llava):
    broken_llava("    def change(self, states, rows):\n        states.inputs[1:2] *= 1.01\n")
    row, text, _ = check(CASE["llava"])
    assert row.verdict == "not exact" and "not exact" in text and row.family == "zz_broken"
    assert row.cases["single rows"].relative == pytest.approx([0] * 4, abs=1e-6)
    assert row.cases["equal lengths"].relative == pytest.approx([0.01] * 4, rel=1e-3)


def test_error_in_the_states_of_the_answer_is_found(check, broken_llava):
    broken_llava("    def change(self, states, rows):\n        states.generated[:, :, -1] *= 1.02\n")
    row, _, _ = check(CASE["llava"])
    assert row.verdict == "not exact" and row.same_answers == 1
    assert row.cases["single rows"].relative == pytest.approx([0.02] * 4, rel=1e-3)


def test_other_tokens_of_the_answer_are_found(check, broken_llava):
    broken_llava(
        "    def generate(self, *batch, **options):\n"
        "        return [ids[::-1] for ids in super().generate(*batch, **options)]\n"
    )
    row, _, _ = check(CASE["llava"])
    assert row.difference < 2e-6 and row.same_answers < 1 and row.verdict == "not exact"


@pytest.mark.slow
def test_wrong_claim_about_what_image_tokens_see_gives_a_warning(check, broken_llava):
    broken_llava("    image_sees_later_text = True\n")
    row, text, _ = check(CASE["llava"])
    assert row.is_exact and "pr2l takes image tokens to see the prompt, which is not so" in text


def test_states_that_are_not_finite_are_refused_with_the_next_step(check, broken_llava):
    broken_llava("    def change(self, states, rows):\n        states.inputs[:, -1] = torch.inf\n")
    with pytest.raises(UserError, match="NaN or infinite in float32; use dtype="):
        check(CASE["llava"])


@pytest.mark.slow
def test_batch_that_does_not_fit_into_the_memory_is_left_out(check, broken_llava):
    broken_llava(
        "    def change(self, states, rows):\n        if rows > 6:\n            raise torch.OutOfMemoryError('full')\n"
    )
    row, text, _ = check(CASE["llava"], (1, 2, 8))
    assert "17 rows" not in row.cases and row.is_exact
    assert [speed.batch for speed in row.speed] == [1, 2] and row.memory.batch == 2
    assert "not compared, because the memory does not suffice: 17 rows" in text


def test_ctrl_c_leaves_no_file(check, broken_llava, tmp_path):
    broken_llava("    def change(self, states, rows):\n        if rows > 6:\n            raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        check(CASE["llava"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation": "sample"}, "generation=sample cannot be compared; use generation=greedy"),
        ({"server": "http://127.0.0.1:8000"}, "leave the option out"),
    ],
)
def test_option_that_does_not_fit_the_comparison_is_refused(check, options, message):
    with pytest.raises(UserError, match=message):
        check(CASE["llava"], **options)


def test_relative_difference_is_that_of_the_worst_token_in_its_own_scale():
    theirs = torch.tensor([[[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]]])
    ours = theirs + torch.tensor([[[0.0, 0.5], [5.0, 0.0], [0.0, 0.0]]])
    assert relative_differences(ours, theirs) == pytest.approx([0.1])

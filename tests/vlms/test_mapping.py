"""Every model_type of transformers' image-text-to-text mapping that no family claims, against the unmodified model.

The default run takes a sample, `make test-all` takes all types. A new version of transformers is tested by upgrading: a
type that is new and fails belongs into pr2l/vlms/support.py, or the family `generic` has to learn it.
"""

import json

import pytest
import transformers
from mapping.build import model_types
from mapping.check import Checkpoint, check

from pr2l.core.errors import UserError
from pr2l.vlms import support
from pr2l.vlms.loading import load_vlm

SUPPORT = {row.model_type: row for row in support.all_types()}
GENERIC = [name for name in model_types() if SUPPORT[name].family == "generic"]
# A processor with videos, no image tokens, cross-attention, an encoder-decoder, inexact batches, no PIL version.
SAMPLE = ("qwen2_vl", "git", "mllama", "t5gemma2", "hunyuan_vl", "lfm2_vl")


def types(*statuses):
    names = [name for name in GENERIC if SUPPORT[name].status in statuses]
    marks = [() if name in SAMPLE else pytest.mark.slow for name in names]
    return pytest.mark.parametrize(
        "model_type", [pytest.param(name, marks=mark) for name, mark in zip(names, marks, strict=True)]
    )


@types("exact", "row by row")
@pytest.mark.filterwarnings("ignore:.*one by one")
def test_states_and_tokens_of_a_batch_equal_the_unmodified_model(model_type, tmp_path):
    vlm = check(Checkpoint(model_type, tmp_path))
    assert vlm.row_by_row == (SUPPORT[model_type].status == "row by row")


@types("fails")
def test_error_of_transformers_itself_is_reported_with_its_cause(model_type, tmp_path):
    Checkpoint(model_type, tmp_path).model  # noqa: B018, writes the folder
    with pytest.raises(UserError, match=f"of a {model_type} {' '.join(support.FAILS[model_type].split()[-2:])}"):
        load_vlm(str(tmp_path))


@pytest.mark.parametrize("model_type", support.REFUSED)
def test_type_that_does_not_fit_is_refused_with_the_reason(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=f"a {model_type} {support.REFUSED[model_type]}"):
        load_vlm(str(tmp_path))


def test_listed_types_are_in_the_mapping():
    listed = {*support.REFUSED, *support.FAILS, *support.UNTESTED, *support.ROW_BY_ROW}
    assert listed <= {*model_types()}


def test_readme_gives_the_number_of_types_that_run():
    run = sum(row.status in ("exact", "row by row") for row in SUPPORT.values())
    text = " ".join((support.PAGE.parents[1] / "README.md").read_text(encoding="utf-8").split())
    if f"transformers {'.'.join(transformers.__version__.split('.')[:2])} " not in text:
        pytest.skip("the README is for another version of transformers")
    assert f"Of the {len(SUPPORT)} model types" in text and f", {run} run with the exact hidden states" in text


def test_page_of_vlms_equals_the_code():
    text = support.PAGE.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__}," not in text:
        pytest.skip("the page is for another version of transformers")
    assert text == support.page(), "run `python -m pr2l.vlms.support`"

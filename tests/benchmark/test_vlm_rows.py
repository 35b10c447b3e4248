"""Rows of `pr2l vlm check` become files for a pull request, and a page that is made of these files alone."""

import pytest
from small_vlms import CASE, folder

from pr2l import __version__
from pr2l.benchmark.public import check_public
from pr2l.benchmark.vlms import FOLDER, PAGE, cell, page, read_rows, speed_of, submit
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.profiling.vlm_check import check
from pr2l.profiling.vlm_row import Speed, read_row, validated


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A row of a small checkpoint, without speed."""
    path = tmp_path_factory.mktemp("checked") / "row.json"
    check(str(folder(CASE["llava"])), {"new_tokens": 2, "image_size": 32}, batches=(), out=path)
    return path


@pytest.fixture
def changed(checked, tmp_path):
    """Write the row with other values, and the digest that fits them."""

    def write(**values):
        path = tmp_path / "changed.json"
        write_json(path, read_json(checked) | values)
        return path

    return write


def test_committed_page_equals_the_committed_rows():
    text = (FOLDER / PAGE).read_text(encoding="utf-8")
    assert text == page(read_rows(FOLDER)), "run `python -m pr2l.benchmark.vlms`"


def test_committed_rows_are_public():
    for path in FOLDER.glob("*.json"):
        check_public(read_json(path), str(path))


def test_submitted_row_is_a_file_and_a_line_of_the_page(checked, tmp_path):
    out = tmp_path / "rows"
    file, table = submit([checked], out)
    row = read_row(checked)
    assert file == out / f"{row.name}.json" and read_rows(out) == [row]
    text = table.read_text(encoding="utf-8")
    assert text == page([row]) and f"[{row.model}]({file.name}): llava, float32, new_tokens=2, image_size=32" in text
    assert "exact: " in text and "nothing of the prompt" in text and "| not measured |" in text
    assert submit([checked], out) == [file, table]  # the same row again


def test_row_of_another_check_is_not_replaced(checked, changed, tmp_path):
    submit([checked], tmp_path / "rows")
    with pytest.raises(UserError, match="exists and belongs to another check; delete it to replace it"):
        submit([changed(date="2020-01-01")], tmp_path / "rows")


def test_two_rows_with_one_name_are_refused(checked, changed, tmp_path):
    with pytest.raises(UserError, match="two of these rows are of the same checkpoint"):
        submit([checked, changed(date="2020-01-01")], tmp_path / "rows")


def test_page_without_rows_says_so():
    assert "No checkpoint has been submitted yet." in page([])


def one_state(row, value):
    """Return the cases of a row, with another difference in one of them."""
    cases = read_json(row)["cases"]
    cases["equal lengths"]["relative"][0] = value
    return cases


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speeds": []}, "unknown key 'speeds'. Did you mean 'speed'?"),
        ({"dtype": "float64"}, "dtype = 'float64'"),
        ({"commit": "abc"}, "commit = 'abc'"),
        ({"pr2l": "0.0.1"}, rf"is of pr2l 0.0.1, and this is pr2l {__version__}; run `pr2l vlm check"),
        ({"layers": [0]}, "do not have one number for each of the layers"),
        ({"options": {"image_sise": 3}}, "Did you mean 'image_size'"),
        ({"machine": "a machine of /home/ada/"}, "cannot be published.*\n  machine = "),
        ({"device": "~/ada"}, "cannot be published.*\n  device = "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_row_that_is_not_valid_or_not_public_is_refused(changed, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        submit([changed(**values)], tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_difference_that_is_not_finite_or_negative_is_refused(checked, value):
    with pytest.raises(UserError, match=r"cases.equal lengths.relative"):
        validated(read_json(checked) | {"cases": one_state(checked, value)}, "row")


def test_cases_of_another_size_are_refused(checked, changed, tmp_path):
    cases = read_json(checked)["cases"]
    cases["equal lengths"] |= {"rows": 2, "same_answers": 2}
    with pytest.raises(UserError, match="case 'equal lengths' is not one of .*edited by hand"):
        submit([changed(cases=cases)], tmp_path / "rows")
    cases["equal lengths"] |= {"rows": 3, "same_answers": 4}
    with pytest.raises(UserError, match="more equal answers than rows"):
        submit([changed(cases=cases)], tmp_path / "rows")


@pytest.mark.parametrize("damage", [lambda text: text[:-200], lambda text: text.replace('"threads": ', '"threads": 1')])
def test_damaged_row_is_refused(checked, tmp_path, damage):
    path = tmp_path / "row.json"
    path.write_text(damage(checked.read_text()))
    with pytest.raises(UserError, match="is damaged.*pr2l vlm check MODEL` writes it again"):
        submit([path], tmp_path / "rows")


def test_row_under_another_name_is_refused(checked, tmp_path):
    submit([checked], tmp_path)
    [file] = tmp_path.glob("*.json")
    file.rename(tmp_path / "other.json")
    with pytest.raises(UserError, match=f"rename it to {file.name}"):
        read_rows(tmp_path)


def test_large_difference_or_other_answers_are_not_exact(checked, changed):
    assert read_row(checked).verdict == "exact"
    assert read_row(changed(cases=one_state(checked, 2e-4))).verdict == "not exact"
    cases = read_json(checked)["cases"]
    cases["17 rows"]["same_answers"] = 16
    assert read_row(changed(cases=cases)).verdict == "not exact"
    assert read_row(changed(cases=cases, dtype="bfloat16")).verdict == "exact up to rounding"


def test_speed_on_a_busy_machine_is_marked(checked):
    speed = (Speed(batch=1, frames_per_second=3.0), Speed(batch=16, frames_per_second=1234.5))
    row = read_row(checked).model_copy(update={"speed": speed, "busy": 0.5, "threads": 2})
    rates = "3.0 frames/s in batches of 1, 1,234.5 frames/s in batches of 16; threads: 2"
    assert speed_of(row) == f"{rates}; other programs used 50% of the cores"
    assert speed_of(row.model_copy(update={"busy": 0.05})) == rates


def test_text_of_a_row_cannot_leave_its_cell():
    assert cell("a|b\n`c` [d](e) <script>") == "a/b 'c' (d)(e) &lt;script&gt;"

"""Damaged tables of pictures and labels of data sets."""

from types import SimpleNamespace

import pytest

from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile
from pr2l.prompting import examples


def test_table_without_a_closing_quotation_mark_is_refused(tmp_path):
    (tmp_path / examples.TABLE).write_text('file,present\n"a.png,yes\n' + "b.png,no\n" * 20_000)
    with pytest.raises(UserError, match=r"labels\.csv cannot be read as CSV: field larger than field limit"):
        examples.from_table(tmp_path)


@pytest.mark.parametrize("line", ['[[{"name": "imp"', "[" * 100_000, "1", "\xff"])
def test_labels_that_are_not_json_lists_are_damaged(line, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "Recording", lambda folder: SimpleNamespace(contexts=[{}]))
    (tmp_path / examples.LABELS).write_bytes(f"{line}\n".encode("latin-1"))
    with pytest.raises(DamagedFile, match=r"labels\.jsonl is damaged.*Collect the data set again with --labels"):
        examples.from_recording(tmp_path, [], 1, 0)

"""The notebooks run from top to bottom, show their figures, and are kept without outputs."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from rich.table import Table
from rich.text import Text

from pr2l.prompting.notebook import HtmlTable, pictures, upload

NOTEBOOKS = sorted((Path(__file__).parents[2] / "prompts" / "notebooks").glob("*.ipynb"))
FIGURES = {"write_a_prompt": 3, "inspect_embeddings": 3, "compare_encoders": 1, "read_a_run": 2}
TABLES = {"write_a_prompt", "read_a_run"}
QUICK = "write_a_prompt"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.cells[0].cell_type == "markdown"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == QUICK else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def test_a_notebook_runs_and_shows_its_figures(path, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows figures in the notebook
    notebook = nbformat.read(path, as_version=4)
    kernel = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(notebook, timeout=250, kernel_name="python3", resources=kernel).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == FIGURES[path.stem]
    red = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert red == [], "a notebook shows what a program writes to stderr in red"
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("</table>" in table for table in tables) == (path.stem in TABLES)
    assert not any("rich.table" in output.get("data", {}).get("text/plain", "") for output in outputs if not tables)


def test_a_rich_table_becomes_html_with_escaped_cells():
    table = Table("prompt", "score", title="best")
    table.add_row(Text("[red] <b>"), "0.50")
    html = HtmlTable(table)._repr_html_()
    assert "<td style='text-align: left'>[red] &lt;b&gt;</td>" in html and ">score</th>" in html and "best" in html


def test_pictures_are_uploaded_or_read_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.new("RGBA", (40, 30), "red").save(picture, "PNG")
    files = [{"content": memoryview(picture.getvalue())}, {"content": memoryview(b"no picture")}]
    [frame] = pictures(SimpleNamespace(value=files), (12, 16))
    assert frame.shape == (12, 16, 3) and frame.dtype == "uint8" and (frame == (255, 0, 0)).all()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as in the locked environment
    place = upload()
    assert str(tmp_path / "pictures") in place and pictures(place, (12, 16)) == []
    (tmp_path / "pictures" / "mine.png").write_bytes(picture.getvalue())
    assert len(pictures(place, (12, 16))) == 1

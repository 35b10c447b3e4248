"""The notebooks run without errors, show figures and tables, and are committed without outputs."""

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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.cells[0].cell_type == "markdown"


@pytest.mark.slow  # 15 seconds and more each, half of them the imports of a new kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_figures(path, tmp_path, monkeypatch):
    """On fewer frames; in a kernel of its own, because warnings of imports would be shown in red."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # so that the kernel's backend shows figures in the notebook
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"frames": 160', '"frames": 30')
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == FIGURES[path.stem]
    stderr = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert stderr == [], "a notebook shows the output to stderr in red"
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("</table>" in table for table in tables) == (path.stem in TABLES)
    assert not any("rich.table" in output.get("data", {}).get("text/plain", "") for output in outputs if not tables)


def test_html_table_escapes_cells():
    table = Table("prompt", "score", title="best")
    table.add_row(Text("[red] <b>"), "0.50")
    html = HtmlTable(table)._repr_html_()
    assert "<td style='text-align: left'>[red] &lt;b&gt;</td>" in html and ">score</th>" in html and "best" in html


def test_pictures_come_from_an_upload_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.new("RGBA", (40, 30), "red").save(picture, "PNG")
    uploads = [{"content": memoryview(picture.getvalue())}, {"content": memoryview(b"no picture")}]
    [frame] = pictures(SimpleNamespace(value=uploads), (12, 16))
    assert frame.shape == (12, 16, 3) and frame.dtype == "uint8" and (frame == (255, 0, 0)).all()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # requirements.lock lacks it
    message = upload()
    assert str(tmp_path / "pictures") in message and "pip install ipywidgets" in message
    assert pictures(message, (12, 16)) == []
    (tmp_path / "pictures" / "mine.png").write_bytes(picture.getvalue())
    assert len(pictures(message, (12, 16))) == 1

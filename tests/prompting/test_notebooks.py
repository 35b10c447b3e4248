"""The notebooks run from top to bottom, show their figures, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "prompts" / "notebooks").glob("*.ipynb"))
FIGURES = {"write_a_prompt": 3, "inspect_embeddings": 3, "compare_encoders": 1, "read_a_run": 2}
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
    shown = [out for cell in done.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(shown) == FIGURES[path.stem]

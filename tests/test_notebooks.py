"""The notebooks run as they stand, and are committed with the outputs of such a run."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
assert NOTEBOOKS
# Largest file that is committed.
BYTES = 600_000

each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def execute():
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@each
def test_runs_from_top_to_bottom(file, execute):
    # A cell that fails raises here. So few epochs show that it runs, not what it shows.
    notebook = execute(file, {"PTSNE_EPOCHS": "2"})
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_is_committed_with_the_outputs_of_one_run(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # Nothing of the machine that it ran on.
    texts = (o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
    text = "".join(texts)
    assert not [word for word in ("/tmp", "/home", "WARNING") if word in text]
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]
    assert notebook.metadata.kernelspec.name == "python3"
    assert file.stat().st_size < BYTES

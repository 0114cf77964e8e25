"""The example notebooks run from start to end, and show pictures."""

import os

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

EXAMPLES = os.path.join(os.path.dirname(__file__), "..", "examples")


@pytest.mark.parametrize("name, pictures", [("sample_encode_interpolate", 5), ("your_network", 2)])
def test_a_notebook_runs(name, pictures, tmp_path):
    if name == "your_network":
        pytest.importorskip("torch", reason="PyTorch is not installed: your_network.ipynb is not executed")
    notebook = nbformat.read(os.path.join(EXAMPLES, f"{name}.ipynb"), 4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    assert not any(output.output_type == "stream" and output.name == "stderr" for output in outputs)

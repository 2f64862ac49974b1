"""The notebook runs from top to bottom, and what it prints is what it says."""

import json
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "residual_network.ipynb"

# Appended to a copy: what the notebook's own variables hold at its end.
REPORT = """
import json
print("REPORT", json.dumps({
    "results": results, "widths": widths, "moved": extraction.max_difference, "pruned": pruned.max_difference,
    "kind": pruned.kind, "onnx": onnx_difference,
}))
"""


def run(folder, monkeypatch):
    for package in ("nbclient", "nbformat", "ipykernel", "matplotlib"):
        pytest.importorskip(package, reason=f"{package} runs or draws the notebook (pip install {package})")
    import nbclient
    import nbformat

    monkeypatch.setenv("GLYPTIC_DATA", str(ROOT / "data"))
    monkeypatch.setenv("TMPDIR", str(folder))
    # The kernel's settings and sockets belong to this run as well.
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "PASSIVE"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    # A cell that fails raises here, with its traceback. 300 s: on a machine that is busy with other things.
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def test_it_runs_and_its_numbers_are_sane(tmp_path, monkeypatch):
    notebook = run(tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "the plot was drawn"
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    report = json.loads(text.rsplit("REPORT ", 1)[1])

    results, widths = report["results"], report["widths"]
    assert set(results) == {"dense", "Chase, masked", "Chase, extracted", "pruned, fine-tuned"}
    for name, row in results.items():
        # Ten classes, so 10 % is chance. Over six seeds no network came below 94 %.
        assert row["accuracy"] > 80, name
        assert row["ms1"] > 0 and row["ms128"] > 0
    dense = results["dense"]["parameters"]
    assert results["Chase, masked"]["parameters"] == dense
    assert results["Chase, extracted"]["parameters"] < dense
    assert results["pruned, fine-tuned"]["parameters"] < dense / 2  # half of the channels on both sides of most layers
    # The extracted network computes what the masked one does: at most a tie on one of 1,000 images falls otherwise.
    assert abs(results["Chase, extracted"]["accuracy"] - results["Chase, masked"]["accuracy"]) < 0.11

    for name in ("Chase, extracted", "pruned, fine-tuned"):
        assert all(small <= large for small, large in zip(widths[name], widths["dense"]))
        assert sum(widths[name]) < sum(widths["dense"])
    # Half of the 16 + 32 + 32 + 64 channels inside blocks, whatever their place.
    assert sum(widths["dense"]) - sum(widths["Chase, extracted"]) == 72
    # The library's own tolerance of a check; float32 rounding through the layers for the exported one.
    assert report["moved"] <= 1e-5 and report["pruned"] <= 1e-5 and report["kind"] == "class"
    assert report["onnx"] is None or report["onnx"] < 1e-3


def test_it_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 10
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)

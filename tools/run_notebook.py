"""Run notebooks/tour.ipynb from top to bottom and keep its outputs: python tools/run_notebook.py [notebook]

Needs the package's own weights and portraits, and .[dev]. What depends on the machine or the moment is left out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().parents[1] / "notebooks" / "tour.ipynb"


def run(path: Path, timeout: float = 600.0) -> nbformat.NotebookNode:
    """Execute a notebook; what is returned has its outputs, the file is as it was.

    timeout: seconds a cell may take.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        record_timing=False, extra_arguments=["--IPKernelApp.log_level=40"],  # no warning about TCP on this machine
    )  # fmt: skip
    client.execute()
    return notebook


def clean(notebook: nbformat.NotebookNode) -> None:
    """Leave progress bars and warnings out, and number the cells from 1."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TOUR
    start = time.perf_counter()
    notebook = run(path)
    seconds = time.perf_counter() - start
    clean(notebook)
    nbformat.write(notebook, path)
    print(f"{path}: {seconds:.0f} s, {path.stat().st_size / 1e6:.1f} MB with its outputs")


if __name__ == "__main__":
    main()

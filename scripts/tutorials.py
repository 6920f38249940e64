"""Runs the notebooks of docs/tutorials from the first cell to the last, and keeps what they show: `make tutorials`.

python scripts/tutorials.py [NAME ...]    NAME is that of a notebook, without .ipynb; all of them without one
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of all its cells, run in `folder` by this Python, its commands among the programs.

    CellExecutionError where a cell fails. What went to standard error (progress) is left out, and so is everything that
    differs from one run to the next without being looked at.
    """
    notebook = nbformat.read(path, as_version=4)
    path_before = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path_before}"
    try:
        with tempfile.TemporaryDirectory() as sockets:
            config = Config({"AsyncKernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})  # opens no port
            place = {"metadata": {"path": str(folder)}}
            NotebookClient(notebook, config=config, timeout=600, coalesce_streams=True, resources=place).execute()
    finally:
        os.environ["PATH"] = path_before
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "text" in output:
                    output.text = output.text.replace(str(Path.home()), "~")
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    """Run each notebook in an empty folder and write it back with what it showed."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if len(sys.argv) > 1 and path.stem not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run_notebook(path, Path(folder)), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()

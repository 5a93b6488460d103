"""Execute notebooks from top to bottom and keep their outputs: `python notebooks/execute.py`."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import ipykernel.kernelspec
import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

import ptsne_keras

FOLDER = Path(__file__).parent


def execute(
    file: Path, environment: dict[str, str] | None = None, timeout: float = 600
) -> nbformat.NotebookNode:
    """Run a notebook in a folder of its own and return it with its outputs.

    The kernel is the interpreter that runs this, whatever kernels the machine has, and the package
    is the one that this interpreter has.
    """
    notebook = nbformat.read(file, as_version=4)
    package = Path(ptsne_keras.__file__).resolve().parent
    paths = [str(package.parent), os.environ.get("PYTHONPATH", "")]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **(environment or {}),
    }
    variables.pop("MPLBACKEND", None)  # the kernel's own shows pictures in the notebook
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder, "kernels")
        ipykernel.kernelspec.write_kernel_spec(kernels / "python3")  # of sys.executable
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(
                kernel_dirs=[str(kernels)], ensure_native_kernel=False
            ),
        )
        work = Path(folder, "work")
        work.mkdir()
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=timeout,
            record_timing=False,
            resources={"metadata": {"path": str(work)}},
        )
        client.execute(env=variables, cleanup_kc=True)  # and end the kernel
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out what differs from machine to machine: log lines, versions."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if not (output.output_type == "stream" and output.name == "stderr")
            ]
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def main() -> None:
    """Execute the notebooks that are named, or all, in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    for file in parser.parse_args().files:
        print(file, file=sys.stderr)
        nbformat.write(clean(execute(file)), file)


if __name__ == "__main__":
    main()

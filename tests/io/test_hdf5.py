"""What a damaged HDF5 file may take is bounded."""

import anndata
import h5py
import pytest

from ptsne_keras.io import _hdf5
from ptsne_keras.io.rows import Reader


def test_lengths_of_texts_in_hdf5_are_not_believed(rng, tmp_path):
    file = tmp_path / "cells.h5ad"
    anndata.AnnData(rng.normal(size=(5, 3))).write_h5ad(file)
    with h5py.File(file) as held:
        at = held["obs/_index"].id.get_offset()
    body = bytearray(file.read_bytes())
    body[at : at + 4] = b"\xff" * 4  # a name of 4 GB
    file.write_bytes(body)
    with pytest.raises(ValueError, match=r"cells\.h5ad should be a whole .* Received: .*memory"):
        Reader(file)


def test_hdf5_may_take_no_more_than_so_long(rng, tmp_path, monkeypatch):
    file, program = tmp_path / "cells.h5ad", tmp_path / "circles.py"
    anndata.AnnData(rng.normal(size=(5, 3))).write_h5ad(file)
    # In place of the reading of a file whose addresses go in circles.
    program.write_text(
        "import sys\nfrom ptsne_keras.io import _hdf5\n"
        "_hdf5._limit(*map(int, sys.argv[2:]))\nwhile True: pass\n"
    )
    monkeypatch.setattr(_hdf5, "__file__", str(program))
    monkeypatch.setattr(_hdf5, "_SPEED", 1e9)
    monkeypatch.setattr(_hdf5, "_SECONDS", 1)
    with pytest.raises(ValueError, match="Received: HDF5 needs more than 1 s or 256 MB"):
        Reader(file)

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
    file = tmp_path / "cells.h5ad"
    anndata.AnnData(rng.normal(size=(5, 3))).write_h5ad(file)
    monkeypatch.setattr(_hdf5, "_SPEED", 1e9)
    monkeypatch.setattr(_hdf5, "_SECONDS", 0)  # and none for importing h5py
    with pytest.raises(ValueError, match="Received: HDF5 needs more than 0 s or 256 MB"):
        Reader(file)

"""Arrays in .npz files, read one by one."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Archive(Mapping[str, Any]):
    """Arrays of an .npz file, each of which is read when it is asked for."""

    def __init__(self, file: Path, names: Collection[str] | None = None) -> None:
        self.file = file
        self._read: dict[str, Any] = {}
        with zipfile.ZipFile(file) as archive:
            members = [m.removesuffix(".npy") for m in archive.namelist() if m.endswith(".npy")]
            chosen = members if names is None else [name for name in members if name in names]
            self.shapes = {name: _shape(archive, name) for name in chosen}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            if self.shapes[name] is None:
                raise ValueError(
                    f"Array {name!r} of {self.file} should be numbers or text; save it as "
                    f"{name}.astype(str). Received: Python objects."
                )
            with np.load(self.file, allow_pickle=False) as archive:
                self._read[name] = archive[name]
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...] | None:
    with archive.open(f"{name}.npy") as stream:
        form = np.lib.format
        first = form.read_magic(stream) == (1, 0)
        header = form.read_array_header_1_0 if first else form.read_array_header_2_0
        shape, _, dtype = header(stream)
    return None if dtype.hasobject else tuple(shape)

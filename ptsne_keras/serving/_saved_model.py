"""The SavedModel itself: signatures, warm-up records and facts, written into one folder."""

import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras

from ptsne_keras import networks
from ptsne_keras.serving import _precision, checks, signatures, warmup
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files

# Rows of the warm-up requests: servers may choose other code for one row than for many.
_WARM = (1, 64)


class Options(NamedTuple):
    """What to write beside the encoder."""

    model: str
    sample: FloatArray | None
    """Raw training rows [n, D], for the map error and the warm-up."""
    bfloat16: bool
    facts: Mapping[str, Any]
    decoder: keras.Model | None = None


def write(encoder: keras.Model, judge: keras.Model | None, path: Path, options: Options) -> None:
    """Write the SavedModel with TensorFlow; raise if no stock server could run it."""
    served, facts, sample = encoder, dict(options.facts), options.sample
    if options.bfloat16 and sample is not None:
        served = _precision.bfloat16(encoder)
        facts |= {
            "precision": "bfloat16",
            "map_error": _precision.map_error(encoder, served, sample),
        }
    if isinstance(encoder.layers[-1], networks.Placement):
        facts["reference_rows"] = encoder.layers[-1].n_references
    archive = keras.export.ExportArchive()
    # No track(): it writes every weight a second time, and a server then holds both.
    judge = served if judge is encoder else judge
    endpoints = signatures.endpoints(served, judge, options.decoder)
    for name, (function, spec) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(path), verbose=False)
    rows = signatures.normal_rows(encoder, max(_WARM)) if sample is None else sample
    places = signatures.embedding(encoder)(rows[: max(_WARM)])["embedding"]
    given = {name: places if name == signatures.INVERSE else rows for name in endpoints}
    requests = [(name, signatures.inputs(name, given[name][:n])) for name in given for n in _WARM]
    warmup.write(path, options.model, requests)
    if facts:
        files.write(path / checks.FACTS, json.dumps(facts).encode())
    report = checks.check(path)
    if not report.ok:
        failed = [f"{f.what}: {f.found}" for f in report.findings if not f.ok]
        raise ValueError(
            "encoder should use operations that a stock server has, and give finite answers. "
            f"Received: {encoder.name!r}; {'; '.join(failed)}"
        )


def main(folder: str, path: str) -> None:
    """Write the encoder and the options that `export_saved_model` left in a folder."""
    encoder = keras.saving.load_model(Path(folder) / "encoder.keras", compile=False)
    judge, file = None, Path(folder) / "judge.keras"
    if isinstance(encoder.layers[-1], networks.Placement):
        judge = encoder
    elif file.exists():
        judge = keras.saving.load_model(file, compile=False)
    write(encoder, judge, Path(path), pickle.loads((Path(folder) / "options").read_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])

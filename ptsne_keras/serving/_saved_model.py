"""The SavedModel itself: signatures, warm-up records and facts, written into one folder."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras

from ptsne_keras.serving import _precision, checks, signatures, warmup
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files
from ptsne_keras.utils.novelty import Landmarks

# Rows of the warm-up requests: servers may choose other code for one row than for many.
_WARM = (1, 64)


class Reference(NamedTuple):
    """What is known of the training rows."""

    landmarks: Landmarks
    sample: FloatArray  # raw rows [n, D], for the map error and the warm-up


class Options(NamedTuple):
    """What to write beside the encoder."""

    model: str
    reference: Reference | None
    bfloat16: bool
    facts: Mapping[str, Any]


def write(encoder: keras.Model, path: Path, options: Options) -> None:
    """Write the SavedModel with TensorFlow; raise if no stock server could run it."""
    served, facts, reference = encoder, dict(options.facts), options.reference
    if options.bfloat16 and reference is not None:
        served = _precision.bfloat16(encoder)
        error = _precision.map_error(encoder, served, reference.sample)
        facts |= {"precision": "bfloat16", "map_error": error}
    archive = keras.export.ExportArchive()
    # No track(): it writes every weight a second time, and a server then holds both.
    endpoints = signatures.endpoints(served, None if reference is None else reference.landmarks)
    for name, (function, spec) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(path), verbose=False)
    rows = signatures.normal_rows(encoder, max(_WARM)) if reference is None else reference.sample
    requests = [(name, signatures.inputs(name, rows[:n])) for name in endpoints for n in _WARM]
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


def rebuild(folder: str, path: str) -> None:
    """Write the encoder and the options that `export_saved_model` left in a folder."""
    encoder = keras.saving.load_model(Path(folder) / "encoder.keras", compile=False)
    write(encoder, Path(path), pickle.loads((Path(folder) / "options").read_bytes()))

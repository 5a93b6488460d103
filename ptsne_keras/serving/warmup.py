"""Warm-up records: requests that TensorFlow Serving replays before it answers the first client."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""Where in a SavedModel's folder a server looks for them."""

# Fields of tensorflow_serving's protos. Its Python package is not needed to write them: with its
# dependencies it would install another TensorFlow beside tensorflow-cpu.
_PREDICT_LOG = 6  # in PredictionLog
_REQUEST = 1  # in PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # in PredictRequest
_NAME, _SIGNATURE_NAME = 1, 3  # in ModelSpec
_KEY, _VALUE = 1, 2  # in an entry of a map


def write(folder: Path, model: str, requests: list[tuple[str, Mapping[str, tf.Tensor]]]) -> None:
    """Write requests (signature, inputs by name) as `PredictionLog` records of a model."""
    file = folder / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as records:
        for signature, inputs in requests:
            records.write(_prediction_log(model, signature, inputs))


def read(folder: Path) -> list[tuple[str, dict[str, tf.Tensor]]]:
    """Read the records back: (signature, inputs by name)."""
    file = folder / FILE
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
        return [_request(record) for record in records]
    except (tf.errors.OpError, IndexError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} should hold PredictionLog records. Received: {str(error).splitlines()[0]}"
        ) from None


def _prediction_log(model: str, signature: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    spec = _field(_NAME, model.encode()) + _field(_SIGNATURE_NAME, signature.encode())
    request = _field(_MODEL_SPEC, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, tensor))
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _request(record: bytes) -> tuple[str, dict[str, tf.Tensor]]:
    log = dict(_fields(record))[_PREDICT_LOG]
    request = dict(_fields(log))[_REQUEST]
    spec = dict(_fields(dict(_fields(request))[_MODEL_SPEC]))
    entries = [dict(_fields(entry)) for number, entry in _fields(request) if number == _INPUTS]
    inputs = {entry[_KEY].decode(): _tensor(entry[_VALUE]) for entry in entries}
    return spec.get(_SIGNATURE_NAME, b"serving_default").decode(), inputs


def _tensor(data: bytes) -> tf.Tensor:
    proto = type(tf.make_tensor_proto(0)).FromString(data)
    return tf.constant(tf.make_ndarray(proto))


def _field(number: int, payload: bytes) -> bytes:
    """Encode one length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the (number, payload) of a message whose fields are all length-delimited."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        size, at = _read_varint(data, at)
        if key & 7 != 2 or at + size > len(data):
            raise ValueError("a record that is truncated or of another kind")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at

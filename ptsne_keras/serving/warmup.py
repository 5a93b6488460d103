"""Warm-up records: requests that TensorFlow Serving replays before it answers the first client."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""Where in a SavedModel's folder servers look for them."""

Request: TypeAlias = tuple[str, Mapping[str, tf.Tensor]]
"""A signature, and its inputs by name."""

# The fields in use of tensorflow_serving/apis/prediction_log.proto and the files it imports, under
# names of our own. Its Python package is not needed: with its dependencies it would install another
# TensorFlow beside tensorflow-cpu.
_SCHEMA = """
name: "ptsne_keras/warmup.proto" package: "ptsne_keras" syntax: "proto3" dependency: "TENSOR"
message_type { name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "signature_name" number: 3 type: TYPE_STRING }
}
message_type { name: "PredictRequest"
  field { name: "model_spec" number: 1 type: TYPE_MESSAGE type_name: "ModelSpec" }
  field { name: "inputs" number: 2 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: "InputsEntry" }
  nested_type { name: "InputsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.TensorProto" }
  }
}
message_type { name: "PredictLog"
  field { name: "request" number: 1 type: TYPE_MESSAGE type_name: "PredictRequest" }
}
message_type { name: "PredictionLog"
  field { name: "predict_log" number: 6 type: TYPE_MESSAGE type_name: "PredictLog" }
}
""".replace("TENSOR", tensor_pb2.DESCRIPTOR.name)


_FILES = [text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto())]
_MESSAGES: Any = message_factory.GetMessages(_FILES, pool=descriptor_pool.Default())
_PredictionLog = _MESSAGES["ptsne_keras.PredictionLog"]


def write(folder: Path, model: str, requests: Sequence[Request]) -> None:
    """Write requests of a model as `PredictionLog` records."""
    file = folder / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as records:
        for signature, inputs in requests:
            log = _PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model, signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            records.write(log.SerializeToString())


def read(folder: Path) -> list[Request]:
    """Read the records, or raise a ValueError if the file holds anything else."""
    file = folder / FILE
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
        return [_request(_PredictionLog.FromString(record)) for record in records]
    except (tf.errors.OpError, DecodeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} should hold PredictionLog records. Received: {str(error).splitlines()[0]}"
        ) from None


def _request(log: Any) -> Request:
    request = log.predict_log.request
    if not request.inputs:
        raise ValueError("a record without a predict request")
    inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
    return request.model_spec.signature_name or "serving_default", inputs

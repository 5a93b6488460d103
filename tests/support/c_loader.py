"""Run a SavedModel through TensorFlow's C API, with ctypes, NumPy and protobuf only.

    python c_loader.py SAVED_MODEL_DIR INPUTS.npz OUTPUTS.npz

The arrays of INPUTS.npz are named `signature/input`; `signature/input@0`, `…@1` are several
batches, each run by itself. Strings are arrays of a void dtype. This is what a server that knows
nothing of Python sees: neither TensorFlow's Python package nor Keras is imported.
"""

import ctypes
import importlib.util
import subprocess
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t
from ctypes import c_void_p as P
from pathlib import Path

import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

# TF_DataType → NumPy: what a signature of plain numbers can hold.
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}
STRING = 7
# sizeof(TF_TString)
STRING_BYTES = 24


class TFBuffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", P), ("length", c_size_t), ("deallocator", P))


class TFOutput(ctypes.Structure):
    """TF_Output: one output of one operation."""

    _fields_ = (("operation", P), ("index", c_int))


# Function → (result, arguments). Without these ctypes cuts pointers down to 32 bits.
_PROTOTYPES = {
    "TF_NewStatus": (P, []),
    "TF_GetCode": (c_int, [P]),
    "TF_Message": (c_char_p, [P]),
    "TF_NewBuffer": (POINTER(TFBuffer), []),
    "TF_DeleteBuffer": (None, [P]),
    "TF_NewGraph": (P, []),
    "TF_GraphOperationByName": (P, [P, c_char_p]),
    "TF_NewSessionOptions": (P, []),
    # options, run options, path, tags and how many, graph, MetaGraphDef, status
    "TF_LoadSessionFromSavedModel": (P, [P, P, c_char_p, P, c_int, P, P, P]),
    # session, run options, inputs, outputs, targets (each with how many), metadata, status
    "TF_SessionRun": (None, [P, P, P, P, c_int, P, P, c_int, P, c_int, P, P]),
    "TF_AllocateTensor": (P, [c_int, P, c_int, c_size_t]),
    "TF_DeleteTensor": (None, [P]),
    "TF_TensorType": (c_int, [P]),
    "TF_NumDims": (c_int, [P]),
    "TF_Dim": (c_int64, [P, c_int]),
    "TF_TensorData": (P, [P]),
    "TF_TensorByteSize": (c_size_t, [P]),
    "TF_StringInit": (None, [P]),
    "TF_StringCopy": (None, [P, c_char_p, c_size_t]),
}


def load_library():
    """Open TensorFlow's shared libraries and declare the functions used here."""
    spec = importlib.util.find_spec("tensorflow")  # of a top-level package: finds, does not run
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("TensorFlow is not installed.")
    folder = Path(spec.submodule_search_locations[0])
    # The second library takes its symbols from the first.
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _fields(data):
    """Return a protobuf message's (field number, value) pairs; a value is an int or bytes."""
    message = UnknownFieldSet(Empty.FromString(data))  # by their numbers, without a schema
    return [(field.field_number, field.data) for field in message]


def _map(data, field):
    """Read a map<string, message>: repeated entries of key = 1, value = 2."""
    entries = [dict(_fields(value)) for number, value in _fields(data) if number == field]
    return {entry[1].decode(): entry.get(2, b"") for entry in entries}


def _signatures(meta_graph):
    """Read the inputs and outputs of each signature: name → (operation:index, TF_DataType).

    MetaGraphDef: signature_def = 5; SignatureDef: inputs = 1, outputs = 2; TensorInfo: name = 1,
    dtype = 2.
    """

    def infos(data, field):
        tensors = {name: dict(_fields(info)) for name, info in _map(data, field).items()}
        return {name: (info[1].decode(), info.get(2)) for name, info in tensors.items()}

    return {name: (infos(data, 1), infos(data, 2)) for name, data in _map(meta_graph, 5).items()}


class SavedModel:
    """A SavedModel in a session that lives as long as the process."""

    def __init__(self, path):
        """Load the graph and restore its variables."""
        self._tf = load_library()
        self._status = self._tf.TF_NewStatus()
        self._graph = self._tf.TF_NewGraph()
        buffer = self._tf.TF_NewBuffer()
        options = self._tf.TF_NewSessionOptions()
        tags = (c_char_p * 1)(b"serve")
        self._session = self._tf.TF_LoadSessionFromSavedModel(
            options, None, path.encode(), tags, 1, self._graph, buffer, self._status
        )
        self._check()
        meta_graph = ctypes.string_at(buffer.contents.data, buffer.contents.length)
        self._signatures = _signatures(meta_graph)
        self._tf.TF_DeleteBuffer(buffer)

    def run(self, signature, batch):
        """Answer one batch: arrays by input name → arrays by output name."""
        inputs, outputs = self._signatures[signature]
        if batch.keys() != inputs.keys():
            raise KeyError(f"Inputs should be {sorted(inputs)}. Received: {sorted(batch)}.")
        given = [self._to_tensor(batch[name], dtype) for name, (_, dtype) in inputs.items()]
        feeds, fetches = self._ports(inputs), self._ports(outputs)
        values = (P * len(given))(*given)
        results = (P * len(fetches))()
        self._tf.TF_SessionRun(
            *(self._session, None, feeds, values, len(feeds)),
            *(fetches, results, len(fetches), None, 0, None, self._status),
        )
        self._check()
        answers = dict(zip(outputs, map(self._to_array, results), strict=True))
        for tensor in (*given, *results):
            self._tf.TF_DeleteTensor(tensor)
        return answers

    def _check(self):
        """Raise what the last call reported, if not success."""
        if self._tf.TF_GetCode(self._status) != 0:
            raise RuntimeError(self._tf.TF_Message(self._status).decode())

    def _ports(self, infos):
        """Find the signature's tensors in the graph."""
        ports = (TFOutput * len(infos))()
        for port, (name, _) in zip(ports, infos.values(), strict=True):
            operation, _, index = name.partition(":")
            port.operation = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
            port.index = int(index or 0)
            if not port.operation:
                raise KeyError(f"The graph has no operation {operation!r}.")
        return ports

    def _to_tensor(self, array, dtype):
        """Copy an array into a new TF_Tensor."""
        if dtype == STRING:
            return self._to_strings(array)
        # Not cast: that the client's dtype is the signature's is a thing to find out.
        if array.dtype != DTYPES[dtype]:
            raise TypeError(f"Input should be {DTYPES[dtype].__name__}. Received: {array.dtype}.")
        array = np.ascontiguousarray(array)
        shape = (c_int64 * array.ndim)(*array.shape)
        tensor = self._tf.TF_AllocateTensor(dtype, shape, array.ndim, array.nbytes)
        ctypes.memmove(self._tf.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def _to_strings(self, array):
        """Copy byte strings of one length [n] into a new TF_Tensor."""
        shape = (c_int64 * 1)(len(array))
        size = STRING_BYTES * len(array)
        tensor = self._tf.TF_AllocateTensor(STRING, shape, 1, size)
        start = self._tf.TF_TensorData(tensor)
        for position, value in enumerate(array):
            place = start + position * STRING_BYTES
            self._tf.TF_StringInit(place)
            self._tf.TF_StringCopy(place, value.tobytes(), array.dtype.itemsize)
        return tensor

    def _to_array(self, tensor):
        """Copy a TF_Tensor into a new array."""
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        data = ctypes.string_at(self._tf.TF_TensorData(tensor), self._tf.TF_TensorByteSize(tensor))
        return np.frombuffer(data, DTYPES[self._tf.TF_TensorType(tensor)]).reshape(shape)


def run(path, batches, folder):
    """Answer batches in a process of its own, with files in a folder."""
    np.savez(folder / "in.npz", **batches)
    command = [sys.executable, __file__, path, folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


def main(path, inputs, outputs):
    """Answer every batch of a file into another."""
    batches = {}
    with np.load(inputs) as arrays:
        for key, array in arrays.items():
            signature, _, rest = key.partition("/")
            name, at, i = rest.partition("@")
            batches.setdefault((signature, at + i), {})[name] = array
    model = SavedModel(path)
    answers = {
        f"{signature}/{name}{suffix}": array
        for (signature, suffix), batch in batches.items()
        for name, array in model.run(signature, batch).items()
    }
    np.savez(outputs, **answers)
    imported = {"tensorflow", "keras", "ptsne_keras"} & sys.modules.keys()
    assert not imported, f"should not have been imported: {imported}"


if __name__ == "__main__":
    main(*sys.argv[1:])

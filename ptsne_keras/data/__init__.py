"""`tf.data` pipelines of batches (X, P): rows and their joint probabilities."""

from ptsne_keras.data.batches import from_array, from_graph
from ptsne_keras.data.streams import from_dataset, from_parquet, from_tfrecord

__all__ = ["from_array", "from_dataset", "from_graph", "from_parquet", "from_tfrecord"]

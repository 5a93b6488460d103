"""All three stages on several hosts; run as the script of docs/keras.md."""

import sys

import keras

from ptsne_keras import datasets, losses
from ptsne_keras.data import batches
from ptsne_keras.training import stages

address, hosts, host = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
keras.distribution.initialize(address, hosts, host)
(X, _), _ = datasets.digits()
rbms = stages.pretrain(X[:300], (20, 2), epochs=1, top_epochs=1, seed=0)
distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
keras.distribution.set_distribution(distribution)
R = distribution.num_model_replicas
encoder = stages.unroll(rbms)
data = batches.from_graph(X, 15, batch_size=300, seed=0, replicas=R, jitter=0.5)
history = stages.finetune(
    encoder, data, loss=losses.TSNE(blocks=R), learning_rate=0.02, epochs=3, verbose=0
)
print(history.history["loss"])
keras.distribution.set_distribution(None)
if host == 0:
    encoder.save("encoder.keras")

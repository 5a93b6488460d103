"""Tests of KERAS_BACKEND=jax: `make test-jax`. On another backend they are not collected."""

import keras

collect_ignore_glob = [] if keras.backend.backend() == "jax" else ["*.py"]

"""A table of 90 rows with names and classes, as tests of files and commands use it."""

import numpy as np
import pandas

NAMES = list("abcde")
KINDS = np.array(["left", "right", "up"])[np.arange(90) % 3]
SAMPLES = np.array([f"s{i}" for i in range(90)])


def table(X):
    """A frame with columns sample, a to e, kind."""
    frame = pandas.DataFrame(X, columns=NAMES)
    frame.insert(0, "sample", SAMPLES)
    frame["kind"] = KINDS
    return frame

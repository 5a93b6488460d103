"""Keras callbacks that keep the map as it grows: pictures, and TensorBoard's projector."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import keras
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse
from matplotlib.animation import writers
from matplotlib.axes import Axes

from ptsne_keras import plotting
from ptsne_keras.metrics.procrustes import align
from ptsne_keras.plotting.colors import check_length
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import arrays, files
from ptsne_keras.utils.validation import unmasked

Epochs: TypeAlias = int | Collection[int]

# Matplotlib's writers of animations, and frames per second.
_WRITERS, _SPEED = {".gif": "pillow", ".mp4": "ffmpeg"}, 5
# Size of pictures in inches, and dots per inch.
_SIZE, _DPI = (6.4, 5.6), 80
# Rows mapped at a time.
_BLOCK = 4096


class _MapCallback(keras.callbacks.Callback):
    """Maps some rows at the end of chosen epochs, to files named after the epoch."""

    suffixes: tuple[str, ...] = (".tsv",)

    def __init__(
        self, X: Any, folder: str | os.PathLike[str], labels: Any, epochs: Any, pattern: str
    ) -> None:
        super().__init__()
        several = isinstance(X, tuple | dict)
        self.X = keras.tree.map_structure(_sliceable, X) if several else _sliceable(X)
        self.labels = None if labels is None else np.asarray(unmasked(labels, "labels"))
        shapes = [tuple(x.shape) for x in keras.tree.flatten(self.X)]
        if not shapes or any(len(shape) < 2 or 0 in shape for shape in shapes):
            raise ValueError(f"X should have one or more rows [m, D]. Received: shapes {shapes}.")
        if self.labels is not None:
            check_length(self.labels, shapes[0][0], "labels")
        self.folder = Path(folder).expanduser()
        self._is_chosen, self.pattern = _chooser(epochs), pattern
        self._epoch = self._saved = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the previous run."""
        self._epoch = self._saved = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remove the files of epochs that this run trains again."""
        if self._epoch < 0:
            for number, file in self._files():
                for suffix in self.suffixes if number > epoch else ():
                    file.with_suffix(suffix).unlink(missing_ok=True)
        self._epoch = epoch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Map the rows if this epoch, counted from 1, is a chosen one or the last."""
        number = epoch + 1
        if self._is_chosen(number) or number == self.params["epochs"]:
            self._map(number)

    def on_train_end(self, logs: Any = None) -> None:
        """Map the rows if training stopped before the last epoch."""
        if self._saved < self._epoch:
            self._map(self._epoch)

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Write the map Y [m, d] of the rows after this epoch."""
        raise NotImplementedError

    def _map(self, epoch: int) -> None:
        maps = (self.model(x, training=False) for x in self._blocks())
        Y = np.concatenate([np.asarray(part, np.float32) for part in maps])
        if not np.isfinite(Y).all():
            raise ValueError(
                f"The map should be finite; a smaller learning rate may keep it so. "
                f"Received: NaN or infinity after epoch {epoch}."
            )
        with files.made(self.folder):
            self.save(epoch, Y)
        self._saved = epoch

    def _blocks(self, size: int = _BLOCK) -> Iterator[Any]:
        """Yield the rows in order, dense, in the structure of X."""
        for start in range(0, keras.tree.flatten(self.X)[0].shape[0], size):
            part = slice(start, start + size)
            yield keras.tree.map_structure(lambda x, part=part: arrays.dense(x[part]), self.X)

    def _files(self) -> list[tuple[int, Path]]:
        """Return the epochs and files that the folder holds, in order."""
        found = self.folder.glob(self.pattern.format("[0-9]*"))
        return sorted((int(file.stem.rpartition("_")[2]), file) for file in found)


class MapSnapshots(_MapCallback):
    """Saves pictures of the map at chosen epochs, and an animation of its growth.

    Each map is rotated, mirrored and shifted, but not scaled, onto the one before (orthogonal
    Procrustes, `metrics.align`), because the loss does not depend on where a map lies. At the end
    of a chosen epoch `folder` gets `epoch_0010.png` and the coordinates, `epoch_0010.npy`; at the
    end of training it gets the animation. A run resumed from a backup continues the series.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (m, n_features), or a tuple or dict of them
        Rows to show, a few thousand; a tuple or dict for a model of several inputs.
    folder : path-like
        Created if it does not exist.
    labels : array-like of shape (m,), default=None
        Class of each row.
    epochs : int or collection of int, default=10
        Every how many epochs, or which ones, counted from 1. The last epoch is always included,
        also when training stops early.
    animation : str or None, default="map.gif"
        Name of the animation, ending in ".gif" or, where ffmpeg is installed, ".mp4".

    Raises
    ------
    ValueError
        If the labels are not one per row or the animation cannot be written; when training begins,
        if the map has other than two dimensions.

    Examples
    --------
    >>> snapshots = MapSnapshots(X, "growth", labels=labels, epochs=2)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> dataset = data.from_array(X, 30, seed=0)
    >>> history = model.fit(dataset, epochs=5, callbacks=[snapshots], shuffle=False)
    >>> sorted(os.listdir("growth"))[::2]
    ['epoch_0002.npy', 'epoch_0004.npy', 'epoch_0005.npy', 'map.gif']
    """

    suffixes = (".npy", ".png")

    def __init__(
        self,
        X: Any,
        folder: str | os.PathLike[str],
        *,
        labels: Any = None,
        epochs: Epochs = 10,
        animation: str | None = "map.gif",
    ) -> None:
        super().__init__(X, folder, labels, epochs, "epoch_{}.npy")
        name = Path(animation or "none.gif")
        if name.suffix not in _WRITERS or name.name != str(name):
            raise ValueError(
                'animation should be a file name that ends in ".gif" or ".mp4". '
                f"Received: {animation!r}."
            )
        if animation is not None and not writers.is_available(_WRITERS[name.suffix]):
            raise ValueError(
                f'animation should end in ".gif" where ffmpeg is missing. Received: {animation!r}.'
            )
        self.animation = animation

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the dimensions of the map."""
        super().on_train_begin(logs)
        if self.model.built:  # otherwise the first picture shows
            _check_dimensions(self.model(next(self._blocks(1)), training=False))

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Write coordinates and picture."""
        _check_dimensions(Y)
        before = self._files()
        target = np.load(before[-1][1]) if before else None
        if target is not None and target.shape != Y.shape:
            raise ValueError(
                f"folder should have maps of the same {len(Y)} rows, or none. "
                f"Received: {before[-1][1]} of {len(target)}."
            )
        Y = align(Y, target)
        file = self.folder / f"epoch_{epoch:04d}.npy"
        with files.replacing(file) as beside:
            np.save(beside, Y)
        figure, ax = plt.subplots(figsize=_SIZE, layout="constrained")
        self._draw(ax, epoch, Y)
        with files.replacing(file.with_suffix(".png")) as beside:
            figure.savefig(beside, dpi=_DPI)
        plt.close(figure)

    def on_train_end(self, logs: Any = None) -> None:
        """Write the animation, on axes that hold the largest map."""
        super().on_train_end(logs)
        frames = self._files()
        if self.animation is None or not frames:
            return
        maps = [np.load(file) for _, file in frames]
        radius = 1.05 * max(np.abs(Y).max() for Y in maps)
        figure, ax = plt.subplots(figsize=_SIZE, layout="constrained")
        file = self.folder / self.animation
        writer = writers[_WRITERS[file.suffix]](fps=_SPEED)
        with files.replacing(file) as beside, writer.saving(figure, str(beside), dpi=_DPI):
            for (epoch, _), Y in zip(frames, maps, strict=True):
                ax.clear()
                self._draw(ax, epoch, Y)
                ax.set(xlim=(-radius, radius), ylim=(-radius, radius))
                ax.set_aspect("equal", adjustable="box")  # keeps the limits
                writer.grab_frame()
        plt.close(figure)

    def _draw(self, ax: Axes, epoch: int, Y: FloatArray) -> None:
        plotting.scatter(Y, self.labels, ax=ax).set_title(f"epoch {epoch}", fontsize=10)


class Projector(_MapCallback):
    """Saves maps at chosen epochs for TensorBoard's embedding projector.

    `log_dir` gets `map_0010.tsv`, `labels.tsv` and `projector_config.pbtxt`; then
    ``tensorboard --logdir LOG_DIR`` shows the maps under "Projector".

    Parameters
    ----------
    X, epochs
        As in :class:`MapSnapshots`; by default every 50 epochs.
    log_dir : path-like
        As in `keras.callbacks.TensorBoard`, which writes the scalars.
    labels : array-like of shape (m,), default=None
        Shown beside each point.

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(
    ...     data.from_array(X, 30, seed=0),
    ...     epochs=2,
    ...     shuffle=False,
    ...     callbacks=[Projector(X, "logs", labels=labels), keras.callbacks.TensorBoard("logs")],
    ... )
    >>> sorted(os.listdir("logs"))
    ['labels.tsv', 'map_0002.tsv', 'projector_config.pbtxt', 'train']
    """

    def __init__(
        self, X: Any, log_dir: str | os.PathLike[str], *, labels: Any = None, epochs: Epochs = 50
    ) -> None:
        super().__init__(X, log_dir, labels, epochs, "map_{}.tsv")

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Write the map, and a configuration that names all maps of the folder."""
        with files.replacing(self.folder / f"map_{epoch:04d}.tsv") as beside:
            np.savetxt(beside, Y, fmt="%.6g", delimiter="\t")
        metadata, names = "", self.folder / "labels.tsv"
        if self.labels is None:
            names.unlink(missing_ok=True)
        else:
            lines = "".join(" ".join(str(label).split()) + "\n" for label in self.labels)
            files.write(names, lines.encode())
            metadata = ' metadata_path: "labels.tsv"'
        config = "".join(
            f'embeddings {{ tensor_name: "{file.stem}" tensor_path: "{file.name}"{metadata} }}\n'
            for _, file in self._files()
        )
        files.write(self.folder / "projector_config.pbtxt", config.encode())


def _chooser(epochs: Any) -> Callable[[int], bool]:
    """Return the function that tells whether an epoch is one of those chosen."""
    every = isinstance(epochs, Integral)
    numbers = [epochs] if every or not isinstance(epochs, Iterable) else list(epochs)
    fit = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in numbers)
    if not numbers or not fit:
        raise ValueError(f"epochs should be one or more integers ≥ 1. Received: {epochs!r}.")
    return (lambda epoch: epoch % numbers[0] == 0) if every else (lambda epoch: epoch in numbers)


def _check_dimensions(Y: Any) -> None:
    if (shape := tuple(Y.shape))[1:] != (2,):
        raise ValueError(f"MapSnapshots should get maps [B, 2] from the model. Received: {shape}.")


def _sliceable(X: Any) -> Any:
    return X.tocsr() if scipy.sparse.issparse(X) else np.asarray(unmasked(X, "X"))

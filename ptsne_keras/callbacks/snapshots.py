"""Keras callbacks: schedules by epoch, pictures of the growing map, TensorBoard's projector."""

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse
from matplotlib.animation import writers

from ptsne_keras import plotting
from ptsne_keras.metrics.procrustes import align
from ptsne_keras.typing import FloatArray
from ptsne_keras.utils import files

# Matplotlib's writers of animations.
_WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}
# Inches, and dots an inch.
_SIZE, _DPI = (6.4, 5.6), 80
# Rows mapped at a time.
_BLOCK = 4096


class _MapCallback(keras.callbacks.Callback):
    """Maps some rows as chosen epochs end, in files that are named after the epoch."""

    def __init__(
        self, X: Any, folder: str | os.PathLike[str], labels: Any, epochs: Any, pattern: str
    ) -> None:
        super().__init__()
        self.X = (
            keras.tree.map_structure(_rows_of, X) if isinstance(X, tuple | dict) else _rows_of(X)
        )
        self.labels = None if labels is None else np.asarray(labels)
        shapes = [tuple(x.shape) for x in keras.tree.flatten(self.X)]
        if not shapes or any(len(shape) < 2 or 0 in shape for shape in shapes):
            raise ValueError(f"X should be rows [m, D] of at least one. Received: shapes {shapes}.")
        rows = shapes[0][0]
        if self.labels is not None and len(self.labels) != rows:
            raise ValueError(f"labels should be one a row, {rows}. Received: {len(self.labels)}.")
        self.folder = Path(folder).expanduser()
        self._is_chosen = _chooser(epochs)
        self.pattern = pattern
        self._epoch = self._saved = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        self._epoch = self._saved = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remove what the folder has of epochs that come again."""
        if self._epoch < 0:
            for number, file in self._files():
                if number > epoch:
                    self.remove(file)
        self._epoch = epoch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Map the rows, if this epoch, counted from 1, is a chosen one or the last."""
        number = epoch + 1
        if self._is_chosen(number) or number == self.params["epochs"]:
            self._map(number)

    def on_train_end(self, logs: Any = None) -> None:
        """Map the rows if training stopped before the last epoch."""
        if self._saved < self._epoch:
            self._map(self._epoch)

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Keep the map Y [m, d] of the rows after so many epochs."""
        raise NotImplementedError

    def remove(self, file: Path) -> None:
        """Remove what belongs to one of the files."""
        file.unlink()

    def _map(self, epoch: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [
            np.asarray(self.model(x, training=False), np.float32) for x in _blocks(self.X, _BLOCK)
        ]
        Y = np.concatenate(parts)
        if not np.isfinite(Y).all():
            raise ValueError(
                f"The map should be finite; a smaller learning rate may keep it so. "
                f"Received: NaN or infinity after epoch {epoch}."
            )
        self.save(epoch, Y)
        self._saved = epoch

    def _files(self) -> list[tuple[int, Path]]:
        """Epochs and files that the folder holds, in order."""
        files = self.folder.glob(self.pattern.format("[0-9]*"))
        return sorted((int(file.stem.rpartition("_")[2]), file) for file in files)


class MapSnapshots(_MapCallback):
    """Pictures of the map at chosen epochs, and an animation of its growth.

    Each map is turned, mirrored and moved, but not scaled, onto the one before (orthogonal
    Procrustes: min ‖(Y - ȳ) R - Y_before‖² over orthogonal R), because a map is the same however it
    lies. `folder` gets `epoch_0010.png` and the coordinates, `epoch_0010.npy`, as the epochs end,
    and the animation as training ends. A run that goes on from a backup goes on with its pictures;
    pictures of epochs that are trained again are replaced.

    Parameters
    ----------
    X : array or sparse rows [m, D], or a tuple or dict of them for a model of several inputs
        Rows to show; a few thousand.
    folder : path
        Made if it is missing.
    labels : array [m], optional
        Class of each row.
    epochs : int or collection of int
        Every so many epochs, or these, counted from 1; the last one always, be it because training
        was stopped.
    animation : str or None
        Name of the animation, ".gif" or, where ffmpeg is installed, ".mp4".
    frames_per_second : int
        Of the animation.

    Raises
    ------
    ValueError
        If there is not one label a row, the animation cannot be written, or, as training begins,
        the map has other than two dimensions.

    Examples
    --------
    >>> snapshots = MapSnapshots(X, "growth", labels=labels, epochs=2)
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(batches.from_array(X, 30, seed=0), epochs=5, callbacks=[snapshots])
    >>> sorted(os.listdir("growth"))[::2]
    ['epoch_0002.npy', 'epoch_0004.npy', 'epoch_0005.npy', 'map.gif']

    References
    ----------
    Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.
    """

    def __init__(
        self,
        X: Any,
        folder: str | os.PathLike[str],
        *,
        labels: Any = None,
        epochs: int | Collection[int] = 10,
        animation: str | None = "map.gif",
        frames_per_second: int = 5,
    ) -> None:
        super().__init__(X, folder, labels, epochs, "epoch_{}.npy")
        name = Path(animation or "none.gif")
        if name.suffix not in _WRITERS or name.name != str(name):
            raise ValueError(
                'animation should be a file name that ends in ".gif" or ".mp4". '
                f"Received: {animation!r}."
            )
        if not frames_per_second > 0:
            raise ValueError(
                f"frames_per_second should be above 0. Received: {frames_per_second!r}."
            )
        if animation is not None and not writers.is_available(_WRITERS[Path(animation).suffix]):
            raise ValueError(
                f'animation should end in ".gif" where ffmpeg is missing. Received: {animation!r}.'
            )
        self.animation = animation
        self.frames_per_second = frames_per_second

    def on_train_begin(self, logs: Any = None) -> None:
        """Look at the map's dimensions."""
        super().on_train_begin(logs)
        if self.model.built:  # otherwise the first picture tells
            (x,) = itertools.islice(_blocks(self.X, 1), 1)
            _check_dimensions(self.model(x, training=False))

    def remove(self, file: Path) -> None:
        """Remove a map and its picture."""
        file.unlink()
        file.with_suffix(".png").unlink(missing_ok=True)

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Keep coordinates and picture."""
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
        plotting.map(Y, self.labels, ax=ax).set_title(f"epoch {epoch}", fontsize=10)
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
        writer = writers[_WRITERS[file.suffix]](fps=self.frames_per_second)
        with files.replacing(file) as beside, writer.saving(figure, str(beside), dpi=_DPI):
            for (epoch, _), Y in zip(frames, maps, strict=True):
                ax.clear()
                plotting.map(Y, self.labels, ax=ax).set_title(f"epoch {epoch}", fontsize=10)
                ax.set(xlim=(-radius, radius), ylim=(-radius, radius))
                ax.set_aspect("equal", adjustable="box")  # the limits stay what they are
                writer.grab_frame()
        plt.close(figure)


class Projector(_MapCallback):
    """Maps at chosen epochs for TensorBoard's embedding projector, as text that it reads.

    `log_dir` gets `map_0010.tsv`, `labels.tsv` and `projector_config.pbtxt`; then
    ``tensorboard --logdir LOG_DIR`` shows the maps under "Projector".

    Parameters
    ----------
    X : array or sparse rows [m, D], or a tuple or dict of them for a model of several inputs
        Rows to show.
    log_dir : path
        As of `keras.callbacks.TensorBoard`, which writes the scalars.
    labels : array [m], optional
        Shown beside each point.
    epochs : int or collection of int
        Every so many epochs, or these, counted from 1; the last one always.

    Examples
    --------
    >>> model.compile("adam", loss=losses.TSNE())
    >>> history = model.fit(
    ...     batches.from_array(X, 30, seed=0),
    ...     epochs=2,
    ...     callbacks=[Projector(X, "logs", labels=labels), keras.callbacks.TensorBoard("logs")],
    ... )
    >>> sorted(os.listdir("logs"))
    ['labels.tsv', 'map_0002.tsv', 'projector_config.pbtxt', 'train']
    """

    def __init__(
        self,
        X: Any,
        log_dir: str | os.PathLike[str],
        *,
        labels: Any = None,
        epochs: int | Collection[int] = 50,
    ) -> None:
        super().__init__(X, log_dir, labels, epochs, "map_{}.tsv")

    def save(self, epoch: int, Y: FloatArray) -> None:
        """Write the map, and name all that are there."""
        with files.replacing(self.folder / f"map_{epoch:04d}.tsv") as beside:
            np.savetxt(beside, Y, fmt="%.6g", delimiter="\t")
        metadata = ""
        if self.labels is None:
            (self.folder / "labels.tsv").unlink(missing_ok=True)
        else:
            text = "".join(" ".join(str(label).split()) + "\n" for label in self.labels)
            (self.folder / "labels.tsv").write_text(text)
            metadata = ' metadata_path: "labels.tsv"'
        config = "".join(
            f'embeddings {{ tensor_name: "{file.stem}" tensor_path: "{file.name}"{metadata} }}\n'
            for _, file in self._files()
        )
        (self.folder / "projector_config.pbtxt").write_text(config)


def _chooser(epochs: Any) -> Callable[[int], bool]:
    """Tell which epochs are meant by a number, every so many, or by a collection of them."""
    every = isinstance(epochs, Integral)
    numbers = [epochs] if every or not isinstance(epochs, Iterable) else list(epochs)
    fit = all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in numbers)
    if not numbers or not fit:
        raise ValueError(
            f"epochs should be an integer of at least 1, or several. Received: {epochs!r}."
        )
    return (lambda epoch: epoch % numbers[0] == 0) if every else (lambda epoch: epoch in numbers)


def _check_dimensions(Y: Any) -> None:
    if tuple(Y.shape)[1:] != (2,):
        raise ValueError(
            "MapSnapshots should have a map [B, 2], which it draws. "
            f"Received: a model that gives {tuple(Y.shape)}."
        )


def _rows_of(X: Any) -> Any:
    """Give rows as an array, or sparse rows, of which parts can be taken."""
    return X.tocsr() if scipy.sparse.issparse(X) else np.asarray(X)


def _blocks(X: Any, size: int) -> Iterator[Any]:
    """Parts of so many rows of an array, or of each of several arrays."""
    rows = keras.tree.flatten(X)[0].shape[0]
    for start in range(0, rows, size):
        part = slice(start, start + size)
        yield keras.tree.map_structure(lambda x, part=part: _dense(x[part]), X)


def _dense(X: Any) -> Any:
    return X.toarray() if scipy.sparse.issparse(X) else X

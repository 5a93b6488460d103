"""The experiment of 2009 on MNIST, every stage as published: 60,000 training, 10,000 test rows.

    python benchmarks/paper.py [--cells 2:1 2:learn …] [--passes 30] [--limit SECONDS]
    python benchmarks/paper.py --study

A cell is d and how dof is set: 1, "auto" (d - 1, so that 2:1 is 2:auto too) or "learn"; "2:1:seed1"
is the one of another seed, "2:1:float64" the one with a change of changes.py, of which a cell may
have several; `--study` asks whether pretraining still matters. Each is a process of its own and is
kept in benchmarks/results/paper; the RBMs are trained once, the lower three for all d. A cell that
was cut off goes on from its last pass; an arm of the study starts again. Every run prints the table
of those that are there, and draws the maps (map.png) or the study (study.png).
"2:default:rbms" is `ParametricTSNE()`, the default of today, but started from RBMs,
"2:default:sigmoid" the same network started at random.

1-NN error: of the 10,000 mapped test rows by the nearest of the 60,000 mapped training rows, at the
end and, because it depends on the batch seen last, after each batch of the last pass.
T(12): of the mapped test rows. KL: mean over the twelve training batches, in nats. Peak memory: of
the process that fine-tunes. CG s: passes times the median seconds of a pass. Evaluations: of loss
and gradient, in a pass.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import changes
import data
import kept
import study

from ptsne_keras import ParametricTSNE, metrics, plotting
from ptsne_keras.networks.rbm import RBM
from ptsne_keras.training import stages

FOLDER = Path(__file__).parent / "results/paper"
UNITS = (500, 500, 2000)
CELLS = [f"2:{dof}{seed}" for dof in ("1", "learn") for seed in ("", ":seed1", ":seed2")]
CELLS += ["2:1:none", "2:pca"]
CELLS += [f"{d}:{how}" for d in (10, 30) for how in ("1", "auto", "learn", "pca")]
# 1-NN error of van der Maaten (2009), in percent, and where the figure was read.
PUBLISHED = {
    "2:1": "9.90",
    "2:learn": "12.68",
    "10:1": "5.38 (not re-read)",
    "30:1": "5.41 (not re-read)",
    "10:auto": "4.58 (not re-read)",
    "30:auto": "2.76 (not re-read)",
    "10:learn": "4.85 (not re-read)",
    "30:learn": "2.70 (not re-read)",
}
COLUMNS = {
    "1-NN error %": "{:.2f}",
    "in the last pass": "{0[0]:.2f} ({0[1]:.2f}-{0[2]:.2f})",
    "T(12)": "{:.3f}",
    "KL": "{:.3f}",
    "α at the end": "{:.2f}",
    "RBM s": "{:.0f}",
    "CG s": "{:.0f}",
    "fit s": "{:.0f}",
    "evaluations": "{:.0f}",
    "peak GB": "{:.1f}",
}


def pretrained(X: Any, d: int, seed: int, prefix: str = "") -> tuple[list[RBM], float]:
    """Train the stack, or read it; seconds that its training took."""
    import keras

    seconds = 0.0
    below: list[RBM] = []
    for level in range(1, len(UNITS) + 2):
        top = level == len(UNITS) + 1
        name = f"{prefix}rbm_{level}" + (f"_{d}" if top else "") + (f"_seed{seed}" if seed else "")
        clock = FOLDER / f"{name}.json"
        if not clock.exists():
            # The last of the list is the linear one, so one more is asked for and left out.
            units = (*UNITS, d) if top else (*UNITS[:level], 1)
            epochs = {} if top else {"top_epochs": 0}
            start = time.perf_counter()
            rbm = stages.pretrain(X, units, below=below, seed=seed, verbose=2, **epochs)[level - 1]
            rbm.save(FOLDER / f"{name}.keras")
            kept.write(clock, json.dumps(time.perf_counter() - start).encode())
        seconds += json.loads(clock.read_text())
        below.append(keras.saving.load_model(FOLDER / f"{name}.keras"))
    return below, seconds


def _error_callback(encoder: Any, train: Any, test: Any, passes: int) -> Any:
    """Note the error after each pass and each batch of the last: nothing is chosen by it."""
    import keras

    class Error(keras.callbacks.Callback):
        epoch, of_batches = -1, ()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch, self.of_batches = epoch, []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.epoch == passes - 1:
                self.of_batches.append(study.one_nn_error(encoder, train, test)[0])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["error"] = study.one_nn_error(encoder, train, test)[0]

    return Error()


def untrained(d: int, names: list[str], seed: int, X: Any) -> tuple[Any, float]:
    """Return the encoder before fine-tuning, and seconds that its RBMs took."""
    encoder = changes.network(names, d, UNITS, seed)
    if "none" in names:
        return encoder, 0.0
    prefix = "".join(f"{change}_" for change in changes.OF_RBMS if change in names)
    with changes.applied([change for change in names if change in changes.OF_RBMS]):
        rbms, seconds = pretrained(X, d, seed, prefix)
    encoder.set_weights(stages.unroll(rbms).get_weights())
    return encoder, seconds


def pca_cell(d: int, train: Any, test: Any) -> dict[str, float]:
    """Principal components in place of a network."""
    from sklearn.decomposition import PCA

    pca = PCA(d, random_state=0).fit(train[0])
    Y_train, Y_test = (pca.transform(X) for X in (train[0], test[0]))
    accuracy = metrics.knn_accuracy(Y_train, train[1], Y_test, test[1], 1)
    trust = metrics.trustworthiness(test[0], Y_test, 12)
    return {"1-NN error %": 100 * (1 - accuracy), "T(12)": trust}


def parsed(name: str) -> tuple[int, str, list[str], int]:
    """Return d, how dof is set, the changes and the seed of a cell."""
    d, dof, *rest = name.split(":")
    seeds = [int(part.removeprefix("seed")) for part in rest if part.startswith("seed")]
    names = [part for part in rest if not part.startswith("seed")]
    of_default = dof == "default"
    known = changes.OF_DEFAULT if of_default else changes.CHANGES
    if not set(names) <= set(known) or (of_default and d != "2"):
        raise ValueError(
            f"A cell should be d:dof, or 2:default, with some of {', '.join(known)}. "
            f"Received: {name!r}."
        )
    return int(d), dof, names, (seeds or [0])[0]


def default_cell(names: list[str], seed: int, train: Any, test: Any) -> dict[str, float]:
    """Fit `ParametricTSNE()`, or one with the network of 2009 whose start is RBMs or at random."""
    options: dict[str, Any] = {"random_state": seed, "verbose": 1}
    if names:
        network = {"hidden_units": UNITS, "activation": "sigmoid", "initial_dims": None}
        options |= network | {"sampling": "graph"}
        options |= {"pretraining": "cd1"} if "rbms" in names else {}
    clock = time.perf_counter()
    tsne = ParametricTSNE(**options).fit(train[0])
    seconds = time.perf_counter() - clock
    Y_test = tsne.transform(test[0])
    accuracy = metrics.knn_accuracy(tsne.embedding_, train[1], Y_test, test[1], 1)
    return {
        "1-NN error %": 100 * (1 - accuracy),
        "of the network": study.one_nn_error(tsne.network_, train, test)[0],
        "T(12)": metrics.trustworthiness(test[0], Y_test, 12),
        "fit s": seconds,
        "peak GB": kept.peak_gigabytes(),
    }


def cell(name: str, passes: int) -> dict[str, Any]:
    """Run one cell in this process."""
    import keras

    d, dof, names, seed = parsed(name)
    train, test = changes.prepared(names, *data.load("mnist"))
    if dof == "pca":
        return pca_cell(d, train, test) | {"passes": passes}
    if dof == "default":
        return default_cell(names, seed, train, test) | {"passes": passes}
    encoder, seconds = untrained(d, names, seed, train[0])
    fixed = changes.fixed_batches(train[0], names, seed)
    log = FOLDER / f"{name.replace(':', '_')}.csv"
    backup = FOLDER / log.stem  # removed where the cell is finished, so that it is not run twice
    if not backup.exists():
        log.unlink(missing_ok=True)
    errors = _error_callback(encoder, train, test, passes)
    with changes.applied(names):
        history = stages.finetune(
            encoder,
            fixed,
            dof=float(dof) if dof[0].isdigit() else dof,
            optimizer="cg",
            epochs=passes,
            callbacks=[
                errors,
                keras.callbacks.BackupAndRestore(
                    backup, double_checkpoint=True, delete_checkpoint=False
                ),
                keras.callbacks.CSVLogger(log, append=True),
            ],
            verbose=2,
        )
    lines = {line["epoch"]: line for line in csv.DictReader(log.open())}.values()
    encoder.save(FOLDER / f"{log.stem}.keras")
    error, Y_test = study.one_nn_error(encoder, train, test)
    of_batches = errors.of_batches or [error]  # where all passes were done before
    return {
        "1-NN error %": error,
        "in the last pass": (statistics.mean(of_batches), min(of_batches), max(of_batches)),
        "T(12)": metrics.trustworthiness(test[0], Y_test, 12),
        "KL": metrics.mean_kl_divergence(encoder, fixed, dof=history.model.dof),
        "α at the end": history.model.dof,
        "RBM s": seconds,
        # A pass that shared the machine, or waited, counts as any other.
        "CG s": passes * statistics.median(float(line["seconds"]) for line in lines),
        "peak GB": kept.peak_gigabytes(),
        "evaluations": statistics.mean(float(line["evaluations"]) for line in lines),
        "passes": passes,
    }


def table(cells: dict[str, dict[str, Any]]) -> str:
    """One line a cell; published figures beside ours."""
    lines = ["| d | α | " + " | ".join(COLUMNS) + " | published error % |"]
    lines.append("|---|---|" + "---|" * (len(COLUMNS) + 1))
    for name in cells:
        d, dof, names, seed = parsed(name)
        label = "PCA" if dof == "pca" else dof.replace("auto", "d - 1")
        label += " = d - 1" if name.startswith("2:1") else ""
        told = changes.CHANGES | changes.OF_DEFAULT
        label += "".join(f"; {told[change]}" for change in names)
        label += f", seed {seed}" if seed else ""
        found = cells[name]
        values = [f.format(found[key]) if key in found else "–" for key, f in COLUMNS.items()]
        lines.append(f"| {d} | {label} | {' | '.join(values)} | {PUBLISHED.get(name, '–')} |")
    return "\n".join(lines)


def picture(file: Path, names: tuple[str, ...] = ("2:1", "2:learn")) -> None:
    """Draw the test rows on the 2-D maps of these cells, side by side."""
    import keras
    import matplotlib.pyplot as plt

    X, labels = data.load("mnist")[1]
    figure, axes = plt.subplots(1, len(names), figsize=(9, 4.4), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        found = json.loads(done(name).read_text())
        encoder = keras.saving.load_model(done(name).with_suffix(".keras"))
        Y = encoder.predict(X, batch_size=4096, verbose=0)
        plotting.scatter(Y, labels, ax=ax, s=1.5, alpha=0.5, legend=name == names[-1])
        ax.set_title(f"α = {found['α at the end']:.2f}: 1-NN error {found['1-NN error %']:.2f} %")
    for handle in axes[-1].get_legend().legend_handles:
        handle.set(alpha=1, sizes=[20])
    figure.savefig(file, dpi=80)
    plt.close(figure)


def done(name: str) -> Path:
    """Where a finished cell is kept."""
    return FOLDER / f"{name.replace(':', '_')}.json"


def finished(name: str, passes: int) -> bool:
    """Whether a cell of so many passes, or an arm of the study, is there."""
    found = json.loads(done(name).read_text()) if done(name).exists() else {}
    return bool(found) and found.get("passes", passes) == passes


def run(names: list[str], options: argparse.Namespace) -> None:
    """Run the cells that are not there yet, each in a process of its own."""
    end = time.monotonic() + options.limit if options.limit else None
    for name in names:
        if finished(name, options.passes):
            continue
        command = [sys.executable, __file__, "--one", name, "--passes", str(options.passes)]
        try:
            left = max(end - time.monotonic(), 1) if end else None
            subprocess.run(command, check=True, timeout=left)
        except subprocess.TimeoutExpired:
            print(f"{name}: cut off; run again to go on", file=sys.stderr)
            return


def main() -> None:
    """Run the cells that are not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="*", default=CELLS, metavar="CELL")
    parser.add_argument(
        "--study", action="store_true", help="of pretraining, in place of the cells"
    )
    parser.add_argument("--passes", type=int, default=30, help="over the twelve batches")
    parser.add_argument("--limit", type=float, help="seconds; what was cut off goes on later")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.one:
        result = (
            study.arm(options.one, lambda X: pretrained(X, 2, 0, "study_")[0])
            if options.one in study.ARMS
            else cell(options.one, options.passes)
        )
        kept.write(done(options.one), json.dumps(result, indent=1).encode())
        shutil.rmtree(done(options.one).with_suffix(""), ignore_errors=True)
        return
    names = study.ARMS if options.study else options.cells
    run(names, options)
    found = {n: json.loads(done(n).read_text()) for n in names if finished(n, options.passes)}
    if options.study:
        print(study.table(found))
        study.figure(found, FOLDER / "study.png")
    else:
        print(table(found))
        if {"2:1", "2:learn"} <= set(found):
            picture(FOLDER / "map.png")


if __name__ == "__main__":
    main()

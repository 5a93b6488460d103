"""The command `ptsne`: arguments in, calls out."""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ptsne_keras.cli import arguments
from ptsne_keras.cli.arguments import Usage, parser

# TensorFlow's start-up notices are no part of the answer. Before its first import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""

# Wrong input or usage; whatever else is raised is work that failed.
_WRONG = (ValueError, TypeError, FileNotFoundError, FileExistsError, NotADirectoryError)


def main(words: Sequence[str] | None = None) -> int:
    """Run `ptsne` with these arguments (by default the process's) and return its exit status."""
    words = sys.argv[1:] if words is None else list(words)
    # A process that was started without them has None here.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    try:
        options = parser().parse_args(words)
    except Usage as error:
        given = argparse.Namespace(json="--json" in words, command=None)
        return _failed(given, f"{error}; see {error.program} --help", WRONG)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        # What is meant for developers is left out.
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        # Rows are matched by name before they reach the model.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        try:
            # Here, so that --help answers at once, without TensorFlow too.
            with _silenced():
                from ptsne_keras.cli import commands

            report = getattr(commands, options.command)(options)
            _say(commands.dumps(report.facts) if options.json else report.text)
        except KeyboardInterrupt:
            return _failed(options, "interrupted; nothing was written", INTERRUPTED)
        except Exception as error:
            if os.environ.get("PTSNE_DEBUG"):
                traceback.print_exc()
            code = WRONG if isinstance(error, _WRONG) else FAILED
            return _failed(options, _message(error), code)
        return int(report.code)


def _say(text: str) -> None:
    """Print the answer; a reader that has gone is no error, nor a letter that it cannot have."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        _mute()
    except OSError as error:
        _mute()
        raise OSError(
            f"the work is done, but its answer cannot be printed: {error.strerror}."
        ) from None


def _mute() -> None:
    """Lead stdout nowhere, lest the interpreter try once more as it ends."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Leave out what TensorFlow's C++ says on stderr as it is imported, whatever its log level."""
    if "tensorflow" in sys.modules or os.environ.get("PTSNE_DEBUG"):
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    sys.stderr.flush()
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _message(error: BaseException) -> str:
    """One line that says what is wrong, with the option's name for the parameter's."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("tensorflow"):
        return (
            "ptsne needs TensorFlow: pip install 'ptsne_keras[cpu]', or 'ptsne_keras[gpu]' where "
            "there is an NVIDIA GPU."
        )
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.match(r"The '(\w+)' parameter of \w+ must be (.*)\. Got (.*) instead\.", text)
    if found:
        text = f"{found[1]} should be {found[2]}. Received: {found[3]}."
    name = re.match(r"(\w+) should be ", text)
    if name and name[1] in arguments.KNOWN:
        text = f"{arguments.option(name[1])}{text[name.end(1) :]}"
    if isinstance(error, OSError) and error.filename and error.strerror and error.args:
        text = f"{error.filename}: {error.strerror}"
        if error.errno == errno.ENOSPC:
            text += "; free some space, then do it again"
        if isinstance(error, PermissionError):
            text += "; choose another place or change its mode"
    if isinstance(error, MemoryError):
        text = "memory is full; give fewer rows or columns, or a smaller --batch-size or --dpi"
    return text


def _failed(options: argparse.Namespace, text: str, code: int) -> int:
    label = "" if code == INTERRUPTED else "error: "
    print(f"ptsne: {label}{text}", file=sys.stderr, flush=True)
    if options.json:
        import json

        print(json.dumps({"command": options.command, "error": text}))
    return code


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"ptsne: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)

"""The command `ptsne`: arguments in, calls out."""

import argparse
import contextlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptsne_keras.cli.parser import Usage, in_options, make_parser
from ptsne_keras.utils import files

# TensorFlow's start-up notices are not part of the answer. To be set before its first import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit statuses other than 0."""

# Wrong input or usage; any other error is work that failed.
_WRONG = (ValueError, TypeError, FileNotFoundError, FileExistsError, NotADirectoryError)


def main(words: Sequence[str] | None = None) -> int:
    """Run `ptsne` with these arguments (by default the process's) and return its exit status."""
    words = sys.argv[1:] if words is None else list(words)
    # They are None in a process that was started without them.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    try:
        options = make_parser().parse_args(words)
    except Usage as error:
        given = argparse.Namespace(json="--json" in words, command=None)
        return _failed(given, f"{error}; see {error.program} --help", WRONG)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        # Warnings for developers are left out.
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        # Rows are matched by name before they reach the model.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        try:
            # Here, so that --help answers at once, and without TensorFlow.
            with _silenced():
                from ptsne_keras.cli import commands

            answer = commands.run(options)
            _say(commands.dumps(answer.facts) if options.json else answer.text)
        except KeyboardInterrupt:
            return _failed(options, "interrupted; nothing was written", INTERRUPTED)
        except Exception as error:
            if os.environ.get("PTSNE_DEBUG"):
                traceback.print_exc()
            code = WRONG if isinstance(error, _WRONG) else FAILED
            return _failed(options, _message(error), code)
        return int(answer.code)


def _say(text: str) -> None:
    """Print the answer; a reader that has gone, or cannot show a letter, is not an error."""
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
    """Redirect stdout to nowhere, since the interpreter writes to it once more at its end."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hide what TensorFlow's C++ writes to stderr on import, whatever its log level."""
    if "tensorflow" in sys.modules or os.environ.get("PTSNE_DEBUG"):
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
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
    """Return one line that says what is wrong, with options in place of parameters."""
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.match(r"The '(\w+)' parameter of \w+ must be (.*)\. Got (.*) instead\.", text)
    if found:
        allowed = re.sub(r" or an instance of '[\w.]+'", "", found[2])  # not for words
        text = f"{found[1]} should be {allowed}. Received: {found[3]}."
    text = in_options(text)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = str(files.explained(error, Path(error.filename), "read or written"))
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
    text = in_options(" ".join(str(message).split()))
    print(f"ptsne: warning: {text}", file=sys.stderr, flush=True)

"""Files that are whole or not there, and errors that say what to do about a disk."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

_MENDS = {
    errno.ENOSPC: "the disk is full; free space or write elsewhere",
    errno.EDQUOT: "your quota is used up; free space or write elsewhere",
    errno.EROFS: "the disk is read-only; write elsewhere",
    errno.ENOENT: "its folder is not there; make it or give another path",
    errno.EACCES: "permission denied; change its permissions or the path",
    errno.EPERM: "permission denied; change its permissions or the path",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EISDIR: "it is a folder; give another path or move that away",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside the file, which is renamed to it when all is written."""
    file = Path(path)
    # The suffix stays: it tells some writers the format.
    beside = file.with_name(f".{uuid.uuid4().hex}{file.suffix}")
    try:
        yield beside
        beside.replace(file)
    except OSError as error:
        if error.strerror is None:  # the words are somebody's own
            raise
        raise explained(error, file, "written") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, flush it to the disk, and only then put it in its place."""
    with replacing(path) as beside, open(beside, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder, and those that it is in; where what follows fails, they go again."""
    missing = [place for place in [folder, *folder.parents] if not os.path.lexists(place)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, folder, "made") from error
        yield
    except BaseException:
        for place in missing:  # the innermost first; one with something in it stays
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def explained(error: OSError, path: Path, verb: str) -> OSError:
    """Make an error of the same kind, in one line, that names the path and the mend."""
    reason = _MENDS.get(error.errno or 0) or (error.strerror or str(error)).splitlines()[0]
    told = type(error)(f"{path} could not be {verb}: {reason}.")
    told.errno = error.errno
    return told

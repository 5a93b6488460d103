"""Write files that are either complete or absent, and explain what a disk refuses."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

_FIXES = {
    errno.ENOSPC: "the disk is full; free space or write elsewhere",
    errno.EDQUOT: "your quota is used up; free space or write elsewhere",
    errno.EROFS: "the disk is read-only; write elsewhere",
    errno.ENOENT: "its folder is not there; make it or give another path",
    errno.EACCES: "permission denied; change its permissions or the path",
    errno.EPERM: "permission denied; change its permissions or the path",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EISDIR: "it is a folder; move it away or give another path",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, make_parents: bool = False) -> Iterator[Path]:
    """Yield a path beside a file; what is written there replaces the file when all went well."""
    file = Path(path).expanduser()
    # The suffix stays, since some writers choose the format by it.
    beside = file.with_name(f".{uuid.uuid4().hex}{file.suffix}")
    with made(file.parent) if make_parents else contextlib.nullcontext():
        try:
            yield beside
            _flush(beside)
            beside.replace(file)
            with contextlib.suppress(OSError):  # the file is there; some folders cannot be flushed
                _flush(file.parent)
        except OSError as error:
            if error.strerror is None:  # it has a message of its own
                raise
            raise explained(error, file, "written") from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, which replaces the one that is there only when it is complete."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; remove those it made, if empty, where the block fails."""
    missing = [place for place in [folder, *folder.parents] if not os.path.lexists(place)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, folder, "made") from error
        yield
    except BaseException:
        for place in missing:  # the innermost first
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def check_writable(folder: Path) -> None:
    """Raise unless files can be written into a folder, which need not exist yet."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} should be a folder. Received: {existing}, a file.")
    probe = existing / f".{uuid.uuid4().hex}"
    try:  # os.access answers yes to root, even in /proc
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PermissionError(
            f"{existing} should be a folder you can write to; choose another, or free space or "
            f"change its mode. Received: {reason}."
        ) from error


def explained(error: OSError, path: Path, verb: str) -> OSError:
    """Return an error of the same kind, in one line that names the path and what to do."""
    reason = _FIXES.get(error.errno or 0) or (error.strerror or str(error)).splitlines()[0]
    told = type(error)(f"{path} could not be {verb}: {reason}.")
    told.errno = error.errno
    return told

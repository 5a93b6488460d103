"""Write files that are either complete or absent, and explain what a disk refuses."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
TEMPORARY = ".ptsne-"
"""The start of the names of temporary files and folders; the process's number follows."""

# A compressed file may expand to as many megabytes, or to as many times its own size.
_MEGABYTES, _TIMES = 256, 50
LIMIT = "PTSNE_MAX_MB"
"""The environment variable that raises the megabytes."""


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, make_parents: bool = False, new: bool = False
) -> Iterator[Path]:
    """Yield a path beside a file; what is written there becomes the file when all went well.

    A file that is there is replaced, or with `new` refused.
    """
    file = Path(path).expanduser()
    if file.name.startswith(TEMPORARY):  # whoever made this name replaces another file by it
        yield file
        return
    with (
        made(file.parent) if make_parents else contextlib.nullcontext(),
        explaining(file),
        # The suffix stays, since some writers choose the format by it.
        _temporary(file.parent, file.suffix) as beside,
    ):
        yield beside
        flush(beside)
        with locked(file.parent) if new else contextlib.nullcontext():
            if new and os.path.lexists(file):
                raise FileExistsError(f"path should be a new file. Received: {file}, which exists.")
            beside.replace(file)
        flush_entries(file.parent)


def write(path: str | os.PathLike[str], data: bytes, *, new: bool = False) -> None:
    """Write a file as `replacing` does."""
    with replacing(path, new=new) as beside:
        beside.write_bytes(data)


@contextlib.contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """Yield a new folder for a while, by default where the system keeps temporary files."""
    place = folder or Path(tempfile.gettempdir())
    with explaining(place) if folder else explaining_temporary(), _temporary(place) as made_folder:
        yield made_folder


@contextlib.contextmanager
def _temporary(folder: Path, suffix: str | None = None) -> Iterator[Path]:
    """Yield a file with this suffix, or a folder, whose lock says that its process lives."""
    sweep(folder)
    descriptor = None
    try:
        while descriptor is None:
            path = folder / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:12]}{suffix or ''}"
            descriptor = _made(path, is_folder=suffix is None)
        yield path
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                _remove(path)
        if descriptor is not None and descriptor >= 0:
            os.close(descriptor)


def _made(path: Path, *, is_folder: bool) -> int | None:
    """Make and lock a file or folder; return None if another process swept it before the lock."""
    if is_folder:
        path.mkdir(mode=0o700)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    _lock(descriptor, wait=True)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    os.close(descriptor)
    return None


def sweep(folder: Path) -> None:
    """Remove the temporary files in a folder whose processes have died."""
    if fcntl is None:
        return
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(descriptor, wait=False):
                    _remove(path)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, if possible; yield False if another has it and `wait` is False."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # where it may not be read; on Windows, any
        yield True
        return
    try:
        yield _lock(descriptor, wait=wait) is not False
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file or folder; return False if another has it, None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # not every network file system has them
        return None
    return True


def flush_all(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


def flush_entries(folder: Path) -> None:
    """Flush the names in a folder to the disk, where that is possible."""
    with contextlib.suppress(OSError):
        flush(folder)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def below(folder: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix in a folder and below, sorted, but hidden and unfinished ones.

    The names of the latter begin with . or _, as in Spark, Hive and Arrow.
    """
    found = sorted(folder.rglob(f"*{suffix}"))
    return [f for f in found if not any(p[0] in "._" for p in f.relative_to(folder).parts)]


def allocate(file: Path) -> None:
    """Take the room of a mapped file on the disk, which would end the process were it full."""
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with open(file, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def read(file: Path, most: int) -> bytes:
    """Return the contents of a file of at most so many bytes, of no link, pipe or device."""
    info = file.lstat()  # before it is opened: a device may act on that
    size = info.st_size if stat.S_ISREG(info.st_mode) else None
    if size is None or size > most:
        found = "a link, folder, pipe or device" if size is None else f"{size:,} bytes"
        raise ValueError(f"{file} should be a file of at most {most:,} bytes. Received: {found}.")
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(file, os.O_RDONLY | flags), "rb") as stream:
        if not os.path.samestat(os.fstat(stream.fileno()), info):
            raise ValueError(f"{file} should stay as it is while it is read; try again.")
        return stream.read(most)


def expanded_limit(size: int) -> float:
    """Return to how many bytes a compressed file of `size` bytes may expand."""
    megabytes = os.environ.get(LIMIT, str(_MEGABYTES))
    if not megabytes.isdecimal():
        raise ValueError(f"{LIMIT} should be a number of megabytes. Received: {megabytes!r}.")
    return max(int(megabytes) * 1e6, _TIMES * size)


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
        for place in missing:
            flush_entries(place.parent)
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
    try:  # os.access answers yes to root, even in /proc
        with _temporary(existing):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PermissionError(
            f"{existing} should be a folder you can write to; choose another, or free space or "
            f"change its mode. Received: {reason}."
        ) from error


@contextlib.contextmanager
def explaining(file: Path, verb: str = "written") -> Iterator[None]:
    """Explain what the system says about writing a file, unless it has a message of its own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise explained(error, file, verb) from error
        # Some libraries put what the system says into errors of their own.
        said = (number for number in _OF_DISKS if os.strerror(number) in str(error))
        if (number := next(said, None)) is None:
            raise
        raise explained(OSError(number, ""), file, verb) from error


def explaining_temporary() -> contextlib.AbstractContextManager[None]:
    """Explain what the system says about writing where it keeps temporary files."""
    return explaining(Path(tempfile.gettempdir()), "written (set TMPDIR to another place)")


def explained(error: OSError, path: Path, verb: str) -> OSError:
    """Return an error of the same kind, in one line that names the path and what to do."""
    reason = _FIXES.get(error.errno or 0) or (error.strerror or str(error)).splitlines()[0]
    told = type(error)(f"{path} could not be {verb}: {reason}.")
    told.errno = error.errno
    return told

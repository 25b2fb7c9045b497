"""Files are written beside and renamed: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ditkit.base.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKLESS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems without locks say, such as a cluster's that is mounted so."""


def expanded(path: Path | str) -> Path:
    """The path with a leading ~ or ~name replaced by that home; as it is where there is no such home."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_beside(path)
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    _remove(temporary)  # of a killed process that had this one's number, as in containers
    try:
        with explained(path):
            temporary.mkdir()
            yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Removes a file or a folder, whole also where a signal comes meanwhile."""
    try:
        _try_to_remove(path)
    except BaseException:
        _try_to_remove(path)
        raise


def _try_to_remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_beside(path: Path) -> None:
    """Removes what killed writers of ``path`` left beside it; what one was replacing goes back to its name."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        kind, _, number = left.name.removeprefix(f".{path.name}.").rpartition("-")
        if number.isdecimal() and _ended(int(number)):
            _LEFT.get(kind, lambda left, path: None)(left, path)


def _ended(number: int) -> bool:
    """Whether there is no process of this number (on this machine)."""
    if os.name != "posix":
        return False  # there the question would end it
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the error of a full device while ``path`` is written into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise no_space(path, error) from error
        raise


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raises the system's error that safetensors hides in its words, when ``path`` is written, as an OSError."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code:
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


@contextlib.contextmanager
def alone(folder: Path, refusal: str) -> Iterator[None]:
    """Within it, no other process is within it for the same folder. UserError with ``refusal`` where one is.

    Where the system or the file system has no locks, nothing is known of others, and nothing refused.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError):  # a system without such locks
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(refusal) from None
            except OSError as error:
                if error.errno not in _LOCKLESS:
                    raise
            if not (folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())):
                raise UserError(refusal)  # who held it has removed or replaced it: the lock is on what is no more
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within it, ``folder`` is an empty one that no other process within it makes; it goes if it is empty at the end.

    Raises UserError as ``check_new_folder``, and where another process is within it.
    """
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, f"--out {folder} is being made by another process: wait for it, or choose another folder"):
        check_new_folder(folder)  # it may have been made since
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def untouched(folder: Path) -> bool:
    """Whether nothing is in a folder but what writers that were killed left behind."""
    return all(_HALF.search(path.name) for path in folder.iterdir())


def check_new_folder(folder: Path) -> None:
    """Raises UserError unless a folder can be made there: nothing or an empty folder is there, below a writable one.

    What a writer that was killed left behind does not count.
    """
    if folder.exists() and not (folder.is_dir() and untouched(folder)):
        raise UserError(f"--out {folder} exists and is not empty: choose another folder; nothing was written")
    if closed := _closed(folder):
        raise UserError(f"--out {folder} cannot be made: {closed[0]}; choose another folder")


def check_writable(folder: Path) -> None:
    """Raises UserError unless files can be made in a folder, or it below the nearest one that is there."""
    if closed := _closed(folder):
        raise UserError(f"{closed[0]}, and results go to {folder}: {closed[1]}, or work elsewhere")


def check_folder(path: Path) -> None:
    """Raises UserError where ``path`` is there and is no folder: nothing else is replaced by one."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, expected a folder or nothing of that name: move it elsewhere, or rename it")


def check_file(path: Path) -> None:
    """Raises UserError unless a file can be written as ``path``, in place of one that is there."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a file or nothing of that name: give another, or move it away")
    check_writable(path.parent)


def _closed(folder: Path) -> tuple[str, str] | None:
    """Why no file can be made in a folder, or it below the nearest one that is there, and the remedy; None: it can."""
    above = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not above.is_dir():
        return f"{above} is a file", "move it away"
    return None if os.access(above, os.W_OK | os.X_OK) else (f"{above} is not writable", "make it writable")


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed writer left beside its files in ``folder``; what it was replacing goes back to its name.

    Not while anything writes there.
    """
    for kind, act in _LEFT.items():
        for left in folder.glob(f".*.{kind}-*"):
            act(left, folder / left.name[1:].rpartition(f".{kind}-")[0])


def _put_back(old: Path, path: Path) -> None:
    if path.exists():
        _remove(old)
    else:
        os.replace(old, path)


_LEFT: Mapping[str, Callable[[Path, Path], None]] = {
    "old": _put_back,
    "writing": lambda half, path: _remove(half),
    "whole": lambda file, path: _remove(file),  # without its name yet
}
"""What a killed writer leaves beside a path, by the words in its name, and what becomes of it: (left, path)."""
_HALF = re.compile(r"^\..+\.(writing|whole)-\d+$")


def remove_folder(path: Path) -> None:
    """Removes a folder so that nobody sees it half removed: it loses its name first.

    Raises UserError where it is a link to one.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a link: it is not known who else uses the folder; name the folder itself")
    clear_beside(path)
    gone = path.with_name(f".{path.name}.writing-{os.getpid()}")
    os.replace(path, gone)
    _remove(gone)


def no_space(path: Path, error: OSError) -> UserError:
    """The error for a full device, naming the file that could not be written and how much is free."""
    folder = next((p for p in [path, *path.parents] if p.exists()), Path("."))
    free = shutil.disk_usage(folder).free / 2**20
    return UserError(
        f"no space left on the device while writing {path} ({free:.0f} MiB free, {error.strerror}); "
        "nothing was half-written: free some space or choose another --out, then resume"
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Gives a path to write to; on leaving without an error it becomes ``path`` at once.

    Raises UserError when the device is full; then ``path`` is as it was before.
    """
    path = Path(path)
    whole = path.with_name(f".{path.name}.whole-{os.getpid()}")
    try:
        with _beside(path) as folder:  # some writers, such as safetensors, put files of their own beside theirs
            temporary = folder / path.name
            yield temporary
            _sync(temporary)
            os.replace(temporary, whole)
        os.replace(whole, path)  # at last: what a kill leaves beside a file that is there may be cleared by nobody
    except BaseException:
        whole.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Gives an empty folder to fill; on leaving without an error it becomes ``path``, replacing a folder there.

    Where a link to a folder is there, the folder that it leads to is replaced. Raises UserError where a file is there.
    """
    path = Path(os.path.realpath(path))
    check_folder(path)
    with _beside(path) as temporary:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        try:
            os.replace(temporary, path)  # where nothing is or, but on Windows, an empty folder
        except OSError:
            if not path.exists():
                raise
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            try:
                os.replace(path, old)
                os.replace(temporary, path)
            except BaseException:
                if old.exists():
                    _put_back(old, path)
                raise
            _remove(old)
        _sync(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

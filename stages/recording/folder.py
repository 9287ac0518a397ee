"""The folder of a recording: new, its user's alone, and written by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from stages.errors import RecordingError

LOCK: Final = ".lock"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RecordingFolder:
    """Holds the folder open and locked until `close`; everything in it is reached by `fd`."""

    def __init__(self, path: Path, fd: int, lock_fd: int) -> None:
        """Use `create` or `reopen`."""
        self.path = path
        self.fd = fd
        self._lock_fd = lock_fd

    @classmethod
    def create(cls, root: Path, *parts: str) -> RecordingFolder:
        """Make ``root/part/.../part`` with mode 0700; the last part must be new.

        Raises `RecordingError` for a name that is none (letters, digits, `._-`, at most 128), a
        folder that exists, a symlink below ``root``, and where nothing can be made.
        """
        for part in parts:
            check_name(part)
        path = root.joinpath(*parts)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(root, error) from error
        for depth, part in enumerate(parts):
            try:
                inner = _made(fd, part, new=depth + 1 == len(parts))
            except FileExistsError as error:
                raise RecordingError(
                    f"{path}: exists, and a recording is never overwritten (expected a new name)"
                ) from error
            except OSError as error:
                raise _refusal(root.joinpath(*parts[: depth + 1]), error) from error
            finally:
                os.close(fd)
            fd = inner
        return cls._locked(path, fd)

    @classmethod
    def reopen(cls, path: Path) -> RecordingFolder:
        """Open the folder of a recording to go on with it; raises `RecordingError`."""
        try:
            fd = os.open(path, _OPEN_FOLDER)
        except OSError as error:
            raise _refusal(path, error) from error
        return cls._locked(path, fd)

    @classmethod
    def _locked(cls, path: Path, fd: int) -> RecordingFolder:
        try:
            lock_fd = os.open(
                LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd
            )
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock_fd)
                raise
        except BlockingIOError as error:
            os.close(fd)
            raise RecordingError(
                f"{path}: another process is recording there (expected one writer a folder)"
            ) from error
        except OSError as error:
            os.close(fd)
            raise _refusal(path, error) from error
        return cls(path, fd, lock_fd)

    def names(self) -> list[str]:
        """What lies in it."""
        return sorted(os.listdir(self.fd))

    def close(self) -> None:
        """Let another writer in."""
        for fd in (self._lock_fd, self.fd):
            with suppress(OSError):
                os.close(fd)


def check_name(name: str) -> None:
    """Raises `RecordingError` for what may not name a recording."""
    if _NAME.fullmatch(name) is None:
        raise RecordingError(
            f"recording name {name!r:.160}: expected at most 128 letters, digits and '._-', "
            "beginning with a letter or digit"
        )


def is_being_written(path: Path) -> bool:
    """Whether a process holds the lock of that recording."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _made(parent_fd: int, name: str, new: bool) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        if new:
            raise
    return os.open(name, _OPEN_FOLDER, dir_fd=parent_fd)


def _refusal(path: Path, error: OSError) -> RecordingError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return RecordingError(f"{path}: is a symlink or no folder (expected a folder)")
    return RecordingError(
        f"{path}: cannot record there: {error.strerror} (expected a folder that can be written to)"
    )

"""The file operations of a writer, in one place, so that faults can be put into each."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from stages.recording.layout import Buffer


class Files(Protocol):
    """Each raises `OSError`; names are relative to the folder open as ``folder_fd``."""

    def create(self, name: str, folder_fd: int) -> int:
        """A new file, 0600, open for writing; never one that is there, or a symlink."""
        ...

    def append_to(self, name: str, folder_fd: int) -> int:
        """A file, 0600, new or not, open for writing at its end; never a symlink."""
        ...

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        """How many bytes were written."""
        ...

    def size(self, fd: int) -> int: ...
    def size_of(self, name: str, folder_fd: int) -> int:
        """0 where there is no such file."""
        ...

    def truncate(self, fd: int, nbytes: int) -> None: ...
    def sync(self, fd: int) -> None: ...
    def sync_named(self, name: str, folder_fd: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def replace(self, name: str, new_name: str, folder_fd: int) -> None: ...
    def remove(self, name: str, folder_fd: int) -> None: ...
    def free_bytes(self, folder_fd: int) -> int:
        """What is left on the disk for this user."""
        ...


class OsFiles:
    """The operating system's."""

    def create(self, name: str, folder_fd: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=folder_fd)

    def append_to(self, name: str, folder_fd: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=folder_fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def size_of(self, name: str, folder_fd: int) -> int:
        try:
            return os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def write(self, fd: int, buffers: Sequence[Buffer]) -> int:
        return os.writev(fd, buffers)

    def truncate(self, fd: int, nbytes: int) -> None:
        os.ftruncate(fd, nbytes)
        os.lseek(fd, nbytes, os.SEEK_SET)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_named(self, name: str, folder_fd: int) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, name: str, new_name: str, folder_fd: int) -> None:
        os.replace(name, new_name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)

    def remove(self, name: str, folder_fd: int) -> None:
        os.remove(name, dir_fd=folder_fd)

    def free_bytes(self, folder_fd: int) -> int:
        found = os.fstatvfs(folder_fd)
        return found.f_bavail * found.f_frsize


def write_all(files: Files, fd: int, buffers: Sequence[Buffer]) -> int:
    """Write all of the buffers; how many bytes that was."""
    left = [memoryview(buffer) for buffer in buffers if len(buffer)]
    total = sum(view.nbytes for view in left)
    while left:
        done = files.write(fd, left)
        if done <= 0:
            raise OSError(errno.EIO, "the disk takes no bytes")
        while left and done >= left[0].nbytes:
            done -= left.pop(0).nbytes
        if done:
            left[0] = left[0][done:]
    return total


def write_file(files: Files, name: str, folder_fd: int, buffers: Sequence[Buffer]) -> None:
    """Write a whole file, synced, under a name that shows it only when it is whole."""
    temporary = write_temporary(files, name, folder_fd, buffers, sync=True)
    try:
        files.replace(temporary, name, folder_fd)
    except OSError:
        discard(files, temporary, folder_fd)
        raise


def write_temporary(
    files: Files, name: str, folder_fd: int, buffers: Sequence[Buffer], sync: bool = False
) -> str:
    """Write what is to replace the file ``name``; the name under which it waits. Leaves nothing
    where it raises `OSError`."""
    temporary = f".{name}.tmp"
    discard(files, temporary, folder_fd)  # of a process that was killed
    fd = files.create(temporary, folder_fd)
    try:
        try:
            write_all(files, fd, buffers)
            if sync:
                files.sync(fd)
        finally:
            files.close(fd)
    except OSError:
        discard(files, temporary, folder_fd)
        raise
    return temporary


def discard(files: Files, name: str, folder_fd: int) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        files.remove(name, folder_fd)


def is_gone(fd: int) -> bool:
    """Whether an open file or folder was deleted: what is written to it would be lost unseen."""
    return os.fstat(fd).st_nlink == 0

"""The folder that offline results go to: `OutFolder`."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from pipeline.folder import check_folder, default_path, make_folder
from stages.errors import ConfigError, OutputError
from stages.recording.npy_names import PREDICTIONS
from stages.recording.reading import IN_RUN

Entry = Literal["new", "overwrite", "resume"]
"""`new`: the folder is new or empty; `overwrite`: former results in it go away; `resume`: stay."""

RESULTS: Final = "results.json"
PROGRESS: Final = ".progress.jsonl"
FRAMES, MASKS, OVERLAYS, COMBINED = "frames", "masks", "overlays", "combined"
FILM: Final = "overlay.mp4"
_OURS: Final = frozenset(
    {RESULTS, PROGRESS, FRAMES, MASKS, OVERLAYS, COMBINED, PREDICTIONS, IN_RUN, FILM}
)
_PART: Final = ".part"
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


class OutFolder:
    """Files that nobody sees half-written, for the owner's eyes alone: masks can be personal data.

    Checked when constructed, so that a hopeless folder is told before a model loads, and made when
    entered, which also keeps others from writing there. Raises `ConfigError` for a folder that
    cannot be taken and `OutputError` where something cannot be written later.
    """

    def __init__(self, out: Path | None, name: str, entry: Entry) -> None:
        """`out` None: `runs/<utc>-<name>`."""
        self.path = out if out is not None else default_path(name)
        self._entry = entry
        self._lock: int | None = None
        check_folder(self.path, empty=entry == "new", unless=", or --overwrite")
        for there in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if there.name not in _OURS and not _is_part(there.name):
                raise ConfigError(f"{self.path}: holds {there.name}, expected nothing but results")
        if entry == "resume" and not (self.path / PROGRESS).is_file():
            done = (self.path / RESULTS).is_file()
            reason = "is finished" if done else "holds nothing to resume"
            raise ConfigError(f"{self.path}: {reason}, expected results that were interrupted")

    def __enter__(self) -> Self:
        make_folder(self.path, _FOLDER_MODE)
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.__exit__()
            raise ConfigError(f"{self.path}: another process writes there") from error
        if self._entry == "overwrite":
            self._clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """A path to write to; what lies there at the end of the block becomes `name`, at once.

        After an error in the block there is nothing new; an OSError becomes an `OutputError`.
        """
        target = self.path / name
        part = target.with_name(f".{target.stem}{_PART}{target.suffix}")  # see `_is_part`
        with told_as(target):
            try:
                # Never the folder itself: where that has vanished, nothing is to come back.
                for above in reversed(Path(name).parents[:-1]):
                    (self.path / above).mkdir(_FOLDER_MODE, exist_ok=True)
                os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE))
                yield part
                os.replace(part, target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def write(self, name: str, data: bytes) -> None:
        """`data` as `name`."""
        with self.place(name) as part:
            part.write_bytes(data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with told_as(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def _clear(self) -> None:
        with told_as(self.path):
            for there in self.path.iterdir():
                if there.is_dir() and not there.is_symlink():
                    shutil.rmtree(there)
                else:
                    there.unlink()


def _is_part(name: str) -> bool:
    """Whether it was being written when a process ended."""
    return name.startswith(".") and Path(name).stem.endswith(_PART)


@contextmanager
def told_as(path: Path) -> Iterator[None]:
    """An OSError in the block becomes an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror or error} (what was finished is kept)"
        ) from error

"""`maskstream models fetch`: the one command that fetches anything, and only when told `--yes`."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stages.errors import MaskstreamError
from stages.file_digest import sha256_of

HUB: Final = "https://huggingface.co"
_WANTED: Final = (".safetensors", ".json", ".txt", ".md")
_WEIGHTS: Final = (".safetensors", ".pt", ".pth")
_PART: Final = ".fetching"
_BEFORE: Final = ".before"


class FetchError(MaskstreamError):
    """The model could not be fetched; the folder is as it was."""


class FetchUsageError(MaskstreamError):
    """What was asked for is not pinned, or there is no consent."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asked for."""

    model_id: str
    revision: str
    digests: dict[str, str]
    """Expected sha256 by file name; the empty name stands for the one file of weights."""
    to: Path
    files: tuple[str, ...]
    """Names of files; empty: weights in safetensors and what belongs to them."""


def order_of(
    model_id: str, revision: str, digests: Sequence[str], to: Path, files: Sequence[str]
) -> Order:
    """Checked; raises `FetchUsageError`."""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model_id) is None:
        raise FetchUsageError(f"{model_id}: expected an id such as facebook/sam3")
    if re.fullmatch("[0-9a-f]{40}", revision) is None:
        raise FetchUsageError(
            f"--revision {revision}: expected a commit, 40 hexadecimal digits (a branch may mean "
            "other weights tomorrow)"
        )
    told: dict[str, str] = {}
    for text in digests:
        name, _, digest = text.rpartition("=")
        if re.fullmatch("[0-9a-fA-F]{64}", digest) is None:
            raise FetchUsageError(f"--sha256 {text}: expected 64 hexadecimal digits, or FILE=them")
        told[name] = digest.lower()
    if not told:
        raise FetchUsageError("expected --sha256 of the weights, as their owner tells it")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise FetchUsageError(f"--file {name}: expected the name of a file of the model")
    return Order(model_id, revision, told, to, tuple(files))


def fetch(order: Order, *, consent: bool) -> int:
    """Do it where there is consent, else only say what would be done.

    Raises `FetchUsageError` without consent, `FetchError` where it fails.
    """
    hub = os.environ.get("HF_ENDPOINT", HUB)
    what = ", ".join(order.files) or "safetensors weights, JSON and text files"
    if not consent:
        raise FetchUsageError(
            f"would fetch {order.model_id} at {order.revision} ({what}) from {hub} into "
            f"{order.to}; nothing was asked of anyone. Its licence is its owner's "
            f"({HUB}/{order.model_id}): read it, then say --yes"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchError(
            "models fetch needs the huggingface_hub package (pip install 'maskstream[hub]')"
        ) from error
    part = order.to / _PART
    try:
        order.to.mkdir(parents=True, exist_ok=True)
        names = _names(huggingface_hub, order, hub)
        for name in names:
            sys.stdout.write(f"fetching {name}\n")
            huggingface_hub.hf_hub_download(
                order.model_id, name, revision=order.revision, local_dir=part, endpoint=hub
            )
        _verify(order, part, names)
        _put(part, order.to, names)
    except MaskstreamError:
        raise
    except Exception as error:  # whatever the hub, the network and the disk make of it
        raise FetchError(f"{order.model_id}: {_reason(error, order, hub)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sys.stdout.write(f"{len(names)} files in {order.to}\n")
    return 0


def _names(hub_package: Any, order: Order, hub: str) -> list[str]:  # noqa: ANN401 (optional)
    """Files to fetch; every file of weights must have a digest."""
    info = hub_package.HfApi(endpoint=hub).model_info(order.model_id, revision=order.revision)
    there = [each.rfilename for each in info.siblings or ()]
    if order.files:
        missing = [name for name in order.files if name not in there]
        if missing:
            raise FetchError(f"{order.model_id}: has no file {missing[0]} at that revision")
        names = list(order.files)
    else:
        names = [name for name in there if Path(name).suffix in _WANTED and "/" not in name]
    weights = [name for name in names if Path(name).suffix in _WEIGHTS]
    if not weights:
        raise FetchError(
            f"{order.model_id}: no weights among its files, expected model.safetensors, or --file "
            "with their name (a pickle is fetched only when it is named)"
        )
    known = weights if "" in order.digests and len(weights) == 1 else order.digests.keys()
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise FetchUsageError(f"expected --sha256 {unknown[0]}=DIGEST, as there are several files")
    return names


def _verify(order: Order, part: Path, names: Sequence[str]) -> None:
    weights = [name for name in names if Path(name).suffix in _WEIGHTS]
    expected = {name: order.digests[name] for name in order.digests if name}
    if "" in order.digests:
        expected[weights[0]] = order.digests[""]
    for name, digest in expected.items():
        if name not in names:
            raise FetchError(f"{order.model_id}: --sha256 {name}: no such file was fetched")
        found = sha256_of(part / name)
        if found != digest:
            raise FetchError(
                f"{order.model_id}: {name}: sha256 is {found}, expected {digest}: it is another "
                "file, nothing was kept"
            )


def _put(part: Path, to: Path, names: Sequence[str]) -> None:
    """Move them to where they belong, all or none; raises OSError."""
    done: list[tuple[Path, Path | None]] = []
    (part / _BEFORE).mkdir()
    try:
        for number, name in enumerate(names):
            here, there, old = part / name, to / name, part / _BEFORE / str(number)
            there.parent.mkdir(parents=True, exist_ok=True)
            if there.is_dir():
                reason = os.strerror(errno.EISDIR)
                raise IsADirectoryError(errno.EISDIR, reason, str(here), None, str(there))
            known = os.path.lexists(there)
            done.append((there, old if known else None))
            if known:
                os.replace(there, old)
            os.replace(here, there)
    except BaseException:
        for there, before in done:
            if before is None:
                there.unlink(missing_ok=True)
            elif os.path.lexists(before):
                os.replace(before, there)
        raise


def _reason(error: BaseException, order: Order, hub: str) -> str:
    """The known failures in one line; never what a server said about who asked."""
    if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ is not None:
        error = error.__cause__  # no copy here either: what counts is why the hub gave none
    kinds = {kind.__name__ for kind in type(error).__mro__}
    page = f"{HUB}/{order.model_id}"
    if "GatedRepoError" in kinds:
        return (
            f"its owner asks for consent first: accept the terms on {page}, then log in with "
            "`hf auth login`"
        )
    if "RevisionNotFoundError" in kinds:
        return f"has no revision {order.revision}"
    if "RepositoryNotFoundError" in kinds or "LocalTokenNotFoundError" in kinds:
        return f"no such model, or you are not logged in (`hf auth login`); see {page}"
    if "EntryNotFoundError" in kinds:
        return "a file that it lists is not there"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, expected to be allowed to ask the hub"
    response = getattr(error, "response", None)
    if response is not None:
        return f"{hub} answered {response.status_code}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename2 or order.to}: {error.strerror}"
    if kinds & {"TransportError", "ConnectionError", "TimeoutException"}:
        return f"{hub} cannot be reached ({type(error).__name__})"
    return f"failed ({type(error).__name__})"

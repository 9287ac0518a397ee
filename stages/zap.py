"""Who may connect: the answer to libzmq's question about each CURVE client (ZAP, RFC 27)."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.curve_keys import public_key
from stages.errors import ConfigError

DOMAIN: Final = b"maskstream"
_ENDPOINT: Final = "inproc://zeromq.zap.01"
_LOOK_EVERY_S: Final = 1.0


class AllowList:
    """The public keys in a folder, `*.key`; looked at again at most once a second."""

    def __init__(self, folder: Path) -> None:
        """Raises `ConfigError` where the folder, or a key in it, cannot be read."""
        self._folder = folder
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder (expected one with clients' .key files)")
        self._keys = {public_key(path): path.stem for path in self._files()}
        self._looked = time.monotonic()

    def name(self, key: bytes) -> str | None:
        """Whose public key (Z85) it is; None: nobody's who may come in."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look()
        return self._keys.get(key)

    def _look(self) -> None:
        """What cannot be read now lets nobody in, and keeps nobody else out."""
        self._looked, keys = time.monotonic(), {}
        for path in self._files():
            try:
                keys[public_key(path)] = path.stem
            except ConfigError:
                continue
        self._keys = keys

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.key"))


def keep_door(context: zmq.Context[zmq.Socket[bytes]], allowed: AllowList) -> None:
    """Answer for every CURVE socket of ``context``, in a thread that ends when the context is
    terminated (not destroyed, which would close this thread's socket under its hands).

    A message of a client then has the name of its key file as `User-Id`.
    """
    socket = context.socket(zmq.REP)
    socket.linger = 0
    try:
        socket.bind(_ENDPOINT)
    except BaseException:
        socket.close()
        raise
    threading.Thread(
        target=contextvars.copy_context().run,
        args=(_answer_all, socket, allowed),
        name="zap",
        daemon=True,
    ).start()


def _answer_all(socket: zmq.Socket[bytes], allowed: AllowList) -> None:
    try:
        while True:
            asked = socket.recv_multipart()
            try:
                answer = _answer(asked, allowed)
            except Exception as error:  # ours, whatever it is: one no, and the door goes on
                emit(ErrorRaised("keys", f"{type(error).__name__}: {error}"))
                answer = _no(asked)
            socket.send_multipart(answer)
    except zmq.ContextTerminated:
        pass
    finally:
        socket.close(0)


def _answer(asked: Sequence[bytes], allowed: AllowList) -> list[bytes]:
    """The reply to one question; whatever is not right is a no."""
    name = None
    if len(asked) == 7 and asked[0] == b"1.0" and asked[2] == DOMAIN and asked[5] == b"CURVE":
        name = allowed.name(z85.encode(asked[6])) if len(asked[6]) == 32 else None
    if name is None:
        return _no(asked)
    return [b"1.0", asked[1], b"200", b"OK", name.encode("utf-8", "replace"), b""]


def _no(asked: Sequence[bytes]) -> list[bytes]:
    return [b"1.0", asked[1] if len(asked) > 1 else b"", b"400", b"not allowed", b"", b""]

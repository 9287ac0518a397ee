"""CURVE key pairs in files, as ZeroMQ's own tools write and read them. Imports pyzmq only.

`NAME.key` holds the public key, for whoever should know it; `NAME.key_secret` both, for its owner.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
import zmq.auth

from stages.errors import ConfigError

_FILE_BYTES: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_Z85: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, Z85 (40 characters each)."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client proves itself with, and the one server that it talks to."""

    own: KeyPair
    server: bytes
    """The server's public key; whoever has not its secret half is not listened to."""

    @classmethod
    def load(cls, own: Path, server: Path) -> ClientKeys:
        """From the client's own `.key_secret` and the server's `.key`; raises `ConfigError`."""
        return cls(secret_key(own), public_key(server))

    def give(self, socket: zmq.Socket[bytes]) -> None:
        """Make an unconnected socket a CURVE client."""
        socket.curve_publickey = self.own.public
        socket.curve_secretkey = self.own.secret
        socket.curve_serverkey = self.server


def public_key(path: Path) -> bytes:
    """The public key in a file; raises `ConfigError` where it holds none."""
    return _read(path)[0]


def secret_key(path: Path) -> KeyPair:
    """The key pair in a file that nobody but its owner may read; raises `ConfigError`."""
    public, secret = _read(path)
    if secret is None:
        raise ConfigError(f"{path}: holds no secret key (expected a .key_secret file)")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others may read this secret key (expected mode 0600)")
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"{path}: the two keys do not belong together (expected a key pair)")
    return KeyPair(public, secret)


def new_keys(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a key pair: `NAME.key` and `NAME.key_secret` in ``folder``, which is made (0700) where
    it is missing; both files 0600.

    Raises `ConfigError` for a name that is none, where one of the files exists, and where they
    cannot be written.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r}: expected 1 to 64 letters, digits and ._- as a key's name")
    public, secret = zmq.curve_keypair()
    paths = folder / f"{name}.key", folder / f"{name}.key_secret"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            if os.path.lexists(path):
                raise FileExistsError(17, "is there already", str(path))
        _write(paths[1], public, secret)
        _write(paths[0], public, None)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: {error.strerror} (expected a new key in a folder that "
            "can be written)"
        ) from error
    return paths


def _write(path: Path, public: bytes, secret: bytes | None) -> None:
    what = "Public" if secret is None else "**Secret**"
    lines = [f"#   ZeroMQ CURVE {what} Certificate", "", "metadata", "curve"]
    lines.append(f'    public-key = "{public.decode()}"')
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")


def _read(path: Path) -> tuple[bytes, bytes | None]:
    """Public and secret key; no content of the file goes into an error."""
    try:
        size = path.stat().st_size
        public, secret = zmq.auth.load_certificate(path) if size <= _FILE_BYTES else (b"", None)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise ConfigError(f"{path}: {reason} (expected a CURVE key file)") from None
    except ValueError:
        public, secret = b"", None
    for key in (public, public if secret is None else secret):
        if _Z85.fullmatch(key) is None:
            raise ConfigError(f"{path}: holds no CURVE key (expected what `keys new` wrote)")
    return public, secret

"""A model hub on this host, as far as fetching a model asks it."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

MODEL_ID = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves `files` as one commit of one model; `refusal` answers everything instead, or, where
    they are `listed`, whoever asks for a file."""

    def __init__(
        self,
        files: dict[str, bytes],
        refusal: tuple[int, str] | None = None,
        *,
        listed: bool = False,
    ) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                about = self.path.startswith(f"/api/models/{MODEL_ID}/revision/{COMMIT}")
                if refusal is not None and not (listed and about):
                    self._send(refusal[0], b"{}", {"X-Error-Code": refusal[1]})
                elif about:
                    siblings = [{"rfilename": name} for name in files]
                    told = {"id": MODEL_ID, "sha": COMMIT, "siblings": siblings}
                    self._send(200, json.dumps(told).encode(), {})
                else:
                    self._file()

            do_HEAD = do_GET  # noqa: N815 (the server's word)

            def _file(self) -> None:
                name = self.path.removeprefix(f"/{MODEL_ID}/resolve/{COMMIT}/")
                if name not in files:
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                    return
                etag = hashlib.sha256(files[name]).hexdigest()
                self._send(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

            def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

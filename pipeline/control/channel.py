"""The control channel: a thread that answers commands, beside the frame loop and egress."""

from __future__ import annotations

import contextvars
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

import zmq

from pipeline.control.answers import DETAILS, Answer, Effect, answer_of
from pipeline.control.audit import AuditLog
from pipeline.control.commands import Command, Ping, Status
from pipeline.control.config import ControlConfig
from pipeline.control.desk import Desk
from pipeline.control.door import Door, Letter
from pipeline.control.ledger import Ledger, Unheard
from pipeline.control.limits import Limits
from pipeline.control.memory import Key, Memory
from pipeline.control.reading import CommandError, id_in, read_command
from pipeline.control.wake import Wake

_TURN_MS: Final = 100
"""Also how often the door looks for those who send without end."""
_READS_A_TURN: Final = 32
_REST_S: Final = 0.002
"""After a turn that left messages unread: who floods this thread shall not starve the others."""
_STOP_S: Final = 1.0
_SMALL: Final = 4096


class ControlChannel:
    """Answers every message: carried out, refused with a reason, or told that it was none.

    The thread only moves messages: a command is done by whom it concerns, and its answer sent
    when it is there.
    """

    def __init__(self, config: ControlConfig, desk: Desk) -> None:
        """Bind; see `Door`."""
        self._door = Door(config)
        self.endpoint = self._door.endpoint
        self._ledger = Ledger()
        self.counts = self._ledger.counts
        self._desk = desk
        self._limits = Limits(config.rate_per_s, config.burst)
        self._memory = Memory()
        self._asked: dict[Key, tuple[Letter, Command]] = {}
        self._ended: deque[tuple[Key, Effect]] = deque()
        self._wake = Wake()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, audit: AuditLog) -> None:
        """Begin to answer."""
        self._ledger.audit = audit
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._run,), name="control", daemon=True
        )
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Tell those who wait that the run ended, and release the endpoint."""
        if self._over.is_set():
            return
        self._over.set()
        if self._thread is None:
            self._release()
            return
        self._wake.rouse()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        poller = zmq.Poller()
        for waited in (self._door.socket, self._door.monitor, self._wake):
            poller.register(waited, zmq.POLLIN)
        try:
            while not self._over.is_set():
                poller.poll(_TURN_MS)
                self._turn()
            self._answer_ended()
            for key in self._memory.unanswered():
                self._answer(key, Effect("stopped"))
            self._ledger.tell(now=True)
        except Exception as error:
            self._ledger.fail("", error)
        finally:
            self._release()

    def _turn(self) -> None:
        self._wake.rest()
        read = 0
        while read < _READS_A_TURN and (letter := self._door.receive()) is not None:
            read += 1
            try:
                self._take(letter)
            except Exception as error:  # ours, whatever it is: the channel goes on
                self.counts["failed"] += 1
                self._ledger.fail("", error)
        self._expire()
        self._answer_ended()
        for became, connections in self._door.connections().items():
            self.counts[became] = connections
        self._ledger.tell()
        if read == _READS_A_TURN:
            self._over.wait(_REST_S)

    def _take(self, letter: Letter) -> None:
        verdict = self._limits.judge(letter.peer, time.monotonic())
        if verdict == "ignored":
            self.counts["too_fast"] += 1
            return
        body = letter.body or b""
        digest = hashlib.sha256(body).digest()
        if self._repeat(letter, digest):
            return
        if verdict == "told":
            self._refuse(letter, id_in(body) if 0 < len(body) <= _SMALL else None, "too_fast")
        elif letter.body is None:
            self._refuse(letter, None, "bad_parts", "expected a message of one part")
        else:
            self._read(letter, body, digest)

    def _read(self, letter: Letter, body: bytes, digest: bytes) -> None:
        try:
            command = read_command(body)
        except CommandError as error:
            self._refuse(letter, error.command_id, error.reason, error.detail)
            return
        self._hear(letter, digest, command)

    def _expire(self) -> None:
        try:
            self._desk.expire()
        except Exception as error:  # as above
            self._ledger.fail("", error)

    def _answer_ended(self) -> None:
        while self._ended:
            self._answer(*self._ended.popleft())

    def _repeat(self, letter: Letter, digest: bytes) -> bool:
        """Answer what was asked before; also who is too fast, for it may not know of the answer."""
        before = self._memory.find_same(letter.user, digest)
        if before is None:
            return False
        self._ledger.repeated(letter, before.id)
        if before.answer is None:
            before.add(letter.route)
        else:
            self._door.send(letter.route, before.answer)
        return True

    def _hear(self, letter: Letter, digest: bytes, command: Command) -> None:
        if isinstance(command, Ping | Status):  # done again as often as asked, so not remembered
            self._end(letter, command, self._begin(command).result())
            return
        key = letter.user, command.id
        if self._memory.find(key) is not None:
            self._end(letter, command, Effect("id_reused"))
        elif not self._memory.has_place(letter.asker):
            self._end(letter, command, Effect("too_many"))
        else:
            self._memory.begin(key, letter.asker, digest, letter.route)
            self._asked[key] = letter, command
            self._begin(command).add_done_callback(self._pass_on(key))

    def _begin(self, command: Command) -> Future[Effect]:
        try:
            return self._desk.carry_out(command)
        except Exception as error:  # ours, whatever it is: this thread goes on
            self._ledger.fail(f"{command.verb}: ", error)
            failed: Future[Effect] = Future()
            failed.set_result(Effect("failed"))
            return failed

    def _pass_on(self, key: Key) -> Callable[[Future[Effect]], None]:
        """Called in whatever thread ends the command."""

        def pass_on(done: Future[Effect]) -> None:
            self._ended.append((key, done.result()))
            self._wake.rouse()

        return pass_on

    def _answer(self, key: Key, effect: Effect) -> None:
        letter, command = self._asked.pop(key)
        answer = answer_of(command.id, effect)
        asked = self._memory.end(key, answer)
        self._ledger.record(letter, command, answer)
        for route in () if asked is None else asked.routes:
            self._door.send(route, answer)

    def _end(self, letter: Letter, command: Command, effect: Effect) -> None:
        """A command that is not begun, and not remembered: its id may be another's."""
        answer = answer_of(command.id, effect)
        self._ledger.record(letter, command, answer)
        self._door.send(letter.route, answer)

    def _refuse(self, letter: Letter, asked: str | None, reason: Unheard, detail: str = "") -> None:
        told = detail or DETAILS[reason]
        answer = Answer(id=asked, outcome="refused", reason=reason, detail=told)
        self._ledger.refused(letter, reason, answer)
        self._door.send(letter.route, answer)

    def _release(self) -> None:
        self._wake.close()
        self._door.close()
        self._ledger.close()

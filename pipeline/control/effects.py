"""An `Effect` that is there, or comes in another thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

from pipeline.control.answers import Effect

T = TypeVar("T")


def done(effect: Effect) -> Future[Effect]:
    future: Future[Effect] = Future()
    future.set_result(effect)
    return future


def then(source: Future[T], effect: Callable[[T], Effect], epoch: int | None) -> Future[Effect]:
    """What `effect` makes of the result of ``source``, once it is there; where that was taken back,
    `expired`, of ``epoch``."""
    made: Future[Effect] = Future()

    def pass_on(done: Future[T]) -> None:
        try:
            made.set_result(effect(done.result()))
        except CancelledError:
            made.set_result(Effect("expired", epoch))
        except Exception:
            made.set_result(Effect("failed"))

    source.add_done_callback(pass_on)
    return made

"""What the commands about phrases do."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from pipeline.control.answers import Effect
from pipeline.control.commands import AddPhrase, Phrasing
from pipeline.control.deadlines import Deadlines
from pipeline.control.effects import done, then
from stages.base import PhraseBook
from stages.packets import HostPacket
from stages.phrasing import PhraseOutcome


def change(
    book: PhraseBook | None, command: Phrasing, epoch: int | None, deadlines: Deadlines
) -> Future[Effect]:
    """Have a phrase looked for, or no longer; `book` None: the detector takes no words."""
    if book is None:
        return done(Effect("no_phrases"))

    def effect(outcome: PhraseOutcome) -> Effect:
        told = None if outcome.class_id is None else {"class_id": outcome.class_id}
        return Effect(outcome.reason, epoch, outcome.frame_id, data=told)

    ask = book.add if isinstance(command, AddPhrase) else book.remove
    return then(deadlines.watch(ask(command.phrase)), effect, epoch)


def counted(book: PhraseBook | None, packet: HostPacket | None) -> list[dict[str, Any]] | None:
    """What is looked for, and how many objects of the newest packet are of it."""
    if book is None:
        return None
    classes = [] if packet is None else packet.class_ids.tolist()
    told = [(phrase, book.class_of(phrase)) for phrase in book.now]
    return [
        {"phrase": phrase, "class_id": class_id, "objects": classes.count(class_id)}
        for phrase, class_id in told
    ]

"""Every prompt ends, whatever it holds and whatever happens; none ends or stops the frame loop."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sam2 import FRAME_HW, listening, write_model
from tiny_stream import BOX, Stream, disc, ids

from kpi.events import ObjectRefused, PromptEnded
from pipeline.header_reader import HeaderReader
from stages.segmenters.live_prompts import PER_FRAME, Prompt, PromptQueue, Ticket
from stages.segmenters.prompt_flaws import flaw_of
from stages.segmenters.tracker import TICKETS
from stages.window import whole

WINDOW = whole(FRAME_HW)
WEIRD: list[Any] = [
    Prompt("remove", object_id=2**70),
    Prompt("remove", object_id="a"),  # type: ignore[arg-type]
    Prompt("remove", object_id=1.5),  # type: ignore[arg-type]
    Prompt("remove", object_id=True),
    Prompt("remove", object_id=[1]),  # type: ignore[arg-type]
    Prompt("reinit", object_id=-1, box=BOX),
    Prompt("add", box=BOX, class_id=2**40),
    Prompt("add", box=BOX, class_id=-7),
    Prompt("add", box=BOX, class_id="bird"),  # type: ignore[arg-type]
    Prompt("add", box=BOX, class_id=None),  # type: ignore[arg-type]
    Prompt("add", box=BOX, epoch="now"),  # type: ignore[arg-type]
    Prompt("add", box=BOX, epoch=np.zeros(2)),  # type: ignore[arg-type]
    Prompt("explode"),  # type: ignore[arg-type]
    Prompt(["add"], box=BOX),  # type: ignore[arg-type]
    Prompt(None),  # type: ignore[arg-type]
    Prompt("add", points=np.zeros((2, 2)), labels=(1, 1)),  # type: ignore[arg-type]
    Prompt("add", points=None),  # type: ignore[arg-type]
    Prompt("add", points=((5, 5),), labels=None),  # type: ignore[arg-type]
]
BAD_BOXES: list[Any] = [
    ("a", 1, 2, 3), (None,) * 4, (1, 2, 3), 7, "box", np.zeros(4), (0, 0, 10**400, 5),
    (-1e300, 0, 1e300, 5), ((1,), 2, 3, 4),
]  # fmt: skip
BAD_POINTS: list[Any] = [
    ((("a", 5),), (1,)), ((7,), (1,)), (((5, 5, 5),), (1,)), (((5, 5),), ([1],)),
    (((5, 5),), ("1",)), (((10**400, 5),), (1,)), ((None,), (1,)), (((5, 5),), (1, 1)),
]  # fmt: skip
BAD_MASKS: list[Any] = [7, "mask", [[True]], np.ones((90, 131)), np.ones((90, 131, 1), bool)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def built(files: tuple[Path, Path]) -> Stream:
    return Stream(files, late=2)


@pytest.fixture
def stream(built: Stream) -> Stream:
    """A new epoch of the same stream, one frame old."""
    built.epoch += 1
    built.step()
    return built


def queue() -> PromptQueue:
    made = PromptQueue(TICKETS)
    made.enter(0, WINDOW)
    return made


def reason(ticket: Ticket) -> str | None:
    return ticket.outcome.result(0).reason


class TestFlaws:
    @pytest.mark.parametrize("prompt", WEIRD, ids=repr)
    def test_what_is_no_request_is_refused_as_one(self, prompt: Prompt) -> None:
        assert reason(queue().put(prompt)) == "bad_request"

    @pytest.mark.parametrize("box", BAD_BOXES, ids=str)
    def test_boxes(self, box: Any) -> None:
        assert reason(queue().put(Prompt("add", box=box))) == "bad_box"

    @pytest.mark.parametrize(("points", "labels"), BAD_POINTS, ids=str)
    def test_points(self, points: Any, labels: Any) -> None:
        assert reason(queue().put(Prompt("add", points=points, labels=labels))) == "bad_points"

    @pytest.mark.parametrize("mask", BAD_MASKS, ids=lambda mask: type(mask).__name__)
    def test_masks(self, mask: Any) -> None:
        assert reason(queue().put(Prompt("add", mask=mask))) == "bad_mask"

    def test_numbers_of_numpy_and_lists_are_taken(self) -> None:
        at, box = np.float32(5), [np.int16(side) for side in BOX]
        for prompt in (
            Prompt("add", box=box, class_id=np.int32(3)),  # type: ignore[arg-type]
            Prompt("add", points=[[at, at]], labels=[np.uint8(1)]),  # type: ignore[arg-type]
            Prompt("remove", object_id=np.int64(2**62), epoch=np.int64(0)),  # type: ignore[arg-type]
        ):
            assert flaw_of(prompt, WINDOW) is None
        asked = queue()
        asked.put(Prompt("add", box=box, class_id=np.int32(3)))  # type: ignore[arg-type]
        (taken,) = asked.take(0)
        assert taken.prompt.box == BOX
        assert type(taken.prompt.class_id) is int

    def test_a_mask_that_its_owner_draws_on_afterwards_is_the_one_that_was_checked(self) -> None:
        asked, mask = queue(), disc()
        asked.put(Prompt("add", mask=mask))
        mask[:] = False
        (taken,) = asked.take(0)
        assert taken.prompt.mask is not None
        assert np.array_equal(taken.prompt.mask, disc())


class TestEnds:
    def test_no_ticket_can_be_cancelled(self, stream: Stream) -> None:
        tickets = [stream.segmenter.prompt(Prompt("add", box=box)) for box in (BOX, (9, 0, 5, 5))]
        assert not any(ticket.outcome.cancel() for ticket in tickets)
        for _ in range(4):
            packet = stream.step()
        assert reason(tickets[0]) is None
        assert reason(tickets[1]) == "bad_box"
        assert ids(packet) == [0]

    @pytest.mark.parametrize("how", ["put", "enter", "answer", "close"])
    def test_who_hears_of_an_end_may_prompt_again(self, how: str) -> None:
        asked, again = queue(), []

        def end() -> None:
            box = (9.0, 0.0, 5.0, 5.0) if how == "put" else BOX
            ticket = asked.put(Prompt("add", box=box, epoch=0))
            ticket.outcome.add_done_callback(
                lambda _: again.append(asked.put(Prompt("add", box=BOX)))
            )
            if how == "answer":
                asked.answer(asked.take(0)[0].number, None, 3)
            elif how != "put":
                _ = asked.enter(1, WINDOW) if how == "enter" else asked.close()

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(20)
        assert not ending.is_alive(), "it waits for a lock that it holds"
        assert len(again) == 1
        if how == "close":
            assert reason(again[0]) == "stopped"
        else:
            assert [ticket.number for ticket in asked.take(0)] == [again[0].number]

    def test_the_end_of_an_epoch_answers_those_who_wait_and_tells_of_it(
        self, stream: Stream
    ) -> None:
        tickets = [stream.segmenter.prompt(Prompt("add", box=BOX)) for _ in range(PER_FRAME + 1)]
        dated = stream.segmenter.prompt(Prompt("add", box=BOX, epoch=stream.epoch))
        stream.step()  # takes so many; their answers are under way
        stream.epoch += 1
        with listening() as heard:
            stream.step()
        told = {event.ticket: event.reason for event in heard if isinstance(event, PromptEnded)}
        past = [*tickets[:PER_FRAME], dated]
        assert [reason(ticket) for ticket in past] == ["past_epoch"] * len(past)
        assert told == {ticket.number: "past_epoch" for ticket in past}
        assert not tickets[-1].outcome.done()  # it was for any epoch
        for _ in range(3):
            stream.step()
        assert reason(tickets[-1]) is None

    def test_trying_out_a_chain_tells_of_no_prompts(self, files: Any) -> None:
        stream = Stream(files, prompts=({"box": BOX},))
        stream.epoch = -1
        with listening() as heard:
            stream.step()
            stream.epoch = 0
            for _ in range(3):
                stream.step()
        assert [e.reason for e in heard if isinstance(e, PromptEnded)] == [None]
        assert not [e for e in heard if isinstance(e, ObjectRefused)]

    @pytest.mark.parametrize("failing", range(3))
    def test_where_there_is_no_memory_for_one_the_others_wait_on(
        self, stream: Stream, failing: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tickets = [stream.segmenter.prompt(Prompt("add", box=BOX)) for _ in range(3)]
        tracker = stream.segmenter.tracker
        draw, drawn = tracker._draw, iter(range(9))

        def fails_once(*given: Any) -> None:
            if next(drawn) == failing:
                raise torch.OutOfMemoryError("no memory")
            draw(*given)

        monkeypatch.setattr(tracker, "_draw", fails_once)
        with listening() as heard, pytest.raises(torch.OutOfMemoryError):
            stream.step()
        assert reason(tickets[failing]) == "failed"
        assert [e.reason for e in heard if isinstance(e, PromptEnded)] == ["failed"]
        for _ in range(4):
            packet = stream.step()
        assert [t.outcome.done() for t in tickets] == [True] * 3
        assert sorted(t.outcome.result(0).object_id for t in tickets if reason(t) is None) == [0, 1]
        assert ids(packet) == [0, 1]  # nobody half-way moved in

    def test_closing_ends_every_ticket(self, files: Any) -> None:
        stream = Stream(files, late=2)
        stream.step()
        tickets = [stream.segmenter.prompt(Prompt("add", box=BOX)) for _ in range(PER_FRAME + 2)]
        stream.step()
        with listening() as heard:
            HeaderReader(stream.segmenter).close()
            later = stream.segmenter.prompt(Prompt("add", box=BOX))
            stream.segmenter.close()
        assert [reason(t) for t in (*tickets, later)] == ["stopped"] * (PER_FRAME + 3)
        told = [event.ticket for event in heard if isinstance(event, PromptEnded)]
        assert told == [ticket.number for ticket in (*tickets, later)]
        assert ids(stream.step()) == [0, 1, 2]  # frames may still be in flight

    def test_no_answer_is_written_over_one_that_nobody_has_read(self, files: Any) -> None:
        """Refused ones use up numbers too, so two that wait may share a place in the header."""
        stream = Stream(files, late=3)
        stream.step()
        tickets = []
        for _ in range(3):
            tickets.append(stream.segmenter.prompt(Prompt("add", box=BOX)))
            for _ in range(TICKETS - 1):
                stream.segmenter.prompt(Prompt("add"))
        for _ in range(20):
            stream.step()
        assert [ticket.number % TICKETS for ticket in tickets] == [1] * 3
        assert [reason(ticket) for ticket in tickets] == [None] * 3
        assert sorted(t.outcome.result(0).object_id for t in tickets) == [0, 1, 2]


class TestControls:
    """What the tests above rest on, left out: each shows."""

    def test_places_that_are_not_minded(self, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PromptQueue, "_has_place", lambda *_: True)
        with pytest.raises(TimeoutError):
            TestEnds().test_no_answer_is_written_over_one_that_nobody_has_read(files)

    def test_tickets_that_are_not_given_back(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PromptQueue, "give_back", lambda *_: None)
        with pytest.raises(AssertionError):
            TestEnds().test_where_there_is_no_memory_for_one_the_others_wait_on(
                stream, 0, monkeypatch
            )

    def test_futures_that_can_be_cancelled(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Future, "set_running_or_notify_cancel", lambda *_: True)
        with pytest.raises(AssertionError):
            TestEnds().test_no_ticket_can_be_cancelled(stream)

    def test_ends_that_nobody_tells_of(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream.segmenter, "_emit", lambda *_: None)
        with pytest.raises(AssertionError):
            TestEnds().test_the_end_of_an_epoch_answers_those_who_wait_and_tells_of_it(stream)


def test_a_correction_asked_for_with_a_reinit_counts_a_frame_later(files: Any) -> None:
    plain, corrected = Stream(files), Stream(files)
    for stream in (plain, corrected):
        stream.step()
        stream.answered(Prompt("add", box=BOX))
        stream.segmenter.prompt(Prompt("reinit", object_id=0, box=BOX))
    click = Prompt("correct", object_id=0, points=((100.0, 70.0),), labels=(1,))
    ticket = corrected.segmenter.prompt(click)
    presence = [
        [float(stream.shown(seed=8 + number).presence[0]) for stream in (plain, corrected)]
        for number in range(3)
    ]
    assert ticket.outcome.result(0).applied
    differ = [abs(one - other) for one, other in presence]
    assert differ[0] == 0
    assert differ[1] > 0.1
    assert differ[2] > 1e-3


def test_a_second_thread_prompts_while_frames_run(stream: Stream) -> None:
    tickets: list[Ticket] = []
    done = threading.Event()

    def ask() -> None:
        for number in range(60):
            prompts = (
                Prompt("add", box=BOX),
                Prompt("correct", object_id=0, points=((40.0, 40.0),), labels=(1,)),
                Prompt("reinit", object_id=1, mask=disc()),
                Prompt("remove", object_id=number // 8),
                Prompt("add", box=(9, 0, 5, 5)),
            )
            tickets.append(stream.segmenter.prompt(prompts[number % 5]))
            tickets[-1].outcome.exception(60)  # each waits for its end
        done.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    highest = -1
    while not done.is_set():
        packet = stream.step(seed=stream.number % 5)
        live = ids(packet)
        assert len(set(live)) == len(live) <= 3
        assert max([highest, *live]) >= highest
        highest = max([highest, *live])
    thread.join(20)
    assert len(tickets) == 60
    reasons = [reason(ticket) for ticket in tickets]
    assert set(reasons) <= {None, "bad_box", "unknown_object", "no_slot"}
    assert reasons.count("bad_box") == 12
    born = [t.outcome.result(0).object_id for t, r in zip(tickets, reasons, strict=True)
            if r is None and t.prompt.action == "add"]  # fmt: skip
    assert born == list(range(len(born)))
    assert len(born) > 3

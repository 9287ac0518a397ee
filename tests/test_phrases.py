"""Phrases come and go while a run goes on: who gets which class id, and who is refused."""

from __future__ import annotations

import pytest
from blind_network import BlindNetwork

from stages.class_names import LiveNames
from stages.detectors.phrases import PLACES, Phrases
from stages.errors import ConfigError
from stages.phrasing import LONGEST, MOST_PHRASES, PhraseFlaw, PhraseOutcome


class Words(BlindNetwork):
    """A network that only notes what it was given to read."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.broken = False

    def flaw(self, phrase: str) -> PhraseFlaw | None:
        return "long_phrase" if len(phrase.split()) > 5 else None

    def words(self, phrase: str) -> object:
        if self.broken:
            raise RuntimeError("no memory")
        self.texts.append(phrase)
        return phrase


def added(phrases: Phrases, phrase: str, frame_id: int = 0) -> PhraseOutcome:
    told = phrases.add(phrase)
    if not told.done():
        phrases.turn(frame_id)
    return told.result(timeout=0)


def removed(phrases: Phrases, phrase: str, frame_id: int = 0) -> PhraseOutcome:
    told = phrases.remove(phrase)
    phrases.turn(frame_id)
    return told.result(timeout=0)


def test_a_phrase_gets_a_class_id_with_the_next_frame() -> None:
    phrases = Phrases(Words(), ("needle",))
    told = phrases.add("  the   sky ")
    assert not told.done()
    assert phrases.turn(7)
    assert told.result() == PhraseOutcome(None, 7, 2)
    assert phrases.now == ("needle", "the sky")
    assert phrases.names[:3] == ("object", "needle", "the sky")
    assert phrases.words() == [(1, "needle"), (2, "the sky")]
    assert not phrases.turn(8)


def test_one_wish_a_frame_is_granted() -> None:
    phrases = Phrases(Words())
    first, second = phrases.add("a"), phrases.add("b")
    phrases.turn(3)
    assert (first.done(), second.done()) == (True, False)
    phrases.turn(4)
    assert second.result().frame_id == 4


def test_a_text_is_encoded_once_also_where_it_comes_back() -> None:
    network = Words()
    phrases = Phrases(network)
    first = added(phrases, "a").class_id
    assert added(phrases, "a").class_id == first
    removed(phrases, "a")
    assert phrases.now == ()
    again = added(phrases, "a").class_id
    assert again != first
    assert network.texts == ["a"]


def test_what_is_remembered_does_not_grow() -> None:
    phrases = Phrases(Words(), ("kept",))
    for number in range(500):
        assert added(phrases, f"phrase {number}").reason is None
        removed(phrases, f"phrase {number}")
    assert len(phrases._words) == 64
    assert phrases.words() == [(1, "kept")]
    assert len(phrases.names) == PLACES


def test_a_class_id_is_anothers_only_long_after() -> None:
    phrases = Phrases(Words(), tuple(f"kept {number}" for number in range(MOST_PHRASES - 1)))
    given: list[int] = []
    for number in range(100):
        class_id = added(phrases, f"p{number}").class_id
        assert class_id is not None
        assert class_id not in given[-MOST_PHRASES:]
        assert phrases.names[class_id] == f"p{number}"
        removed(phrases, f"p{number}")
        assert phrases.names[class_id] == f"p{number}"  # for results that are on their way
        given.append(class_id)


def test_100_phrases_are_too_many() -> None:
    phrases = Phrases(Words())
    outcomes = [added(phrases, f"phrase {number}") for number in range(100)]
    assert [each.reason for each in outcomes] == [None] * 16 + ["too_many_phrases"] * 84
    assert len(phrases.now) == MOST_PHRASES
    assert removed(phrases, "phrase 3").reason is None
    assert added(phrases, "phrase 99").reason is None


@pytest.mark.parametrize("phrase", ["", "   ", "a\x1b[31m", "x" * (LONGEST + 1)])
def test_what_is_no_phrase_is_refused_at_once(phrase: str) -> None:
    told = Phrases(Words()).add(phrase)
    assert told.result(timeout=0).reason == "bad_phrase"


def test_what_the_model_cannot_read_is_refused_at_once() -> None:
    assert Phrases(Words()).add("a b c d e f").result(timeout=0).reason == "long_phrase"
    with pytest.raises(ConfigError, match="phrases: 'a b c d e f': it is longer than the model"):
        Phrases(Words(), ("a b c d e f",))


def test_what_is_not_looked_for_cannot_be_removed() -> None:
    assert removed(Phrases(Words(), ("a",)), "b").reason == "unknown_phrase"


def test_more_wishes_than_anyone_waits_for_are_refused() -> None:
    phrases = Phrases(Words())
    told = [phrases.add(f"p{number}") for number in range(134)]
    assert [each.result().reason for each in told if each.done()] == ["too_many"] * 6


def test_a_network_that_fails_ends_the_wish_and_is_heard() -> None:
    network = Words()
    phrases = Phrases(network, ("a",))
    network.broken = True
    told = phrases.add("b")
    with pytest.raises(RuntimeError, match="no memory"):
        phrases.turn(5)
    assert told.result().reason == "failed"
    network.broken = False
    assert added(phrases, "b").reason is None


def test_live_names_follow_and_never_shrink() -> None:
    phrases = Phrases(Words(), ("a",))
    names = LiveNames(lambda: phrases.names)
    assert (tuple(names), len(names)) == (("object", "a"), 2)
    added(phrases, "b")
    removed(phrases, "b")
    assert names[:] == ("object", "a", "b")
    assert names[2] == "b"
    assert LiveNames(lambda: ("", "")).now == ()

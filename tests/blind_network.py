"""A concept network that is never looked through: `BlindNetwork`."""

from __future__ import annotations

from stages.detectors.concepts import Finds
from stages.records import Frame


class BlindNetwork:
    """What has to do with pictures fails the test that asks for it."""

    def look(self, frame: Frame) -> object:
        raise AssertionError("nobody should look at a picture here")

    def find(self, sight: object, words: object) -> Finds:
        raise AssertionError("nobody should look for anything here")

    def weights_sha256(self) -> str:
        raise AssertionError("there are no weights here")

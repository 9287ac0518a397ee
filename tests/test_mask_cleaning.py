from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.audit import residency_guard
from stages.segmenters.mask_cleaning import FILLED, fill_holes, without_overlap

EIGHT = np.ones((3, 3), int)


def filled_by_scipy(logits: np.ndarray, most: int) -> np.ndarray:
    out = logits.copy()
    for plane, wanted in zip(logits, out, strict=True):
        labels, count = ndimage.label(plane <= 0, structure=EIGHT)
        for label in range(1, count + 1):
            if (labels == label).sum() <= most:
                wanted[labels == label] = FILLED
    return out


@pytest.mark.parametrize("most", [1, 3, 8, 20])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6])
def test_the_same_holes_as_scipy_labels(most: int, share: float) -> None:
    rng = np.random.default_rng(most)
    logits = np.where(rng.random((4, 40, 33)) < share, -1.0, 2.0).astype(np.float32)
    found = fill_holes(torch.from_numpy(logits), most).numpy()
    assert np.array_equal(found, filled_by_scipy(logits, most))
    assert (found != logits).any()


def test_a_winding_hole_longer_than_the_limit_stays() -> None:
    logits = torch.ones(1, 9, 9)
    logits[0, 4, 0:9] = -1
    assert torch.equal(fill_holes(logits, 8), logits)
    assert (fill_holes(logits, 9)[0, 4] == FILLED).all()


def test_nothing_to_fill_and_nothing_asked() -> None:
    whole = torch.ones(2, 8, 8)
    assert torch.equal(fill_holes(whole, 8), whole)
    assert fill_holes(-whole, 0).equal(-whole)
    assert fill_holes(-whole, 8).equal(-whole)


def test_the_highest_logit_takes_a_pixel() -> None:
    logits = torch.tensor([[[3.0, 1.0]], [[2.0, 4.0]], [[9.0, 9.0]]])
    live = torch.tensor([True, True, False])
    found = without_overlap(logits, live)
    assert found.tolist() == [[[3.0, -10.0]], [[-10.0, 4.0]], [[9.0, 9.0]]]
    assert without_overlap(-20 * torch.ones(2, 1, 1), live[:2]).tolist() == [[[-20.0]]] * 2


def test_both_stay_on_the_device() -> None:
    logits, live = torch.randn(3, 16, 16), torch.tensor([True, False, True])
    with residency_guard("raise"):
        without_overlap(fill_holes(logits, 8), live)

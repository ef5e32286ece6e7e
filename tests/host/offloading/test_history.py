"""What a layer's history holds, and when it is worth nothing."""

from __future__ import annotations

import pytest
import torch

from brownout.host import Accelerator
from brownout.host.offloading.history import History, HistoryKey

KEY = HistoryKey(3, 0)


@pytest.fixture
def accelerator(config):
    with Accelerator(config, backend="twin") as each:
        yield each


def slot(history, *, key=KEY, shape=(2, 3), scale=1.0, evaluation=0):
    return history.slot(key, shape, torch.device("cpu"), scale=scale, evaluation=evaluation)


def test_values_stay_from_evaluation_to_evaluation(accelerator):
    history = History(accelerator)
    sums, valid = slot(history)
    assert not valid
    sums.fill_(7)
    again, valid = slot(history, evaluation=1)
    assert valid
    assert again is sums
    assert slot(history, evaluation=3)[1]
    assert history.ages == {1: 1, 2: 1}
    assert accelerator.stats["host_bytes"] == 0


def test_other_parts_calls_and_shapes_have_values_of_their_own(accelerator):
    history = History(accelerator)
    slot(history)
    for key in (HistoryKey(3, 1), HistoryKey(4, 0), HistoryKey(3, 0, 1)):
        assert not slot(history, key=key)[1]
    assert not slot(history, shape=(2, 4))[1]
    assert not slot(history)[1]
    history.forget(KEY)
    assert not slot(history)[1]
    history.clear()
    assert not slot(history)[1]


def test_values_follow_a_change_of_the_scale_and_that_is_charged(accelerator):
    history = History(accelerator)
    sums, _ = slot(history, scale=0.5)
    sums.copy_(torch.tensor([[10, -7, 0], [3, 1 << 30, -(1 << 30)]]))
    before = accelerator.stats["energy_j"]
    # HBM2, rows opened one after the other: 3.6 pJ/bit.
    byte_j = 2.71 * 8e-12 + 909e-12 / 1024
    converted, valid = slot(history, scale=0.2, evaluation=1)
    assert valid
    # x 0.5 / 0.2, half to even; beyond int32 it saturates.
    assert converted.tolist() == [[25, -18, 0], [8, 2**31 - 1, -(2**31)]]
    assert accelerator.stats["host_bytes"] == 2 * 4 * 6
    assert accelerator.stats["energy_j"] - before == pytest.approx(48 * byte_j)
    assert accelerator.stats["energy_host_j"] == pytest.approx(48 * byte_j)

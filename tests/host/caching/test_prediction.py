"""Predicted rollback values: only uncorrectable elements are written, from the two evaluations before, and priced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, Protection
from brownout.host.caching import ProductPredictor, Writes, logged_places, write_predictions
from brownout.host.device.product.reload import Places

from ..device.test_protected_commands import CONFIGS as DEVICES

SHAPE = (13, 10)


def places(*pairs):
    table = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return Places(table[:, 0].copy(), table[:, 1].copy())


def test_only_the_given_places_are_written(generator):
    slot, latest, earlier = (
        torch.randint(-1000, 1000, SHAPE, generator=generator, dtype=torch.int32) for _ in range(3)
    )
    before = slot.clone()
    chosen = [(0, 0), (3, 9), (12, 4)]
    assert write_predictions(slot, latest, earlier, places(*chosen), factor=0.5).elements == 3
    for row in range(SHAPE[0]):
        for col in range(SHAPE[1]):
            new, old = int(latest[row, col]), int(earlier[row, col])
            expected = round(new + 0.5 * (new - old)) if (row, col) in chosen else int(before[row, col])
            assert int(slot[row, col]) == expected


def test_products_of_a_batch_are_rows_below_each_other():
    slot = torch.zeros(2, 3, 4, dtype=torch.int32)
    latest = torch.arange(24, dtype=torch.int32).view(2, 3, 4)
    write_predictions(slot, latest, None, places((4, 2)), factor=1)
    assert slot.nonzero().tolist() == [[1, 1, 2]]
    assert slot[1, 1, 2] == latest[1, 1, 2]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_predictions_saturate(dtype):
    limits = torch.iinfo(dtype)
    latest = torch.tensor([[limits.max, limits.min, limits.max]], dtype=dtype)
    earlier = torch.tensor([[limits.min, limits.max, 0]], dtype=dtype)
    slot = torch.zeros(1, 3, dtype=dtype)
    write_predictions(slot, latest, earlier, places((0, 0), (0, 1), (0, 2)), factor=1)
    assert slot.tolist() == [[limits.max, limits.min, limits.max]]


def test_traffic_is_whole_beats_of_every_run():
    """Rows of 10 int32 take 48 bytes on a bus of 16: elements 3 and 4 are in two beats, 5 and 6 in one."""
    slot = torch.zeros(SHAPE, dtype=torch.int32)
    pairs = [(0, 3), (0, 4), (1, 5), (1, 6), (2, 9)]
    assert write_predictions(slot, slot.clone(), slot.clone(), places(*pairs), factor=1) == Writes(5, 2 * 64, 64)
    assert write_predictions(slot, slot.clone(), None, places(*pairs), factor=1) == Writes(5, 64, 64)
    assert write_predictions(slot, slot, None, places(), factor=1) == Writes()
    assert Writes(1, 2, 3) + Writes(4, 5, 6) == Writes(5, 7, 9)
    assert Writes(5, 7, 9).bytes == 16


def test_outputs_that_do_not_fit_are_refused():
    slot = torch.zeros(SHAPE, dtype=torch.int32)
    message = r"^earlier must be torch.int32 \(13, 10\) as the slot, not torch.int8 \(13, 10\)$"
    with pytest.raises(ValueError, match=message):
        write_predictions(slot, slot, slot.to(torch.int8), places((0, 0)), factor=1)


def erring(backend="twin"):
    protection = Protection(correct=False, on_uncorrectable="suppress", log_records=5000)
    return Accelerator(DEVICES["weighted-flip"], backend=backend, protection=protection)


def evaluate(accelerator, generator, *, damping=0.75, evaluations=(0, 1, 2, 3), seed=1):
    """Products that change a little each time: outputs after prediction, clean ones, places, writes."""
    predictor = ProductPredictor(accelerator, damping=damping)
    a = torch.randint(-60, 60, (SHAPE[0], 24), generator=generator, dtype=torch.int8)
    step = torch.randint(-3, 4, a.shape, generator=generator, dtype=torch.int8)
    w = torch.randint(-128, 128, (24, SHAPE[1]), generator=generator, dtype=torch.int8)
    results = []
    for evaluation in evaluations:
        accelerator.set_error_rate(0.05, seed=seed + evaluation)
        operand = a + evaluation * step
        slot = predictor.slot(SHAPE)
        accelerator.gemm(operand, w, out=slot, error_key=evaluation)
        uncorrectable = logged_places(accelerator.last_log)
        writes = predictor.settle(uncorrectable, evaluation=evaluation)
        clean = (operand.double() @ w.double()).to(torch.int32)
        results.append(
            (
                slot.clone(),
                clean,
                set(zip(uncorrectable.rows.tolist(), uncorrectable.cols.tolist(), strict=True)),
                writes,
            )
        )
    return results


@pytest.mark.parametrize("evaluations", [(0, 1, 2, 3), (0, 1, 3, 6)])
def test_marked_elements_of_a_product_are_extrapolated(generator, evaluations):
    with erring() as accelerator:
        results = evaluate(accelerator, generator, evaluations=evaluations)
        assert accelerator.stats["suppressed"] == sum(len(uncorrectable) for _, _, uncorrectable, _ in results)
        assert accelerator.stats["suppressed_unwritten"] == len(results[0][2])
    for index, (output, clean, uncorrectable, writes) in enumerate(results):
        assert uncorrectable
        assert writes.elements == (len(uncorrectable) if index else 0)
        for row in range(SHAPE[0]):
            for col in range(SHAPE[1]):
                if (row, col) not in uncorrectable:
                    expected = int(clean[row, col])
                elif not index:
                    expected = 0
                else:
                    expected = int(results[index - 1][0][row, col])
                    if index > 1:
                        now, last, before = evaluations[index], evaluations[index - 1], evaluations[index - 2]
                        change = expected - int(results[index - 2][0][row, col])
                        expected = round(expected + 0.75 * change * (now - last) / (last - before))
                assert int(output[row, col]) == expected, (index, row, col)


def test_undamped_extrapolation_of_steady_change_is_exact(generator):
    with erring() as accelerator:
        results = evaluate(accelerator, generator, damping=1, evaluations=(0, 1, 2))
    touched = results[0][2] | results[1][2]
    for row, col in results[2][2] - touched:
        assert results[2][0][row, col] == results[2][1][row, col]
    assert results[2][2] - touched


@pytest.mark.rtl
def test_the_rtl_gives_the_same_bits_and_writes(generator):
    seen = []
    for backend in ("twin", "rtl"):
        generator.manual_seed(9)
        with erring(backend) as accelerator:
            seen.append(evaluate(accelerator, generator, evaluations=(0, 1, 2)))
    for twin, rtl in zip(*seen, strict=True):
        assert torch.equal(twin[0], rtl[0])
        assert twin[2:] == rtl[2:]


def test_logged_places_count_from_the_first_row_and_column(generator):
    with erring() as accelerator:
        accelerator.set_error_rate(0.05, seed=3)
        a = torch.randint(-60, 60, (SHAPE[0], 24), generator=generator, dtype=torch.int8)
        w = torch.randint(-128, 128, (24, SHAPE[1]), generator=generator, dtype=torch.int8)
        slot = accelerator.new_slot(*SHAPE)
        slot.fill_(-1 << 31)
        accelerator.gemm(a, w, out=slot, first_row=(1 << 32) - 7, first_col=40)
        found = logged_places(accelerator.last_log, first_row=(1 << 32) - 7, first_col=40)
    assert torch.equal(torch.from_numpy(np.stack([found.rows, found.cols], 1)), (slot == -1 << 31).nonzero())
    assert len(found)


def test_another_shape_begins_anew_and_holds_two_slots():
    with erring() as accelerator:
        predictor = ProductPredictor(accelerator)
        first = predictor.slot(SHAPE)
        assert predictor.slot(SHAPE) is first, "not settled yet"
        predictor.settle(places())
        second = predictor.slot(SHAPE)
        assert second is not first
        predictor.settle(places())
        assert predictor.slot(SHAPE) is first
        assert predictor.held_bytes == 2 * first.nbytes
        other = predictor.slot((5, 5))
        assert other.shape == (5, 5)
        assert not predictor.settle(places((0, 0))).elements


def test_a_predictor_goes_on_from_its_state(generator):
    with erring() as accelerator:
        predictor, other = ProductPredictor(accelerator, damping=1), ProductPredictor(accelerator, damping=1)
        for value in (10, 13):
            predictor.slot(SHAPE).fill_(value)
            with pytest.raises(ValueError, match="settle it before its state is taken"):
                predictor.state()
            predictor.settle(places())
        other.load_state(predictor.state())
        for each in (predictor, other):
            slot = each.slot(SHAPE)
            each.settle(places((1, 1)))
            assert slot[1, 1] == 16
            assert slot[0, 0] == 10


def test_calls_out_of_order_and_wrong_parameters_are_refused():
    with erring() as accelerator:
        predictor = ProductPredictor(accelerator)
        with pytest.raises(ValueError, match=r"^there is no product to settle; give slot\(\) as out= to gemm first$"):
            predictor.settle(places())
        predictor.slot(SHAPE)
        predictor.settle(places(), evaluation=4)
        predictor.slot(SHAPE)
        with pytest.raises(ValueError, match=r"^evaluation must be above the last one, 4, not 4$"):
            predictor.settle(places(), evaluation=4)
        with pytest.raises(ValueError, match=r"^damping must be in 0..1, not 1.5$"):
            ProductPredictor(accelerator, damping=1.5)

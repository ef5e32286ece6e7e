"""Which segments are computed again, by logs written by hand, and what that costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, Protection, calibrate, offload, offloaded_model
from brownout.host.device.product.protection import LogRecord, Outcome
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import RecomputeAbft, Unprotected
from brownout.host.drift.strategies.checksums import classic
from brownout.host.drift.strategies.recomputing import concerned_segments
from brownout.hw.config import AcceleratorConfig

from ..denoiser import CONFIG, products

SAFE = OperatingPoint(error_rate=0.0)
CHECKED = AcceleratorConfig(rows=8, cols=8, block_rows=32, block_col_tiles=2, timing_model="flip", checksum=classic(4))
"""Blocks of 32 x 16, tiles of 4 x 4."""


def record(row, col, syndrome):
    return LogRecord(row, col, syndrome, Outcome.UNCORRECTABLE, (0,), 0)


def concerned(log, *, shape=(64, 32), first_row=0, overflowed=False, magnitude=100.0, count=3):
    found = concerned_segments(
        CHECKED, shape, log, first_row=first_row, overflowed=overflowed, magnitude=magnitude, count=count
    )
    return set(zip(*(where.tolist() for where in np.nonzero(found)), strict=True))


def test_of_a_tile_with_a_large_syndrome_all_flagged_rows_are_concerned():
    log = [record(4, 8, -100), record(5, 8, 20), record(8, 8, 99), record(5, 12, 99)]
    assert concerned(log) == {(4, 2), (5, 2)}


def test_of_a_tile_with_many_flagged_rows_all_are_concerned():
    log = [record(row, 20, 10) for row in (36, 38, 39)] + [record(row, 0, 10) for row in (4, 5)]
    assert concerned(log) == {(36, 5), (38, 5), (39, 5)}


def test_tiles_of_products_of_a_batch_are_apart():
    log = [record(7 + row, 0, 10) for row in (4, 5, 6, 7)]
    # Products of six rows: rows 4 and 5 of the first one, 0 and 1 of the second one.
    assert concerned(log, shape=(2, 6, 24), first_row=7) == set()
    assert concerned(log, shape=(2, 6, 24), first_row=7, count=2) == {(4, 0), (5, 0), (6, 0), (7, 0)}


def test_what_follows_the_last_record_of_a_full_block_is_concerned():
    # The block of rows 0 to 31 and columns 0 to 15, four segments, has its 64 records in the first rows.
    full = [record(row, 4 * segment, 1) for row in range(16) for segment in range(4)]
    other = [record(2, 16, 1)]
    assert concerned(full + other) == {(row, segment) for row in range(16) for segment in range(4)}
    after = {(row, segment) for row in range(16, 32) for segment in range(4)}
    assert concerned([*full[:-2], record(17, 0, 1), record(17, 4, 1), *other], overflowed=True, count=100) == {
        (17, 2),
        (17, 3),
    } | {each for each in after if each[0] > 17}
    assert concerned(other, overflowed=True) == set()


def test_records_of_a_block_are_in_the_order_that_this_relies_on():
    generator = torch.Generator().manual_seed(1)
    a, w = (torch.randint(-128, 128, shape, generator=generator).to(torch.int8) for shape in ((64, 9), (9, 32)))
    with Accelerator(CHECKED, backend="twin") as accelerator:
        accelerator.set_error_rate(0.03, seed=3)
        accelerator.gemm(a, w, protection=Protection(correct=False))
        log = accelerator.last_log
        assert accelerator.check_counts["log_dropped"] == 0
    places = [(each.row // 32, each.col // 16, each.row, each.col) for each in log]
    assert len(places) > 10
    assert places == sorted(places)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 40), nn.Linear(40, 8)

    def forward(self, x):
        return x + self.down(self.up(x))


class Wide(nn.Module):
    """A denoiser with a product of ten segments."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.blocks = nn.ModuleList([Block()])

    def forward(self, hidden_states, timestep):
        return self.blocks[0](hidden_states)


UP = "blocks.0.up"
ROWS, COLS, K, STEPS = 120, 40, 8, 4


def run(strategy, *, rate):
    """Sums of the wide product, counters and execution of a run in which it errs after a clean evaluation."""
    generator = torch.Generator().manual_seed(5)
    xs = [torch.randn(ROWS, K, generator=generator) for _ in range(STEPS)]
    low = OperatingPoint(error_rate=rate)

    def policy(site):
        return low if site.product == UP and site.evaluation else SAFE

    with Accelerator(
        strategy.hardware(replace(CONFIG, block_rows=64, block_col_tiles=10)), backend="twin"
    ) as accelerator:
        net = Wide().requires_grad_(False)
        offload(net, accelerator, calibration=calibrate(net, lambda m: [m(x, 0) for x in xs], measure_error=False))
        with protect(net, strategy, policy, safe=SAFE, seed=2) as execution:
            seen = products(net, xs, offloaded_model(net))[UP]
        return [sums.reshape(ROWS, COLS) for sums in seen], dict(accelerator.stats), execution


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.3])
def test_what_is_seen_is_put_right_at_the_price_of_its_tiles(rate):
    right, plain, _ = run(Unprotected(), rate=0.0)
    erring, _, _ = run(Unprotected(), rate=rate)
    seen, stats, execution = run(RecomputeAbft(1e-9, tile=4), rate=rate)
    assert all(torch.equal(a, b) for a, b in zip(seen, right, strict=True))
    elements = rows = 0
    for got, clean in zip(erring, right, strict=True):
        flagged = (got - clean).reshape(ROWS, COLS // 4, 4).sum(-1) != 0
        whole = flagged.sum(1) > 2
        rows += int(flagged[~whole].sum()) + int(whole.sum())
        elements += int(flagged[~whole].sum()) * 4 + int(whole.sum()) * COLS
    if rate < 0.1:
        assert execution.recomputed_rows == rows > 0
        assert stats["log_dropped"] == 0
        assert stats["macs"] - plain["macs"] == elements * K
    else:
        # Blocks have lost records: nothing is left that could be right, and no more is computed than the product.
        assert stats["log_dropped"] > 0
        assert stats["macs"] - plain["macs"] == (STEPS - 1) * ROWS * COLS * K


def test_what_is_lost_of_one_block_costs_nothing_in_others():
    """Rows whose records a block has lost are computed again, not the product."""
    right, plain, _ = run(Unprotected(), rate=0.0)
    seen, stats, _ = run(RecomputeAbft(1e-9, tile=4), rate=0.038)
    assert stats["log_dropped"] > 0
    assert all(torch.equal(a, b) for a, b in zip(seen, right, strict=True))
    assert 0 < stats["macs"] - plain["macs"] < (STEPS - 1) * ROWS * COLS * K


def test_few_small_errors_are_let_pass_and_many_are_not():
    few, many = (
        run(RecomputeAbft(1e9, count=count, noticed=1e-12, tile=4), rate=2e-3)[2].recomputed_rows for count in (100, 1)
    )
    assert few == 0 < many


def test_measured_is_the_deviation_of_sums():
    strategy = RecomputeAbft(tile=4)
    seen, _, _ = run(strategy, rate=0.0)
    mean = math.prod(float(sums.double().std()) for sums in seen) ** (1 / STEPS)
    assert strategy.measured()[f"deviation.{UP}"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"count": 0}, r"^count must be at least 1, not 0$"),
        ({"noticed": 1.5}, r"^noticed must be above 0 and at most 1, not 1.5$"),
        ({"deviations": 0}, r"^deviations must be positive, not 0$"),
    ],
)
def test_parameters_that_cannot_be_are_refused(named, reason):
    with pytest.raises(ValueError, match=reason):
        RecomputeAbft(**named)

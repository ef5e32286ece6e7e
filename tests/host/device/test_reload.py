"""Going back to a checkpoint: which elements the log names, and that these and no others are copied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, Protection
from brownout.host.device.product.protection import Outcome, parse_log
from brownout.host.device.product.reload import Places, uncorrectable_places
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.matrix_layout import row_major, tiled_output

from .test_protected_commands import CONFIGS as DEVICES


def protected(scheme: str, column_checks: bool) -> AcceleratorConfig:
    checksum = ChecksumConfig(scheme=scheme, segment_cols=4, group_rows=8, column_checks=column_checks)
    return AcceleratorConfig(rows=4, cols=6, block_rows=16, timing_model="flip", checksum=checksum)


CONFIGS = [protected("residue", False), protected("residue", True), protected("classic", True)]


def operands(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-128, 128, (37, 21), dtype=torch.int8, generator=generator)
    return a, torch.randint(-128, 128, (21, 23), dtype=torch.int8, generator=generator)


def test_runs_join_neighbours() -> None:
    places = Places(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 3, 0, 9, 0]))
    # Rows of ten bytes: the last byte of a row and the first one of the next are neighbours.
    assert places.runs(row_major(3, 10, 10)).tolist() == [[0, 2], [3, 1], [10, 1], [19, 2]]
    assert places.runs(row_major(3, 10, 48, 4)).tolist() == [[0, 8], [12, 4], [48, 4], [84, 4], [96, 4]]
    # The third row is the first one of a second product.
    assert places.runs(row_major(2, 10, 10)).tolist() == [[0, 2], [3, 1], [10, 1], [19, 2]]
    assert Places(np.array([0]), np.array([0])).runs(row_major(1, 1, 16, 4)).tolist() == [[0, 4]]


def test_runs_in_tiles_are_where_the_tiles_are() -> None:
    """Every element of two products, one run each, against the tiles walked one by one."""
    config = AcceleratorConfig(rows=3, cols=5, bus_bytes=4, block_rows=4, block_col_tiles=2)
    m, n = 11, 37
    layout = tiled_output(config, m, n, 1)
    place = np.zeros((2, m, n), np.int64)
    for tile in layout.tiles():
        for product, row, col in np.ndindex(2, tile.rows, tile.cols):
            offset = product * m * layout.row_bytes + tile.offset + row * tile.row_bytes + col
            place[product, tile.first_row + row, tile.first_col + col] = offset
    for row, col in np.ndindex(2 * m, n):
        runs = Places(np.array([row]), np.array([col])).runs(layout)
        assert runs.tolist() == [[place.reshape(2 * m, n)[row, col], 1]]


@pytest.mark.parametrize("config", CONFIGS, ids=["rows", "located", "classic"])
@pytest.mark.parametrize("correct", [False, True])
def test_marks_in_the_log_are_the_elements_that_were_not_written(config: AcceleratorConfig, correct: bool) -> None:
    a, w = operands(1)
    protection = Protection(on_uncorrectable="suppress", correct=correct, log_records=5000)
    with Accelerator(config, backend="twin", protection=protection) as accelerator:
        accelerator.set_error_rate(0.05, seed=3)
        # No sum of 21 products is that large.
        slot = torch.full((37, 23), 1 << 30, dtype=torch.int32)
        accelerator.gemm(a, w, out=slot, first_row=(1 << 32) - 7, first_col=1000)
        places = uncorrectable_places(config, accelerator._log, (1 << 32) - 7, 1000)
        unwritten = (slot == 1 << 30).nonzero()
        assert len(unwritten) > 3
        assert unwritten.tolist() == [list(place) for place in zip(places.rows, places.cols, strict=True)]
        named = [
            ((record.row + 7) % (1 << 32), record.col - 1000 + position)
            for record in accelerator.last_log
            for position in record.uncorrectable
        ]
        assert sorted(named) == [tuple(place) for place in unwritten.tolist()]
        if not correct and config.checksum.scheme == "residue":
            assert {len(r.uncorrectable) for r in accelerator.last_log if r.outcome is Outcome.LOCATED} == {1}


@pytest.mark.parametrize("config", CONFIGS, ids=["rows", "located", "classic"])
def test_marked_elements_come_from_the_checkpoint(config: AcceleratorConfig) -> None:
    a, w = operands(2)
    with Accelerator(config, backend="twin") as accelerator:
        accelerator.set_error_rate(0.02, seed=3)
        accelerator.reset_stats()
        settings = {"correct": False, "log_records": 5000}
        kept = torch.full((37, 23), 7, dtype=torch.int32)
        accelerator.gemm(a, w, out=kept, protection=Protection(on_uncorrectable="suppress", **settings))
        before = dict(accelerator.stats)
        got, checkpoint = torch.full_like(kept, 9), torch.full_like(kept, 7)
        accelerator.gemm(
            a, w, out=got, checkpoint=checkpoint, protection=Protection(on_uncorrectable="reload", **settings)
        )
        after = accelerator.stats
        assert torch.equal(got, kept)
        assert bool((checkpoint == 7).all())
        assert after["reloaded"] == after["suppressed"] - before["suppressed"] > 0
        # Beside a second product: a command, the list, and beats that hold what was marked, read and written.
        extra = {name: after[name] - 2 * before[name] for name in ("dram_read_bytes", "dram_write_bytes")}
        assert 4 * after["reloaded"] <= extra["dram_write_bytes"] <= 32 * after["reloaded"]
        assert extra["dram_read_bytes"] > 256 + extra["dram_write_bytes"]


def test_what_the_log_does_not_name_keeps_its_old_value() -> None:
    a, w = operands(3)
    with Accelerator(CONFIGS[0], backend="twin") as accelerator:
        accelerator.set_error_rate(0.1, seed=3)
        got, checkpoint = torch.full((37, 23), 9, dtype=torch.int32), torch.full((37, 23), 7, dtype=torch.int32)
        few = Protection(on_uncorrectable="reload", correct=False, log_records=3)
        accelerator.gemm(a, w, out=got, checkpoint=checkpoint, protection=few)
        assert accelerator.stats["log_dropped"] > 0
        assert int((got == 7).sum()) == accelerator.stats["reloaded"]
        assert int((got == 9).sum()) == accelerator.stats["suppressed"] - accelerator.stats["reloaded"] > 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_a_copy_reads_and_writes_every_byte_once(dtype: torch.dtype) -> None:
    with Accelerator(CONFIGS[0], backend="twin") as accelerator:
        source = torch.randint(-128, 128, (2, 5, 16), generator=torch.Generator().manual_seed(1)).to(dtype)
        target = accelerator.new_slot(2, 5, 16, dtype=dtype)
        accelerator.copy(source, target)
        assert torch.equal(source, target)
        stats = accelerator.stats
        assert stats["dram_write_bytes"] == source.numel() * dtype.itemsize
        assert stats["dram_read_bytes"] == 256 + 16 + source.numel() * dtype.itemsize
        assert stats["energy_dram_j"] > 0
        assert stats["time_s"] > 0


@pytest.mark.parametrize(
    ("name", "layout"), [("weighted-flip", "row-major"), ("weighted-flip", "tiled"), ("classic-flip", "tiled")]
)
def test_rtl_and_twin_agree(name: str, layout: str) -> None:
    """Without column checks, and with them on a bus narrower than an entry of the list."""
    config = DEVICES[name]
    results = []
    for backend in ("twin", "rtl"):
        protection = Protection(on_uncorrectable="reload", correct=False, log_records=5000)
        with Accelerator(config, backend=backend, protection=protection, layout=layout) as accelerator:
            slot, checkpoint = accelerator.new_slot(37, 23), accelerator.new_slot(37, 23)
            found = []
            for step in range(3):
                accelerator.set_error_rate(0.02 * step, seed=5)
                accelerator.gemm(*operands(step), out=slot, checkpoint=checkpoint, error_key=step)
                found.append((slot.tolist(), accelerator.last_log))
                if step == 1:
                    accelerator.copy(slot, checkpoint)
            results.append((found, checkpoint.tolist(), dict(accelerator.stats)))
    assert results[0] == results[1]
    assert results[0][2]["reloaded"] > 0


def test_records_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"^a log must hold whole records of 32 bytes, not 16 bytes$"):
        parse_log(bytes(16), 32)


A, W = operands(0)
SLOT = torch.zeros(37, 23, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"out": SLOT},
            ValueError,
            r"^on_uncorrectable='reload' needs checkpoint=, from which uncorrectable elements are copied$",
        ),
        (
            {"checkpoint": SLOT},
            ValueError,
            r"^on_uncorrectable='reload' needs out=, whose old values suppressed elements keep; make a tensor with",
        ),
        (
            {"out": SLOT, "checkpoint": SLOT, "protection": Protection(on_uncorrectable="suppress")},
            ValueError,
            r"^checkpoint= is used with on_uncorrectable='reload' only; leave it out$",
        ),
        ({"out": SLOT, "checkpoint": SLOT}, ValueError, r"^checkpoint must not be out itself; make another tensor"),
        (
            {"out": SLOT, "checkpoint": SLOT[:5].clone()},
            ValueError,
            r"^checkpoint must have shape \(37, 23\) like out, not \(5, 23\)$",
        ),
        (
            {"out": SLOT, "checkpoint": SLOT.to(torch.int8)},
            TypeError,
            r"^checkpoint must be torch.int32 like out, not torch.int8$",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(arguments: dict, error: type[Exception], message: str) -> None:
    with Accelerator(CONFIGS[0], backend="twin", protection=Protection(on_uncorrectable="reload")) as accelerator:
        with pytest.raises(error, match=message):
            accelerator.gemm(A, W, **arguments)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SLOT.float(), SLOT, r"^source must be int32, int16 or int8, not torch.float32$"),
        (SLOT[0], SLOT[0], r"^source must have shape \(M, N\) or \(B, M, N\), not \(23,\)$"),
        (SLOT, SLOT[:, :5].clone(), r"^target must have shape \(37, 23\) like source, not \(37, 5\)$"),
        (SLOT, SLOT, r"^target must not be source itself; make another tensor with new_slot$"),
    ],
)
def test_copies_that_do_not_fit(source: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with Accelerator(CONFIGS[0], backend="twin") as accelerator:
        with pytest.raises((TypeError, ValueError), match=message):
            accelerator.copy(source, target)


def test_a_log_without_room_cannot_be_gone_back_by() -> None:
    with pytest.raises(ValueError, match=r"^Protection\.log_records must not be 0 with on_uncorrectable='reload'"):
        Protection(on_uncorrectable="reload", log_records=0)


def test_an_accelerator_without_checksum_units_cannot_copy() -> None:
    with Accelerator(AcceleratorConfig(rows=4, cols=4), backend="twin") as accelerator:
        with pytest.raises(ValueError, match=r"^copy needs checksum units; give AcceleratorConfig a ChecksumConfig$"):
            accelerator.copy(SLOT, SLOT.clone())

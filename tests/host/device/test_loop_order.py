"""The host's choice of a loop order: the cheapest, the same on all backends, and none that changes a result."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from brownout.cosim.cycle_model import CycleModel
from brownout.host import Accelerator, Protection, Requantisation
from brownout.host.device.backends.loop_orders import AS_CONFIGURED, LOOP_ORDERS, LoopOrders, candidates
from brownout.host.device.backends.shaped_command import LoopOrder, Matrices, shaped_command
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.device.backends.twin import TwinBackend
from brownout.host.device.power.energy import EnergyMeter, EnergyModel
from brownout.host.device.product.operands import GemmShape
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER_ATTENTION, SERVER_KEEP
from brownout.hw.tiling import keeps

from ...configurations import KEEP, KEEP_FLIP, plain

KEEP_ONLY = dataclasses.replace(KEEP, attention=False)
"""Without attention, which ``"mixed"`` refuses."""


def random_int8(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def layers(accelerator: Accelerator) -> list[torch.Tensor]:
    """A layer that is kept, one too deep for it, a batch, and one of a single block of columns."""
    requant = Requantisation(torch.full((40,), 100), torch.full((40,), 16))
    w = accelerator.upload(random_int8(1, 20, 40))
    return [
        accelerator.gemm(random_int8(0, 37, 20), w, requant=requant),
        accelerator.gemm(random_int8(2, 37, 20), w),
        accelerator.gemm(random_int8(3, 11, 400), random_int8(4, 400, 30)),
        accelerator.gemm(random_int8(5, 3, 19, 9), random_int8(6, 3, 9, 24)),
        accelerator.gemm(random_int8(7, 19, 9), random_int8(8, 9, 5)),
    ]


@pytest.mark.parametrize("layout", ["row-major", "tiled"])
def test_backends_take_the_same_order_and_results_are_those_of_the_fixed_one(layout: str) -> None:
    seen: dict[str, Any] = {}
    for loop_order in LOOP_ORDERS:
        for backend in ("rtl", "twin", "mixed"):
            with Accelerator(KEEP_ONLY, backend, layout=layout, loop_order=loop_order) as accelerator:
                outputs = layers(accelerator)
                if backend == "mixed":
                    assert accelerator.coverage.mismatches == 0
                seen[loop_order, backend] = outputs, dict(accelerator.stats)
    wanted = seen["fixed", "twin"][0]
    for outputs, _ in seen.values():
        assert all(map(torch.equal, outputs, wanted))
    for loop_order in LOOP_ORDERS:
        stats = [seen[loop_order, backend][1] for backend in ("rtl", "twin", "mixed")]
        assert stats[0] == stats[1] == stats[2]
    searched, fixed = seen["searched", "twin"][1], seen["fixed", "twin"][1]
    assert searched["dram_read_bytes"] < fixed["dram_read_bytes"]
    assert searched["energy_j"] * searched["time_s"] < fixed["energy_j"] * fixed["time_s"]
    assert searched["macs"] == fixed["macs"]


def test_shapes_are_priced_as_what_is_executed() -> None:
    meta = torch.device("meta")
    with (
        Accelerator(SERVER_KEEP, ShapeBackend(SERVER_KEEP)) as shapes,
        Accelerator(SERVER_KEEP, "twin") as twin,
        Accelerator(SERVER_KEEP, ShapeBackend(SERVER_KEEP, loop_order="fixed")) as fixed,
    ):
        for m, k, n in ((300, 1152, 1000), (200, 300, 700)):
            operands = [torch.empty(*size, dtype=torch.int8, device=meta) for size in ((m, k), (k, n))]
            for accelerator in (shapes, fixed):
                accelerator.gemm(*operands)
            twin.gemm(random_int8(1, m, k), random_int8(2, k, n))
        assert shapes.stats == twin.stats
        assert shapes.stats["dram_read_bytes"] < fixed.stats["dram_read_bytes"]


@pytest.mark.parametrize("on_uncorrectable", ["suppress", "zero"])
def test_errors_are_found_alike_on_rtl_and_twin_and_drawn_alike_in_all_orders(on_uncorrectable: str) -> None:
    seen: dict[str, Any] = {}
    protection = Protection(on_uncorrectable=on_uncorrectable, log_records=1000)
    for loop_order in LOOP_ORDERS:
        for backend in ("rtl", "twin"):
            with Accelerator(KEEP_FLIP, backend, loop_order=loop_order, protection=protection) as accelerator:
                accelerator.set_error_rate(2e-2, seed=4)
                out = accelerator.new_slot(31, 80)
                out.fill_(7)
                accelerator.gemm(random_int8(1, 31, 30), random_int8(2, 30, 80), out=out, error_key=9)
                seen[loop_order, backend] = out, accelerator.last_log, dict(accelerator.stats)
                blocks = accelerator.last_blocks
                assert (blocks.block_rows != KEEP_FLIP.block_rows) == (loop_order == "searched")
    for loop_order in LOOP_ORDERS:
        (out, log, stats), (twin_out, twin_log, twin_stats) = seen[loop_order, "rtl"], seen[loop_order, "twin"]
        assert torch.equal(out, twin_out)
        assert log == twin_log
        assert log
        assert stats == twin_stats
    # Without checks there is nothing but the draws.
    drawn = []
    for loop_order in LOOP_ORDERS:
        with Accelerator(KEEP_FLIP, "twin", loop_order=loop_order) as accelerator:
            accelerator.set_error_rate(2e-2, seed=4)
            drawn.append(accelerator.gemm(random_int8(1, 31, 30), random_int8(2, 30, 80), error_key=9))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "shape",
    [GemmShape(1, 37, 40, 20), GemmShape(2, 60, 100, 9), GemmShape(1, 9, 33, 80), GemmShape(1, 24, 17, 13)],
    ids=str,
)
def test_the_cheapest_candidate_is_taken(shape: GemmShape) -> None:
    matrices = Matrices(KEEP_ONLY, tiled=False)
    costs = {}
    for order in candidates(KEEP_ONLY, shape):
        command = shaped_command(matrices, order, shape, 4, 0)
        turn = KEEP_ONLY.memory.banks * KEEP_ONLY.memory.row_bytes
        placed = dataclasses.replace(command, w_addr=2 * turn + turn // 2, y_addr=6 * turn)
        counters = CycleModel(KEEP_ONLY).run([placed])
        counters["dram_bytes"] = counters["dram_read_bytes"] + counters["dram_write_bytes"]
        total = EnergyMeter(KEEP_ONLY, EnergyModel()).totals(counters)
        costs[order] = total["energy_j"] * total["time_s"]
    assert LoopOrders(matrices, search=True).of(shape, 4, 0) == min(costs, key=lambda order: costs[order])
    assert LoopOrders(matrices, search=False).of(shape, 4, 0) == AS_CONFIGURED


def test_candidates_fit_and_there_is_one_where_nothing_can_be_kept() -> None:
    for m in (1, 5, 12, 13, 100):
        for k in (1, 10, 65, 1000):
            found = candidates(KEEP_FLIP, GemmShape(1, m, 100, k))
            assert found[0] == AS_CONFIGURED
            for order in found[1:]:
                assert order.keep
                assert keeps(KEEP_FLIP, m, k, order.block_rows)
                assert order.block_rows % 4 == 0
    shape = GemmShape(1, 100, 100, 10)
    assert len(candidates(KEEP_FLIP, shape)) > 2
    assert candidates(KEEP_FLIP, dataclasses.replace(shape, n=14)) == (AS_CONFIGURED,)
    assert candidates(KEEP_FLIP, dataclasses.replace(shape, k=100_000)) == (AS_CONFIGURED,)
    assert candidates(plain(4, 4), shape) == (AS_CONFIGURED,)
    assert candidates(SERVER_KEEP, GemmShape(1, 2048, 4608, 1152))[1] == LoopOrder(1024, keep=True)


def test_accelerators_that_cannot_keep_have_one_order() -> None:
    stats = []
    for loop_order in LOOP_ORDERS:
        with Accelerator(plain(4, 4), "twin", loop_order=loop_order) as accelerator:
            layers(accelerator)
            stats.append(dict(accelerator.stats))
            assert "loop_order" not in accelerator.settings
    assert stats[0] == stats[1]


def test_the_order_is_a_setting() -> None:
    with Accelerator(KEEP_ONLY, "twin", loop_order="fixed") as accelerator:
        assert accelerator.settings["loop_order"] == "fixed"


def test_an_unknown_order_is_named() -> None:
    with pytest.raises(ValueError, match=r"^loop_order must be one of 'searched', 'fixed', not 'best'$"):
        Accelerator(KEEP_ONLY, "twin", loop_order="best")
    message = r"^loop_order='fixed' needs a backend by name; give the backend's own constructor the order$"
    with pytest.raises(ValueError, match=message):
        Accelerator(KEEP_ONLY, TwinBackend(KEEP_ONLY), loop_order="fixed")


def test_a_device_takes_up_the_state_of_another() -> None:
    """Settings and counters go on, and so do the orders."""
    with Accelerator(KEEP_ONLY, "twin") as first, Accelerator(KEEP_ONLY, "twin") as second:
        layers(first)
        second.load_state(first.state())
        layers(first)
        layers(second)
        assert first.stats["cycles"] == second.stats["cycles"]


def test_the_server_reads_less_than_without_the_buffer() -> None:
    config: AcceleratorConfig
    read = {}
    for config in (SERVER_ATTENTION, SERVER_KEEP):
        with Accelerator(config, ShapeBackend(config)) as accelerator:
            operands = [torch.empty(*size, dtype=torch.int8, device="meta") for size in ((2048, 1152), (1152, 4608))]
            accelerator.gemm(*operands)
            read[config.attention, config.keeps_activations] = accelerator.stats["dram_read_bytes"]
    # Nine blocks of columns: eight readings of A are saved.
    assert read[True, False] - read[True, True] >= 8 * 2048 * 1152

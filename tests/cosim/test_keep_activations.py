"""KEEP_ACTIVATIONS on the RTL: bits of the reference, cycles of the cycle model, activations read once; refusals."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from brownout.cosim import CommandError, Simulator
from brownout.cosim.cycle_model import CycleModel
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import ERROR_MEANING, ErrorCause, GemmFlag
from brownout.hw.tiling import blocks, with_block_rows

from ..configurations import KEEP, KEEP_CARRY, KEEP_FLIP, plain
from .conftest import memory_array
from .gemm_cases import extreme_int8, random_channels, random_int8
from .keep_bench import KeepBench

pytestmark = pytest.mark.xdist_group("keep-activations")

CHECK, CORRECT, SUPPRESS, ZERO = GemmFlag.CHECK, GemmFlag.CORRECT, GemmFlag.SUPPRESS, GemmFlag.ZERO
KEEP_FLAG = GemmFlag.KEEP_ACTIVATIONS


@pytest.fixture(scope="module")
def bench() -> Iterator[KeepBench]:
    made = KeepBench(KEEP)
    with made.simulator:
        yield made


@pytest.fixture(scope="module")
def flip() -> Iterator[KeepBench]:
    made = KeepBench(KEEP_FLIP)
    with made.simulator:
        yield made


SHAPES = [
    # batch, M, K, N, block_rows
    (1, 1, 1, 1, 0),
    (1, 8, 20, 40, 0),  # all that fits, in four blocks of columns
    (1, 19, 20, 30, 8),
    (1, 41, 4, 17, 0),
    (1, 33, 20, 30, 5),  # does not divide the buffer: k-tiles begin anywhere in the ring
    (1, 3, 52, 24, 3),  # many slabs of few rows
    (1, 1, 161, 17, 1),
    (2, 9, 13, 8, 0),  # one block of columns: released while it is the first
    (3, 20, 9, 25, 7),
    (1, 50, 20, 90, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(bench: KeepBench, shape: tuple[int, ...]) -> None:
    batch, m, k, n, block_rows = shape
    rng = np.random.default_rng(m)
    draw = extreme_int8 if m % 2 else random_int8
    channels = random_channels(rng, n)
    for requantise in (False, True):
        bench.run(
            *(draw(rng, batch, m, k), draw(rng, batch, k, n)),
            block_rows=block_rows,
            channels=channels if requantise else None,
            requantise=requantise,
            row_padding=int(requantise),
        )
    bench.attend(m)
    bench.run(random_int8(rng, 19, 7), random_int8(rng, 7, 20), keep=False)


def test_activations_are_read_once_and_nothing_else_changes(bench: KeepBench) -> None:
    rng = np.random.default_rng(1)
    a, w = random_int8(rng, 24, 20), random_int8(rng, 20, 64)
    kept, with_keep = bench.run(a, w)
    again, without = bench.run(a, w, keep=False)
    assert kept.output.tobytes() == again.output.tobytes()
    # 24 rows, a beat of each in three slabs, for every block of columns, of which there are eight, or the first alone.
    bus, row_beats, col_blocks = KEEP.bus_bytes, 3, 8
    assert without["dram_read_bytes"] - with_keep["dram_read_bytes"] == 24 * row_beats * bus * (col_blocks - 1)
    for name in ("macs", "busy_cycles", "dram_write_bytes", "sram_read_bytes"):
        assert with_keep[name] == without[name]
    assert with_keep["cycles"] < without["cycles"]


def test_the_next_row_of_blocks_is_loaded_while_the_last_block_of_columns_computes(bench: KeepBench) -> None:
    """Rows of blocks that fill the buffer to the last vector but one cost less than one after the other."""
    rng = np.random.default_rng(2)
    w = random_int8(rng, 20, 40)
    alone = bench.run(random_int8(rng, 8, 20), w)[1]["cycles"]
    together = bench.run(random_int8(rng, 32, 20), w)[1]["cycles"]
    assert together < 4 * alone - 3 * bench.config.memory.latency_cycles


def test_blocks_of_the_command_alone(bench: KeepBench) -> None:
    """Without the flag `block_rows` is but a size of blocks."""
    rng = np.random.default_rng(3)
    a, w = random_int8(rng, 2, 21, 13), random_int8(rng, 2, 13, 20)
    outputs = {
        bench.run(a, w, block_rows=block_rows, keep=keep, row_padding=1)[0].output.tobytes()
        for block_rows in (0, 1, 3, 8)
        for keep in (False, True)
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("block_rows", [0, 5])
def test_tiles_in_the_order_of_the_command_s_blocks(bench: KeepBench, block_rows: int, keep: bool) -> None:
    rng = np.random.default_rng(4)
    a, w = random_int8(rng, 2, 27, 17), random_int8(rng, 2, 17, 30)
    everything = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED
    for tiled in (GemmFlag.A_TILED, everything, GemmFlag.Y_TILED):
        bench.run(a, w, block_rows=block_rows, keep=keep, tiled=tiled)


@pytest.mark.parametrize("rate", [0, 1 << 24, 1 << 28])
@pytest.mark.parametrize(
    "flags", [GemmFlag(0), CHECK | CORRECT, CHECK | CORRECT | SUPPRESS, CHECK | ZERO, CHECK | SUPPRESS], ids=str
)
def test_errors_are_those_of_the_walk_without_the_flag(flip: KeepBench, rate: int, flags: GemmFlag) -> None:
    flip.set_rate(7, rate)
    rng = np.random.default_rng(5)
    a, w = random_int8(rng, 2, 26, 19), random_int8(rng, 2, 19, 40)
    for block_rows in (12, 8):
        results = [
            flip.run(
                *(a, w),
                block_rows=block_rows,
                keep=keep,
                flags=flags,
                log_bytes=9 * flip.config.log_record_bytes if flags & CHECK else 0,
                error_key=77,
                first_row=3,
                first_col=5,
                theta=2 if flags & CHECK else 0,
            )[0]
            for keep in (False, True)
        ]
        assert results[0].output.tobytes() == results[1].output.tobytes()
        assert results[0].log == results[1].log
    flip.set_rate(0, 0)


def test_draws_do_not_depend_on_the_blocks(flip: KeepBench) -> None:
    flip.set_rate(3, 1 << 28)
    rng = np.random.default_rng(6)
    a, w = random_int8(rng, 26, 19), random_int8(rng, 19, 40)
    sums = {
        flip.run(a, w, block_rows=block_rows, keep=keep, error_key=5)[0].sums.tobytes()
        for block_rows, keep in ((0, False), (12, True), (8, True), (4, False))
    }
    assert len(sums) == 1
    flip.set_rate(0, 0)


def test_late_carries_and_dropped_products() -> None:
    made = KeepBench(KEEP_CARRY)
    config = made.config
    rng = np.random.default_rng(2)
    with made.simulator:
        made.set_lengths(rng.integers(9, 20, (config.rows, config.cols + len(config.check_columns)), np.uint8))
        for flags in (GemmFlag(0), CHECK | CORRECT | SUPPRESS):
            for block_rows, keep in ((0, False), (0, True), (4, True)):
                made.run(
                    *(random_int8(rng, 17, 31), random_int8(rng, 31, 13)),
                    block_rows=block_rows,
                    keep=keep,
                    flags=flags,
                )


REFUSED = [
    (ErrorCause.KEPT, {"k": 24}),
    (ErrorCause.KEPT, {"k": 165, "m": 1}),
    (ErrorCause.KEPT, {"k": 52, "block_rows": 4}),
    (ErrorCause.KEPT, {"k": 131_071, "m": (1 << 24) - 1, "block_rows": 8}),
    (ErrorCause.BLOCK_ROWS, {"block_rows": 9}),
    (ErrorCause.BLOCK_ROWS, {"block_rows": 65_535}),
]


@pytest.mark.parametrize(("cause", "changes"), REFUSED, ids=lambda value: getattr(value, "name", None))
def test_what_does_not_fit_is_refused(bench: KeepBench, cause: ErrorCause, changes: dict[str, int]) -> None:
    rng = np.random.default_rng(7)
    case = GemmCase(bench.config, random_int8(rng, 9, 20), random_int8(rng, 20, 9), keep=True, base=8192)
    memory = memory_array(bench.simulator)
    case.write(memory)
    message = re.escape(f"command 0 failed: {ERROR_MEANING[cause]} ({cause.name})")
    with pytest.raises(CommandError, match=message):
        bench.simulator.run([case.command(**changes).encode()])
    case.check_untouched(memory)
    bench.simulator.run([case.command().encode()])
    case.check(memory)


def test_blocks_of_whole_groups_alone(flip: KeepBench) -> None:
    rng = np.random.default_rng(8)
    a, w = random_int8(rng, 9, 20), random_int8(rng, 20, 9)
    for block_rows in (3, 10, 16):
        case = GemmCase(flip.config, a, w, base=8192)
        with pytest.raises(CommandError, match="BLOCK_ROWS"):
            flip.simulator.run([case.command(block_rows=block_rows).encode()])


@pytest.mark.parametrize(
    ("cause", "changes"),
    [(ErrorCause.FLAGS, {"flags": int(KEEP_FLAG)}), (ErrorCause.RESERVED, {"block_rows": 1})],
    ids=["FLAGS", "RESERVED"],
)
def test_an_accelerator_without_the_buffer_refuses(
    open_simulator: Callable[[int, int], Simulator], cause: ErrorCause, changes: dict[str, int]
) -> None:
    simulator = open_simulator(4, 4)
    rng = np.random.default_rng(9)
    case = GemmCase(simulator.config, random_int8(rng, 9, 20), random_int8(rng, 20, 9), base=8192)
    memory = memory_array(simulator)
    case.write(memory)
    with pytest.raises(CommandError, match=cause.name):
        simulator.run([case.command(**changes).encode()])
    case.check_untouched(memory)
    with pytest.raises(ValueError, match="activation_vectors"):
        CycleModel(plain(4, 4)).run([case.command(**changes)])


def test_an_aborted_command_leaves_nothing_behind() -> None:
    """Memory that answers with an error in the middle of a command; then kept products and attention as ever."""
    rng = np.random.default_rng(10)
    config = KEEP
    case = GemmCase(
        *(config, random_int8(rng, 2, 33, 20), random_int8(rng, 2, 20, 30)), keep=True, base=8192, block_rows=7
    )
    made = KeepBench(config)
    made.simulator.close()
    made.simulator = Simulator(config, deadline_s=60, check_axi=False)
    with made.simulator as simulator:
        memory = memory_array(simulator)
        for operand in ("a", "w"):
            case.write(memory)
            # The second product lies beyond the memory.
            changes = {f"{operand}_batch_stride": 1 << 30, "read_limit": 1 << 31}
            with pytest.raises(CommandError, match="AXI_READ"):
                simulator.run([case.command(**changes).encode()])
            made.models = []
            made.run(random_int8(rng, 17, 20), random_int8(rng, 20, 30))
            made.attend(3)
            case.write(memory)
            simulator.run([case.command().encode()])
            case.check(memory)
        del memory


def test_several_commands_of_one_doorbell() -> None:
    bench, rng = KeepBench(KEEP), np.random.default_rng(11)
    cases, base = [], 8192
    for m, k, n, block_rows, keep in ((19, 20, 30, 0, True), (19, 20, 30, 3, False), (30, 9, 50, 7, True)):
        values = random_int8(rng, m, k), random_int8(rng, k, n)
        cases.append(GemmCase(bench.config, *values, keep=keep, block_rows=block_rows, base=base))
        base = cases[-1].end
    with bench.simulator as simulator:
        memory = memory_array(simulator)
        for case in cases:
            case.write(memory)
        commands = [case.command() for case in cases]
        before = simulator.counters()
        simulator.run([command.encode() for command in commands])
        gained = {name: value - before[name] for name, value in simulator.counters().items()}
        for case in cases:
            case.check(memory)
        for model in bench.models:
            counted = model.run(commands)
            assert counted == {name: gained[name] for name in counted}
        del memory


def test_repetitions_are_skipped_and_change_nothing() -> None:
    """Along columns, rows and batches, far beyond what is stepped through in the tests with the RTL."""
    config = dataclasses.replace(KEEP, attention=False)
    rng = np.random.default_rng(12)
    for batch, m, k, n, block_rows, keep in (
        (1, 8, 20, 2000, 0, True),
        (1, 700, 20, 70, 5, True),
        (60, 17, 9, 20, 6, True),
        (1, 100, 20, 400, 8, True),
        (1, 500, 300, 33, 3, False),
    ):
        a, w = random_int8(rng, batch, m, k), random_int8(rng, batch, k, n)
        command = GemmCase(config, a, w, keep=keep, block_rows=block_rows).command()
        quick, slow = CycleModel(config).run([command]), CycleModel(config, step=True).run([command])
        assert quick == slow


def test_the_blocks_of_a_command_are_those_of_a_smaller_configuration() -> None:
    for block_rows in range(1, KEEP.block_rows + 1):
        cut = with_block_rows(KEEP, block_rows)
        rows = {block.rows for block in blocks(cut, 50, 9)}
        assert max(rows) <= block_rows

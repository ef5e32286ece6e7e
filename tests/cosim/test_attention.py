"""ATTENTION on the RTL: bits of the reference, cycles of the cycle model, refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from brownout.cosim import CommandError, Simulator
from brownout.cosim.attention_case import AttentionCase, largest_block
from brownout.cosim.cycle_model import CycleModel, Found
from brownout.cosim.reference.attention import AttentionScales, reference_attention
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import (
    ATTENTION_FIELDS,
    ERROR_MEANING,
    ErrorCause,
    GemmFlag,
    SetErrorsCommand,
    SetPointCommand,
    reserved_ranges,
)
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState

from ..configurations import ATTENTION, ATTENTION_CARRY, ATTENTION_FLIP
from .conftest import memory_array
from .gemm_cases import extreme_int8, random_int8

pytestmark = pytest.mark.xdist_group("attention")

SCALES = AttentionScales(score_mult=40_000, score_shift=23, out_scale=127 << 20, out_shift=21)
NOTHING = GemmFlag(0)
CHECK, CORRECT, SUPPRESS, ZERO = GemmFlag.CHECK, GemmFlag.CORRECT, GemmFlag.SUPPRESS, GemmFlag.ZERO


class Bench:
    """A simulator, and cycle models that see the same commands."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.simulator = Simulator(config, deadline_s=120)
        self.models = [CycleModel(config), CycleModel(config, step=True)]
        self.errors = ErrorState()

    def set_rates(self, seed: int, rate: int) -> None:
        command = SetErrorsCommand(seed=seed, rates=(rate,))
        self.simulator.run([command.encode()])
        for model in self.models:
            model.run([command])
        self.errors = ErrorState(seed=seed, rates=(rate,))

    def set_lengths(self, lengths: np.ndarray) -> None:
        """Settled carry lengths of both domains."""
        memory = memory_array(self.simulator)
        stride = self.config.bus_bytes
        table = np.lib.stride_tricks.as_strided(memory[4096:], lengths.shape, (stride, 1))
        table[:] = lengths
        for domain in range(self.config.domains):
            command = SetPointCommand(
                *(),
                domain=domain,
                point=0,
                lengths_addr=4096,
                lengths_stride=stride,
                read_base=4096,
                read_limit=8192,
            )
            self.simulator.run([command.encode()])
            for model in self.models:
                model.run([command])
            self.errors.move(self.config, domain, 0, lengths)

    def run(self, case: AttentionCase, flags: GemmFlag = NOTHING, causal: bool = False) -> int:
        """Compare output, log, checks' counters and the cycle models; returns the cycles."""
        rng = np.random.default_rng(5)
        previous = random_int8(rng, *case.q.shape[:2], case.v.shape[2])
        memory = memory_array(self.simulator)
        case.write(memory, previous)
        before = self.simulator.counters()
        command = case.command(flags=int(flags | (GemmFlag.CAUSAL if causal else 0)))
        self.simulator.run([command.encode()])
        gained = {name: value - before[name] for name, value in self.simulator.counters().items()}
        wanted = reference_attention(
            *(self.config, case.q, case.k, case.v),
            scales=case.scales,
            block_rows=case.block_rows,
            options=CommandOptions(
                flags=flags,
                error_key=command.error_key,
                first_row=command.first_row,
                theta=command.theta,
                log_bytes=command.log_bytes,
            ),
            value_error_key=command.value_error_key,
            value_theta=command.value_theta,
            errors=self.errors,
            causal=causal,
            previous=previous,
        )
        case.check(memory, wanted.output, wanted.log)
        assert {name: gained[name] for name in wanted.counters if name in gained} == {
            name: value for name, value in wanted.counters.items() if name in gained
        }
        kept = np.flatnonzero(wanted.uncorrectable) if flags & SUPPRESS else np.zeros(0)
        found = Found(np.array(wanted.records, np.uint64), kept.astype(np.uint64)) if flags & CHECK else None
        for model in self.models:
            counted = model.run([command], [found])
            assert counted == {name: gained[name] for name in counted}
        return gained["cycles"]

    def multiply(self) -> None:
        """A product still is what it was, buffers and banks wherever attention left them."""
        rng = np.random.default_rng(6)
        case = GemmCase(self.config, random_int8(rng, 19, 7), random_int8(rng, 7, 10))
        memory = memory_array(self.simulator)
        case.write(memory)
        self.simulator.run([case.command().encode()])
        case.check(memory)
        for model in self.models:
            model.run([case.command()])


@pytest.fixture(scope="module")
def plain() -> Iterator[Bench]:
    bench = Bench(ATTENTION)
    with bench.simulator:
        yield bench


@pytest.fixture(scope="module")
def flip() -> Iterator[Bench]:
    bench = Bench(ATTENTION_FLIP)
    with bench.simulator:
        yield bench


def operands(draw: Any, heads: int, queries: int, width: int, keys: int, columns: int, seed: int = 1) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [draw(rng, heads, *shape) for shape in ((queries, width), (keys, width), (keys, columns))]


SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 4, 4, 4, 4),
    (1, 5, 3, 7, 3),
    (2, 11, 7, 21, 5),
    (3, 8, 8, 30, 8),  # several slabs of keys, k and n at their limits
    (2, 20, 8, 5, 8),
    (2, 3, 2, 64, 6),  # one query at a time
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(plain: Bench, shape: tuple[int, ...], causal: bool) -> None:
    draw = extreme_int8 if causal else random_int8
    plain.run(AttentionCase(plain.config, *operands(draw, *shape), SCALES, row_padding=int(causal)), causal=causal)
    plain.multiply()


def test_blocks_change_nothing_but_time(plain: Bench) -> None:
    values = operands(random_int8, 2, 13, 6, 9, 7)
    outputs, cycles = [], []
    for block_rows in (1, 3, largest_block(plain.config, 13, 9)):
        case = AttentionCase(plain.config, *values, SCALES, block_rows=block_rows)
        cycles.append(plain.run(case))
        outputs.append(case.read(memory_array(plain.simulator)).tobytes())
    assert len(set(outputs)) == 1
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > cycles[-1]


@pytest.mark.parametrize(
    "scales",
    [
        AttentionScales(score_mult=65_535, score_shift=1, out_scale=127 * 2**31 - 1, out_shift=1),
        AttentionScales(score_mult=0, score_shift=47, out_scale=127 * 2**31 - 1, out_shift=62),
        AttentionScales(score_mult=65_535, score_shift=47, out_scale=0, out_shift=31),
    ],
    ids=["all saturates", "all equal", "nothing comes out"],
)
def test_extreme_scales(plain: Bench, scales: AttentionScales) -> None:
    for draw in (random_int8, extreme_int8):
        plain.run(AttentionCase(plain.config, *operands(draw, 2, 9, 8, 11, 8), scales))


@pytest.mark.parametrize("rate", [0, 1 << 24, 1 << 28])
@pytest.mark.parametrize(
    "flags", [NOTHING, CHECK | CORRECT, CHECK | CORRECT | SUPPRESS, CHECK | ZERO, CHECK | CORRECT | ZERO], ids=str
)
def test_errors_of_both_products(flip: Bench, rate: int, flags: GemmFlag) -> None:
    flip.set_rates(7, rate)
    fields = {"error_key": 77, "value_error_key": 99, "first_row": 3}
    if flags:
        fields |= {"theta": 3, "value_theta": 1}
    case = AttentionCase(
        flip.config, *operands(random_int8, 2, 21, 9, 40, 13), SCALES, log_records=9 if flags else 0, **fields
    )
    flip.run(case, flags)
    flip.run(case, flags, causal=True)
    flip.set_rates(0, 0)
    flip.multiply()


def test_late_carries_and_dropped_products() -> None:
    bench = Bench(ATTENTION_CARRY)
    config = bench.config
    rng = np.random.default_rng(2)
    with bench.simulator:
        bench.set_lengths(rng.integers(9, 20, (config.rows, config.cols + len(config.check_columns)), np.uint8))
        for flags in (NOTHING, CHECK | CORRECT | SUPPRESS):
            case = AttentionCase(config, *operands(random_int8, 2, 12, 8, 14, 7), SCALES)
            bench.run(case, flags)


REFUSED: list[tuple[ErrorCause, dict[str, int]]] = [
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.REQUANT)}),
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.INT16)}),
    (ErrorCause.FLAGS, {"flags": int(CHECK)}),
    (ErrorCause.BATCH, {"batch": 0}),
    (ErrorCause.M, {"m": 0}),
    (ErrorCause.N, {"n": 9}),
    (ErrorCause.K, {"k": 9}),
    (ErrorCause.LDY, {"ldy": 0}),
    (ErrorCause.THETA, {"value_theta": 1}),
    (ErrorCause.KEYS, {"keys": 0}),
    (ErrorCause.KEYS, {"keys": 131_072}),
    (ErrorCause.V_ADDR, {"v_addr": 8}),
    (ErrorCause.LDV, {"ldv": 8}),
    (ErrorCause.V_BATCH_STRIDE, {"v_batch_stride": 8}),
    (ErrorCause.BLOCK_ROWS, {"block_rows": 0}),
    (ErrorCause.BLOCK_ROWS, {"block_rows": 9}),
    (ErrorCause.BLOCK_ROWS, {"block_rows": 6}),
    (ErrorCause.SCALES, {"score_shift": 0}),
    (ErrorCause.SCALES, {"score_shift": 48}),
    (ErrorCause.SCALES, {"out_shift": 63}),
    (ErrorCause.SCALES, {"out_scale": 127 * 2**31}),
    (ErrorCause.V_WINDOW, {"v_addr": 0}),
    (ErrorCause.V_WINDOW, {"v_batch_stride": 1 << 20}),
    (ErrorCause.W_WINDOW, {"w_batch_stride": 1 << 20}),
    (ErrorCause.Y_WINDOW, {"y_batch_stride": 1 << 20}),
]


@pytest.mark.parametrize(("cause", "changes"), REFUSED, ids=lambda value: getattr(value, "name", None))
def test_malformed(plain: Bench, cause: ErrorCause, changes: dict[str, int]) -> None:
    case = AttentionCase(plain.config, *operands(random_int8, 2, 6, 8, 9, 8), SCALES, base=4096)
    memory = memory_array(plain.simulator)
    case.write(memory)
    message = re.escape(f"command 0 failed: {ERROR_MEANING[cause]} ({cause.name})")
    with pytest.raises(CommandError, match=message):
        plain.simulator.run([case.command(**changes).encode()])
    untouched = memory[case.command().y_addr : case.end]
    assert (untouched == untouched[0]).all()


def test_an_aborted_command_leaves_nothing_behind() -> None:
    """Memory that answers with an error in the middle of a command; then attention and a product as ever."""
    values = operands(random_int8, 2, 13, 8, 30, 8)
    case = AttentionCase(ATTENTION, *values, SCALES, base=4096)
    wanted = reference_attention(
        *(ATTENTION, *values),
        scales=SCALES,
        block_rows=case.block_rows,
        options=CommandOptions(),
        value_error_key=0,
        value_theta=0,
        errors=ErrorState(),
    )
    rng = np.random.default_rng(6)
    product = GemmCase(ATTENTION, random_int8(rng, 19, 7), random_int8(rng, 7, 10), base=1 << 16)
    with Simulator(ATTENTION, deadline_s=60, check_axi=False) as simulator:
        memory = memory_array(simulator)
        for operand in ("a", "w", "v"):
            case.write(memory)
            product.write(memory)
            # The second head lies beyond the memory.
            changes = {f"{operand}_batch_stride": 1 << 30, "read_limit": 1 << 31}
            with pytest.raises(CommandError, match="AXI_READ"):
                simulator.run([case.command(**changes).encode()])
            case.write(memory)
            simulator.run([case.command().encode(), product.command().encode()])
            case.check(memory, wanted.output)
            product.check(memory)
        del memory


def test_reserved_bytes(plain: Bench) -> None:
    case = AttentionCase(plain.config, *operands(random_int8, 1, 2, 2, 2, 2), SCALES)
    for low, high in reserved_ranges(ATTENTION_FIELDS):
        for offset in {low, high - 1}:
            command = bytearray(case.command().encode())
            command[offset] = 1
            with pytest.raises(CommandError, match="RESERVED"):
                plain.simulator.run([bytes(command)])


def test_what_an_accelerator_without_the_unit_says() -> None:
    command = AttentionCase(ATTENTION, *operands(random_int8, 1, 2, 2, 2, 2), SCALES).command()
    model = CycleModel(AcceleratorConfig())
    with pytest.raises(ValueError, match="attention=True"):
        model.run([command])


def test_scores_of_one_query_must_fit_a_bank() -> None:
    assert largest_block(ATTENTION, 100, 64) == 1
    assert largest_block(ATTENTION, 9, 1) == 5
    with pytest.raises(ValueError, match="at most 64"):
        largest_block(ATTENTION, 1, 65)

"""Every malformed command is refused with its cause, nothing is written, and the next command works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from brownout.cosim import AxiViolation, CommandError, ProtocolError, Simulator
from brownout.cosim.reference.golden import ChannelTable
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import (
    COMMAND_BYTES,
    COMMAND_VERSION,
    ERROR_MEANING,
    RESERVED_RANGES,
    ErrorCause,
    GemmFlag,
    Opcode,
    PlainCommand,
)
from brownout.hw.registers import IRQ_ERROR

from .conftest import memory_array
from .gemm_cases import random_channels, random_int8

pytestmark = pytest.mark.xdist_group("malformed")

SIZE = (4, 4)
BEYOND = 1 << 40
"""First address that 40 address bits cannot hold."""


@pytest.fixture
def simulator(open_simulator: Callable[[int, int], Simulator]) -> Iterator[Simulator]:
    simulator = open_simulator(*SIZE)
    yield simulator
    good = make_case(simulator)
    good.write(memory_array(simulator))
    simulator.run([good.command().encode()])
    good.check(memory_array(simulator))


def make_case(simulator: Simulator, channels: ChannelTable | None = None) -> GemmCase:
    rng = np.random.default_rng(1)
    a, w = random_int8(rng, 2, 5, 7), random_int8(rng, 2, 7, 6)
    table = channels or random_channels(rng, 6)
    return GemmCase(simulator.config, a, w, channels=table, requantise=True, base=1 << 16)


def refuse(simulator: Simulator, command: bytes, cause: ErrorCause) -> None:
    case = make_case(simulator)
    case.write(memory_array(simulator))
    with pytest.raises(
        CommandError, match=re.escape(f"command 0 failed: {ERROR_MEANING[cause]} ({cause.name})")
    ) as caught:
        simulator.run([command])
    assert caught.value.cause is cause
    assert caught.value.index == 0
    case.check_untouched(memory_array(simulator))


FIELD_CASES: list[tuple[ErrorCause, dict[str, Any]]] = [
    (ErrorCause.OPCODE, {"opcode": 0}),
    (ErrorCause.OPCODE, {"opcode": 0xFF}),
    (ErrorCause.VERSION, {"version": 0}),
    (ErrorCause.VERSION, {"version": COMMAND_VERSION - 1}),
    (ErrorCause.VERSION, {"version": COMMAND_VERSION + 1}),
    (ErrorCause.FLAGS, {"flags": 1 << 15}),
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.REQUANT), "channel_addr": 0}),
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.CHANNEL | GemmFlag.INT16)}),
    (ErrorCause.BATCH, {"batch": 0}),
    (ErrorCause.BATCH, {"batch": 1 << 16}),
    (ErrorCause.M, {"m": 0}),
    (ErrorCause.M, {"m": 1 << 24}),
    (ErrorCause.N, {"n": 0}),
    (ErrorCause.N, {"n": 1 << 24}),
    (ErrorCause.K, {"k": 0}),
    (ErrorCause.K, {"k": 131_072}),
    (ErrorCause.LDA, {"lda": 24}),
    (ErrorCause.LDW, {"ldw": 17}),
    (ErrorCause.LDY, {"ldy": 8}),
    (ErrorCause.LDY, {"ldy": 0}),
    (ErrorCause.A_BATCH_STRIDE, {"a_batch_stride": 1}),
    (ErrorCause.W_BATCH_STRIDE, {"w_batch_stride": 8}),
    (ErrorCause.Y_BATCH_STRIDE, {"y_batch_stride": 4}),
    (ErrorCause.READ_WINDOW, {"read_base": 0, "read_limit": 0}),
    (ErrorCause.READ_WINDOW, {"read_limit": BEYOND + 16}),
    (ErrorCause.READ_WINDOW, {"read_base": 8}),
    (ErrorCause.WRITE_WINDOW, {"write_base": 64, "write_limit": 32}),
    (ErrorCause.WRITE_WINDOW, {"write_limit": BEYOND + 16}),
    (ErrorCause.WRITE_WINDOW, {"write_base": 4}),
    (ErrorCause.A_WINDOW, {"a_addr": 0}),
    (ErrorCause.A_WINDOW, {"a_batch_stride": 1 << 20}),
    (ErrorCause.A_WINDOW, {"lda": 0xFFFFFFF0}),
    (ErrorCause.A_WINDOW, {"m": (1 << 24) - 1, "lda": 0xFFFFFFF0}),
    (ErrorCause.A_WINDOW, {"a_addr": (1 << 64) - 16}),
    (ErrorCause.W_WINDOW, {"w_addr": 0}),
    (ErrorCause.W_WINDOW, {"w_batch_stride": 0xFFFFFFF0}),
    (ErrorCause.W_WINDOW, {"ldw": 1 << 20}),
    (ErrorCause.Y_WINDOW, {"y_addr": 0}),
    (ErrorCause.Y_WINDOW, {"y_addr": (1 << 64) - 16}),
    (ErrorCause.Y_WINDOW, {"ldy": 1 << 20}),
    (ErrorCause.Y_WINDOW, {"y_batch_stride": 1 << 20}),
    (ErrorCause.CHANNEL_WINDOW, {"channel_addr": 0}),
    (ErrorCause.CHANNEL_WINDOW, {"channel_addr": (1 << 64) - 16}),
]


@pytest.mark.parametrize(("cause", "changes"), FIELD_CASES, ids=lambda value: getattr(value, "name", None))
def test_malformed_field(simulator: Simulator, cause: ErrorCause, changes: dict[str, Any]) -> None:
    refuse(simulator, make_case(simulator).command(**changes).encode(), cause)


@pytest.mark.parametrize(
    ("cause", "field"),
    [
        (ErrorCause.A_ADDR, "a_addr"),
        (ErrorCause.W_ADDR, "w_addr"),
        (ErrorCause.Y_ADDR, "y_addr"),
        (ErrorCause.CHANNEL_ADDR, "channel_addr"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("offset", [1, 8])
def test_misaligned_address(simulator: Simulator, cause: ErrorCause, field: str, offset: int) -> None:
    command = make_case(simulator).command()
    refuse(simulator, make_case(simulator).command(**{field: getattr(command, field) + offset}).encode(), cause)


def test_table_address_without_its_flag(simulator: Simulator) -> None:
    refuse(simulator, make_case(simulator).command(flags=0, ldy=32).encode(), ErrorCause.CHANNEL_ADDR)


def test_every_reserved_byte(simulator: Simulator) -> None:
    good = make_case(simulator).command().encode()
    for low, high in RESERVED_RANGES:
        for offset in range(low, high, 5):
            command = bytearray(good)
            command[offset] = 0x80
            refuse(simulator, bytes(command), ErrorCause.RESERVED)


@pytest.mark.parametrize("operand", ["a_addr", "w_addr", "channel_addr"])
def test_output_over_an_operand_with_disjoint_windows(simulator: Simulator, operand: str) -> None:
    command = make_case(simulator).command()
    assert command.read_limit <= command.write_base
    over = make_case(simulator).command(y_addr=getattr(command, operand))
    refuse(simulator, over.encode(), ErrorCause.Y_WINDOW)


@pytest.mark.parametrize("window", ["read", "write"])
def test_window_one_bus_word_too_short(simulator: Simulator, window: str) -> None:
    command = make_case(simulator).command()
    limit = f"{window}_limit"
    # The last operand in the read window is the channel table; its end is exact.
    cause = ErrorCause.CHANNEL_WINDOW if window == "read" else ErrorCause.Y_WINDOW
    shorter = make_case(simulator).command(**{limit: getattr(command, limit) - 16})
    refuse(simulator, shorter.encode(), cause)


@pytest.mark.parametrize(("field", "value"), [("mult", 1 << 31), ("shift", 0), ("shift", 63), ("reserved", 1)])
def test_malformed_channel_record(simulator: Simulator, field: str, value: int) -> None:
    case = make_case(simulator)
    memory = memory_array(simulator)
    case.write(memory)
    table = case.command().channel_addr
    offset, size = {"mult": (4, 4), "shift": (8, 1), "reserved": (15, 1)}[field]
    record = table + 5 * 16
    memory[record + offset : record + offset + size] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)
    y_bytes = slice(case.command().write_limit, case.end)
    guard_before = memory[y_bytes].copy()
    with pytest.raises(CommandError) as caught:
        simulator.run([case.command().encode()])
    assert caught.value.cause is ErrorCause.CHANNEL_RECORD
    assert np.array_equal(memory[y_bytes], guard_before)


@pytest.mark.parametrize("cause", [ErrorCause.AXI_READ, ErrorCause.AXI_WRITE], ids=lambda cause: cause.name)
def test_error_response_of_the_bus(simulator: Simulator, cause: ErrorCause) -> None:
    case = make_case(simulator)
    case.write(memory_array(simulator))
    command = case.command()
    base = command.w_addr if cause is ErrorCause.AXI_READ else command.y_addr
    simulator.set_memory({"slverr_base": base, "slverr_limit": base + 16})
    with pytest.raises(CommandError) as caught:
        simulator.run([command.encode()])
    simulator.set_memory({"slverr_base": 0, "slverr_limit": 0})
    assert caught.value.cause is cause


def test_error_response_to_the_fetch_of_a_command(simulator: Simulator) -> None:
    base = simulator.ring_base
    simulator.set_memory({"slverr_base": base, "slverr_limit": base + simulator.ring_bytes})
    with pytest.raises(CommandError) as caught:
        simulator.run([make_case(simulator).command().encode()])
    simulator.set_memory({"slverr_base": 0, "slverr_limit": 0})
    assert caught.value.cause is ErrorCause.AXI_READ


@pytest.mark.parametrize("answer_to", ["command", "read", "write"])
def test_response_with_another_id(simulator: Simulator, answer_to: str) -> None:
    case = make_case(simulator)
    case.write(memory_array(simulator))
    command = case.command()
    base = {"command": simulator.ring_base, "read": command.a_addr, "write": command.y_addr}[answer_to]
    limit = base + (simulator.ring_bytes if answer_to == "command" else 16)
    simulator.set_memory({"wrong_id_base": base, "wrong_id_limit": limit})
    with pytest.raises(CommandError) as caught:
        simulator.run([command.encode()])
    simulator.set_memory({"wrong_id_base": 0, "wrong_id_limit": 0})
    assert caught.value.cause is ErrorCause.AXI_ID


def test_operands_beyond_memory_are_seen_by_the_checker(simulator: Simulator) -> None:
    """A window may promise more memory than there is: the bus answers with an error, the checker names the address."""
    beyond = simulator.config.memory.size_bytes
    command = make_case(simulator).command(a_addr=beyond, read_limit=1 << 30).encode()
    with pytest.raises(AxiViolation, match="outside memory"):
        simulator.run([command])
    simulator.set_memory({"check_bounds": 0})
    with pytest.raises(CommandError) as caught:
        simulator.run([command])
    simulator.set_memory({"check_bounds": 1})
    assert caught.value.cause is ErrorCause.AXI_READ


def test_bus_that_never_answers(simulator: Simulator) -> None:
    case = make_case(simulator)
    case.write(memory_array(simulator))
    timeout = simulator.read_register("TIMEOUT")
    simulator.write_register("TIMEOUT", 500)
    simulator.set_memory({"hang": 1})
    with pytest.raises(CommandError) as caught:
        simulator.run([case.command().encode()])
    assert caught.value.cause is ErrorCause.BUS_TIMEOUT
    simulator.set_memory({"hang": 0})
    simulator.write_register("TIMEOUT", timeout)


def test_unusable_ring(simulator: Simulator) -> None:
    command = make_case(simulator).command().encode()
    for name, bad, cause in (
        ("RING_BASE_LO", 8, ErrorCause.RING_BASE),
        ("RING_BASE_HI", 256, ErrorCause.RING_BASE),
        ("RING_ENTRIES", 0, ErrorCause.RING_ENTRIES),
        ("RING_ENTRIES", 1, ErrorCause.RING_ENTRIES),
        ("RING_ENTRIES", 0x10000 + 64, ErrorCause.RING_ENTRIES),
    ):
        good = simulator.read_register(name)
        simulator.write_register(name, bad)
        with pytest.raises(CommandError) as caught:
            simulator.run([command])
        assert caught.value.cause is cause
        simulator.write_register(name, good)


def test_ring_at_the_top_of_the_address_space_does_not_wrap(simulator: Simulator) -> None:
    simulator.write_register("RING_BASE_HI", (1 << simulator.config.address_bits - 32) - 1)
    simulator.write_register("RING_BASE_LO", 0xFFFFFF00)
    with pytest.raises(CommandError) as caught:
        simulator.run([make_case(simulator).command().encode()])
    assert caught.value.cause is ErrorCause.RING_BASE
    simulator.soft_reset()


def test_ring_that_shrinks_below_its_head_runs_nothing_stale(simulator: Simulator) -> None:
    fence = PlainCommand(opcode=Opcode.FENCE).encode()
    simulator.soft_reset()
    simulator.run([fence] * 5)
    simulator.write_register("RING_ENTRIES", 4)
    before = simulator.counters(["commands"])
    for tail, cause in ((1, ErrorCause.RING_HEAD), (5, ErrorCause.RING_HEAD)):
        simulator.write_register("RING_TAIL", tail)
        assert any(simulator.read_register("IRQ") == IRQ_ERROR for _ in range(5))
        assert simulator.read_register("ERROR_CAUSE") == cause
        simulator.write_register("IRQ", IRQ_ERROR)
        assert simulator.read_register("RING_HEAD") == 5
    assert simulator.counters(["commands"]) == before
    simulator.soft_reset()


def test_ring_cannot_be_moved_while_it_is_in_use(simulator: Simulator) -> None:
    simulator.set_memory({"hang": 1})
    simulator.write_register("RING_TAIL", simulator.read_register("RING_HEAD") + 1)
    for name in ("RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES"):
        good = simulator.read_register(name)
        with pytest.raises(ProtocolError, match="was answered with response 2"):
            simulator.write_register(name, good)
    simulator.write_register("TIMEOUT", simulator.read_register("TIMEOUT"))
    simulator.set_memory({"hang": 0})
    simulator.soft_reset()


def test_commands_before_the_bad_one_are_complete_and_those_after_it_are_not_started(simulator: Simulator) -> None:
    rng = np.random.default_rng(2)
    cases = []
    for index in range(3):
        a, w = random_int8(rng, 3, 4), random_int8(rng, 4, 5)
        cases.append(GemmCase(simulator.config, a, w, base=index * 4096))
        cases[-1].write(memory_array(simulator))
    first, bad, last = (case.command() for case in cases)
    broken = bytearray(bad.encode())
    broken[1] = 9
    with pytest.raises(CommandError) as caught:
        simulator.run([first.encode(), bytes(broken), last.encode()])
    assert (caught.value.cause, caught.value.index) == (ErrorCause.VERSION, 1)
    memory = memory_array(simulator)
    cases[0].check(memory)
    cases[1].check_untouched(memory)
    cases[2].check_untouched(memory)


def test_every_cause_is_provoked_here() -> None:
    by_field = {cause for cause, _ in FIELD_CASES}
    elsewhere = {
        *(ErrorCause.NONE, ErrorCause.RESERVED, ErrorCause.CHANNEL_RECORD),
        *(ErrorCause.RING_BASE, ErrorCause.RING_ENTRIES, ErrorCause.RING_HEAD),
        *(ErrorCause.AXI_READ, ErrorCause.AXI_WRITE, ErrorCause.AXI_ID, ErrorCause.BUS_TIMEOUT),
        *(ErrorCause.A_ADDR, ErrorCause.W_ADDR, ErrorCause.Y_ADDR, ErrorCause.CHANNEL_ADDR),
        # In test_protection_commands.py.
        *(ErrorCause.THETA, ErrorCause.LOG, ErrorCause.DOMAIN, ErrorCause.POINT, ErrorCause.RATE, ErrorCause.LENGTHS),
        # In benches/bench_bus.py.
        *(ErrorCause.READ_LENGTH, ErrorCause.READ_SURPLUS, ErrorCause.WRITE_SURPLUS),
        # In tests/hw/test_command_processor.py.
        *(ErrorCause.RING_TAIL, ErrorCause.STALLED),
        # In test_copy.py.
        *(ErrorCause.RUNS, ErrorCause.SOURCE, ErrorCause.TARGET, ErrorCause.LIST, ErrorCause.RUN),
        # In test_attention.py.
        *(ErrorCause.KEYS, ErrorCause.V_ADDR, ErrorCause.LDV, ErrorCause.V_BATCH_STRIDE),
        *(ErrorCause.BLOCK_ROWS, ErrorCause.SCALES, ErrorCause.V_WINDOW),
        # In test_keep_activations.py.
        ErrorCause.KEPT,
    }
    assert by_field | elsewhere == set(ErrorCause)


def test_command_of_the_wrong_length_is_refused_before_it_reaches_memory(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match=r"^a command is 256 bytes, not 255$"):
        simulator.run([bytes(COMMAND_BYTES - 1)])

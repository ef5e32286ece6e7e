"""Commands for errors, operating points and checks: malformed ones are refused, the plain ones do what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from brownout.cosim import CommandError, Simulator
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import (
    COMMAND_FIELDS,
    COMMAND_VERSION,
    ERROR_MEANING,
    ErrorCause,
    GemmFlag,
    Opcode,
    PlainCommand,
    SetErrorsCommand,
    SetPointCommand,
    reserved_ranges,
)
from brownout.hw.registers import counter_offset, counters

from .. import configurations
from ..configurations import RESIDUE_CARRY, RESIDUE_FLIP
from .conftest import memory_array
from .gemm_cases import random_int8

pytestmark = pytest.mark.xdist_group("protection-commands")

CHECK = GemmFlag.CHECK


@pytest.fixture(scope="module")
def carry() -> Iterator[Simulator]:
    with Simulator(RESIDUE_CARRY, deadline_s=60) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def flip() -> Iterator[Simulator]:
    with Simulator(RESIDUE_FLIP, deadline_s=60) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def plain() -> Iterator[Simulator]:
    with Simulator(configurations.plain(4, 4), deadline_s=60) as simulator:
        yield simulator


def make_case(simulator: Simulator) -> GemmCase:
    rng = np.random.default_rng(3)
    return GemmCase(simulator.config, random_int8(rng, 9, 7), random_int8(rng, 7, 10))


def refuse(simulator: Simulator, command: bytes, cause: ErrorCause) -> None:
    """The command is refused, nothing is written, and the next one works."""
    case = make_case(simulator)
    case.write(memory_array(simulator))
    message = re.escape(f"command 0 failed: {ERROR_MEANING[cause]} ({cause.name})")
    with pytest.raises(CommandError, match=message) as caught:
        simulator.run([command])
    assert caught.value.cause is cause
    case.check_untouched(memory_array(simulator))
    simulator.run([case.command().encode()])
    case.check(memory_array(simulator))


GEMM_CASES: list[tuple[ErrorCause, dict[str, Any]]] = [
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.CORRECT)}),
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.SUPPRESS)}),
    (ErrorCause.FLAGS, {"flags": int(GemmFlag.ZERO)}),
    (ErrorCause.FLAGS, {"flags": int(CHECK | GemmFlag.SUPPRESS | GemmFlag.ZERO)}),
    (ErrorCause.FLAGS, {"flags": 2 * max(GemmFlag)}),
    (ErrorCause.THETA, {"flags": int(CHECK), "theta": 64}),
    (ErrorCause.THETA, {"theta": 1}),
    (ErrorCause.LOG, {"flags": int(CHECK), "log_addr": 0, "log_bytes": 16}),
    (ErrorCause.LOG, {"flags": int(CHECK), "log_addr": (1 << 64) - 64, "log_bytes": 64}),
    (ErrorCause.LOG, {"flags": int(CHECK), "log_addr": 64}),
    (ErrorCause.LOG, {"log_bytes": 16}),
]


@pytest.mark.parametrize(("cause", "changes"), GEMM_CASES, ids=lambda value: getattr(value, "name", None))
def test_malformed_product(carry: Simulator, cause: ErrorCause, changes: dict[str, Any]) -> None:
    refuse(carry, make_case(carry).command(**changes).encode(), cause)


@pytest.mark.parametrize(("offset", "size"), [(16, 64), (0, 24), (0, 1 << 20)])
def test_a_log_must_be_aligned_whole_and_in_the_write_window(carry: Simulator, offset: int, size: int) -> None:
    command = make_case(carry).command()
    changes = {"flags": int(CHECK), "log_addr": command.y_addr + offset, "log_bytes": size}
    refuse(carry, make_case(carry).command(**changes).encode(), ErrorCause.LOG)


POINT = {"lengths_addr": 0, "lengths_stride": 64, "read_base": 0, "read_limit": 256}

POINT_CASES: list[tuple[ErrorCause, dict[str, int]]] = [
    (ErrorCause.DOMAIN, {"domain": 3}),
    (ErrorCause.POINT, {"point": 4}),
    (ErrorCause.VERSION, {"version": COMMAND_VERSION + 1}),
    (ErrorCause.LENGTHS, {"lengths_addr": 8}),
    (ErrorCause.LENGTHS, {"lengths_stride": 8}),
    (ErrorCause.LENGTHS, {"read_limit": 192}),
    (ErrorCause.LENGTHS, {"read_base": 64}),
    (ErrorCause.LENGTHS, {"read_limit": 1 << 41}),
    (ErrorCause.LENGTHS, {"lengths_addr": (1 << 64) - 64}),
]


@pytest.mark.parametrize(("cause", "changes"), POINT_CASES, ids=lambda value: getattr(value, "name", None))
def test_malformed_operating_point(carry: Simulator, cause: ErrorCause, changes: dict[str, int]) -> None:
    refuse(carry, SetPointCommand(**{"domain": 0, "point": 0, **POINT, **changes}).encode(), cause)


def test_rates_of_points_that_do_not_exist(flip: Simulator) -> None:
    refuse(flip, SetErrorsCommand(seed=0, rates=(0, 0, 0, 0, 1)).encode(), ErrorCause.RATE)


def test_lengths_mean_nothing_to_flips(flip: Simulator) -> None:
    refuse(flip, SetPointCommand(domain=0, point=0, **POINT).encode(), ErrorCause.LENGTHS)


@pytest.mark.parametrize("opcode", [Opcode.SET_POINT, Opcode.FENCE, Opcode.SNAPSHOT])
def test_reserved_bytes(carry: Simulator, opcode: Opcode) -> None:
    good = (
        SetPointCommand(domain=0, point=0, **POINT) if opcode is Opcode.SET_POINT else PlainCommand(opcode=opcode)
    ).encode()
    for low, high in reserved_ranges(COMMAND_FIELDS[opcode]):
        for offset in {low, (low + high) // 2, high - 1}:
            command = bytearray(good)
            command[offset] = 1
            refuse(carry, bytes(command), ErrorCause.RESERVED)


def test_commands_that_the_device_was_not_built_for(plain: Simulator, carry: Simulator) -> None:
    refuse(carry, SetErrorsCommand(seed=0, rates=()).encode(), ErrorCause.OPCODE)
    refuse(plain, SetErrorsCommand(seed=0, rates=()).encode(), ErrorCause.OPCODE)
    refuse(plain, SetPointCommand(domain=0, point=0).encode(), ErrorCause.OPCODE)
    refuse(plain, make_case(plain).command(flags=int(CHECK)).encode(), ErrorCause.FLAGS)


def test_a_fence_completes_and_is_counted(plain: Simulator) -> None:
    before = plain.counters()["commands"]
    plain.run([PlainCommand(opcode=Opcode.FENCE).encode()] * 3)
    assert plain.counters()["commands"] == before + 3


def test_a_snapshot_command_copies_the_counters(plain: Simulator) -> None:
    names = [counter.name for counter in counters(plain.config)]
    address = counter_offset(names.index("commands"))
    plain.run([PlainCommand(opcode=Opcode.FENCE).encode(), PlainCommand(opcode=Opcode.SNAPSHOT).encode()])
    copied = plain._request(op="read", addresses=[address])["values"][0]
    # The snapshot command itself was not complete when it copied.
    assert copied == plain.counters()["commands"] - 1


def test_a_transition_takes_its_cycles_at_the_new_point(flip: Simulator) -> None:
    flip.soft_reset()
    flip.run([SetPointCommand(domain=1, point=2, transition_cycles=1000).encode()])
    found = flip.counters()
    assert found["transition_cycles"] == 1000
    assert found["domain_1_point_2_cycles"] >= 1000
    assert found["domain_0_point_0_cycles"] == found["cycles"]
    assert found["domain_1_point_0_cycles"] + found["domain_1_point_2_cycles"] == found["cycles"]
    flip.soft_reset()
    flip.run([make_case(flip).command().encode()])
    assert flip.counters()["domain_1_point_2_cycles"] == 0

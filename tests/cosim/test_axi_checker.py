"""Every rule of AXI that a master can break is noticed, and legal traffic is not complained about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from brownout.cosim.build import build_memory_library

from .memory_port import Address, MemoryPort, WriteBeat

SIZE = 1 << 20
Open = Callable[..., MemoryPort]


@pytest.fixture(scope="module")
def library() -> Path:
    return build_memory_library()


@pytest.fixture
def port(library: Path) -> MemoryPort:
    return MemoryPort(library, size_bytes=SIZE)


@pytest.fixture
def deaf_port(library: Path) -> MemoryPort:
    """A memory that accepts nothing, so that everything offered has to wait."""
    opened = MemoryPort(library, size_bytes=SIZE)
    opened.model.set("hang", 1)
    opened.edge()
    return opened


def beat(last: bool, value: int = 0) -> WriteBeat:
    return WriteBeat(bytes([value] * 16), last)


def test_legal_traffic_passes(port: MemoryPort) -> None:
    port.edge(Address(4096 - 64, 4), beat(False), Address(0, 256))
    port.edge(None, beat(False))
    port.edge(None, beat(False))
    port.edge(None, beat(True))
    port.edge(None, beat(True))  # data before its address
    port.edge(Address(SIZE - 16, 1))
    for _ in range(400):
        port.edge()
    assert port.model.violation() == ""


@pytest.mark.parametrize("channel", ["aw", "ar"])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        (Address(4096 - 16, 2), "of address 0xff0, 2 beats: crosses a 4 KiB boundary"),
        (Address(0, 4, burst=0), "burst type is not INCR"),
        (Address(0, 4, size=2), "size is not the width of the bus"),
        (Address(8, 1), "not aligned to the width of the bus"),
        (Address(SIZE, 1), "outside memory"),
        (Address(1 << 39, 1), "outside memory"),
        (Address(0, 1, attributes=0b00001), "of address 0x0, 1 beats: exclusive access"),
        (Address(0, 1, attributes=0b01010), "cache allocation of an access that must not be modified"),
    ],
)
def test_illegal_burst(port: MemoryPort, channel: str, address: Address, message: str) -> None:
    port.edge(**{channel: address})
    assert message in port.model.violation()
    assert port.model.violation().startswith(channel.upper())
    assert port.model.get("violations") == 1


@pytest.mark.parametrize("channel", ["aw", "ar"])
@pytest.mark.parametrize("changed", [Address(64, 1), Address(0, 1, attributes=1 << 8)])
def test_address_that_changes_while_waiting(deaf_port: MemoryPort, channel: str, changed: Address) -> None:
    deaf_port.edge(**{channel: Address(0, 1)})
    deaf_port.edge(**{channel: changed})
    assert f"{channel.upper()} payload changed while waiting" in deaf_port.model.violation()


@pytest.mark.parametrize("channel", ["aw", "ar"])
def test_address_that_is_withdrawn(deaf_port: MemoryPort, channel: str) -> None:
    deaf_port.edge(**{channel: Address(0, 1)})
    deaf_port.edge()
    assert deaf_port.model.violation() == f"{channel.upper()}VALID dropped before {channel.upper()}READY"


@pytest.mark.parametrize("changed", [beat(True, 1), beat(False), replace(beat(True), strobe=1)])
def test_data_that_changes_while_waiting(deaf_port: MemoryPort, changed: WriteBeat) -> None:
    deaf_port.edge(w=beat(True))
    deaf_port.edge(w=changed)
    assert deaf_port.model.violation() == "W payload changed while waiting for WREADY"


def test_data_that_is_withdrawn(deaf_port: MemoryPort) -> None:
    deaf_port.edge(w=beat(True))
    deaf_port.edge()
    assert deaf_port.model.violation() == "WVALID dropped before WREADY"


def test_last_too_early(port: MemoryPort) -> None:
    port.edge(Address(0, 3), beat(False))
    port.edge(w=beat(True))
    assert port.model.violation() == "WLAST set at beat 2 of a burst of 3"


def test_last_missing(port: MemoryPort) -> None:
    port.edge(Address(0, 2), beat(False))
    port.edge(w=beat(False))
    assert port.model.violation() == "WLAST missing at beat 2 of a burst of 2"


def test_address_that_does_not_fit_the_data_before_it(port: MemoryPort) -> None:
    port.edge(w=beat(False))
    port.edge(w=beat(True))
    port.edge(Address(0, 3))
    assert "AW of address 0x0, 3 beats: WLAST came with beat 2" in port.model.violation()


def test_first_violation_is_reported_and_can_be_cleared(port: MemoryPort) -> None:
    port.edge(ar=Address(8, 1))
    port.edge(ar=Address(SIZE, 1))
    assert "not aligned" in port.model.violation()
    assert port.model.get("violations") == 2
    port.model.clear_violations()
    assert port.model.violation() == ""
    assert port.model.get("violations") == 0


def test_checks_can_be_switched_off(port: MemoryPort) -> None:
    port.model.set("check_axi", 0)
    port.edge(ar=Address(8, 1))
    assert port.model.violation() == ""

"""The memory model keeps the timing rules that ``dram.h`` states, and stores what is written."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from brownout.cosim.build import build_memory_library
from brownout.cosim.dram import MOST_BANDWIDTH, MemoryTiming
from brownout.hw.config import MemoryConfig

from .memory_port import BUS_BYTES, Address, MemoryPort, TimingRules, WriteBeat

SIZE = 1 << 20
OKAY, SLVERR, DECERR = 0, 2, 3

Open = Callable[..., MemoryPort]


@pytest.fixture(scope="module")
def library() -> Path:
    return build_memory_library()


@pytest.fixture
def memory(library: Path) -> Open:
    return lambda **settings: MemoryPort(library, size_bytes=SIZE, **settings)


def write_burst(port: MemoryPort, address: int, data: bytes, strobe: int = (1 << BUS_BYTES) - 1) -> int:
    """Write `data`; returns the response."""
    beats = [data[i : i + BUS_BYTES] for i in range(0, len(data), BUS_BYTES)]
    aw: Address | None = Address(address, len(beats))
    sent = 0
    for _ in range(2000):
        w = WriteBeat(beats[sent], sent == len(beats) - 1, strobe) if sent < len(beats) else None
        aw_taken, w_taken = port.out.awready, port.out.wready and w is not None
        out = port.edge(aw, w)
        aw = None if aw_taken else aw
        sent += w_taken
        if out.bvalid:
            port.edge()
            return out.bresp
    raise AssertionError("no response")


def read_burst(port: MemoryPort, address: int, beats: int) -> tuple[bytes, list[int], list[int]]:
    """Read; returns the data, the responses and the edges after which the beats were there (0: address accepted)."""
    assert port.out.arready
    data, responses, edges = b"", [], []
    out = port.edge(ar=Address(address, beats))
    for edge in range(4000):
        if out.rvalid:
            data += out.rdata
            responses.append(out.rresp)
            edges.append(edge)
            if out.rlast:
                port.edge()
                return data, responses, edges
        out = port.edge()
    raise AssertionError("no last beat")


def test_what_is_written_is_read(memory: Open) -> None:
    port = memory()
    data = bytes(range(256))
    assert write_burst(port, 4096, data) == OKAY
    assert read_burst(port, 4096, 16)[:2] == (data, [OKAY] * 16)


def test_strobes_choose_bytes(memory: Open) -> None:
    port = memory()
    write_burst(port, 0, b"\x11" * 16)
    write_burst(port, 0, b"\x22" * 16, strobe=0b1000_0000_0110_0001)
    expected = bytes(0x22 if 0b1000_0000_0110_0001 >> i & 1 else 0x11 for i in range(16))
    assert read_burst(port, 0, 1)[0] == expected


@pytest.mark.parametrize("latency", [1, 5, 64])
def test_first_beat_comes_latency_after_the_address_and_one_beat_per_cycle_follows(memory: Open, latency: int) -> None:
    port = memory(latency_cycles=latency)
    assert read_burst(port, 0, 8)[2] == list(range(latency, latency + 8))


@pytest.mark.parametrize(("bytes_per_cycle", "cycles"), [(4, 4 * 63), (8, 2 * 63), (12, 84), (16, 63), (64, 63)])
def test_bandwidth_limits_beats(memory: Open, bytes_per_cycle: int, cycles: int) -> None:
    port = memory(bytes_per_cycle=bytes_per_cycle)
    edges = read_burst(port, 0, 64)[2]
    # The tokens left over before the first beat may bring the last one forward by less than one beat's worth.
    assert cycles - 16 // bytes_per_cycle - 1 <= edges[-1] - edges[0] <= cycles


@pytest.mark.parametrize("bandwidth", [1 << 20, (1 << 20) - 1, 911_805, 655_360, 456_789, 65_537, 40_000, 3])
def test_no_fraction_of_the_bandwidth_is_lost(memory: Open, bandwidth: int) -> None:
    """After every edge as many beats were performed as a full bucket and the bandwidth since then pay for."""
    port = memory(bandwidth=bandwidth, latency_cycles=1, read_queue=64)
    while port.out.active:
        port.edge()
    beat = BUS_BYTES << 16
    for edges in range(3000):
        # The first edge takes the address; its beat is ready on the next one, from which on the bus never rests.
        port.edge(ar=Address(0, 256) if port.out.arready else None)
        earned = beat - 1 + edges * bandwidth
        assert port.model.get("read_beats") == (earned // beat if edges else 0), f"edge {edges}"


def test_a_bandwidth_of_two_beats_serves_reads_and_writes_in_every_cycle(memory: Open) -> None:
    port = memory(bandwidth=2 * BUS_BYTES << 16, latency_cycles=1, read_queue=64)
    for _ in range(100):
        port.edge(Address(0, 256), WriteBeat(bytes(16), False), Address(4096, 256))
    assert port.model.get("read_beats") >= 98
    assert port.model.get("write_beats") >= 98


def test_write_response_comes_latency_after_the_last_beat(memory: Open) -> None:
    port = memory(latency_cycles=9)
    out = port.edge(Address(0, 1), WriteBeat(bytes(16), True))
    edges = 0
    while not out.bvalid:
        out = port.edge()
        edges += 1
    assert edges == 9


def test_reads_and_writes_share_the_bandwidth_evenly(memory: Open) -> None:
    port = memory(latency_cycles=1, read_queue=64, write_queue=64)
    reads_before = port.model.get("read_beats")
    offered = 0
    for _ in range(400):
        w = WriteBeat(bytes(16), offered % 16 == 15)
        taken = port.out.wready
        port.edge(Address(0, 16), w, Address(4096, 16))
        offered += taken
    reads, writes = port.model.get("read_beats") - reads_before, port.model.get("write_beats")
    assert abs(reads - writes) <= 2
    assert reads + writes >= 395


def test_queues_hold_back_addresses(memory: Open) -> None:
    port = memory(read_queue=3, latency_cycles=100)
    accepted = 0
    for _ in range(50):
        accepted += port.out.arready
        port.edge(ar=Address(0, 4))
    assert accepted == 3


@pytest.mark.parametrize("seed", range(16))
def test_random_traffic_follows_the_rules_edge_by_edge(memory: Open, seed: int) -> None:
    print(f"{seed=}")
    rng = random.Random(seed)
    settings = {
        "latency_cycles": rng.choice([1, 2, 7, 30]),
        "read_queue": rng.choice([1, 4, 64]),
        "write_queue": rng.choice([1, 2, 16]),
    }
    bandwidth = rng.choice([3, 8, 16, 24, 32, 100]) << 16
    if seed % 2:
        bandwidth = rng.choice([bandwidth - 1, bandwidth * 10 // 13, rng.randrange(1 << 14, 1 << 21)])
    port = memory(**settings, bandwidth=bandwidth, check_axi=0)
    rules = TimingRules(**settings, bytes_per_cycle=Fraction(bandwidth, 1 << 16))
    rules.step(0, False, 0, True, True)
    for edge in range(1500):
        busy = rng.random() < 0.8
        aw = rng.randrange(1, 9) if busy and rng.random() < 0.2 else 0
        ar = rng.randrange(1, 9) if busy and rng.random() < 0.2 else 0
        wvalid, bready, rready = rng.random() < 0.7, rng.random() < 0.8, rng.random() < 0.8
        w = WriteBeat(bytes(16), False) if wvalid else None
        out = port.edge(
            Address(0, aw) if aw else None, w, Address(4096, ar) if ar else None, bready=bready, rready=rready
        )
        rules.step(aw, wvalid, ar, bready, rready)
        seen = (out.awready, out.wready, out.arready, out.bvalid, out.rvalid)
        assert seen == (rules.awready, rules.wready, rules.arready, rules.b_full, rules.r_full), f"edge {edge}"


def test_idle_memory_need_not_be_called(memory: Open) -> None:
    port = memory(latency_cycles=5)
    while port.out.active:
        port.edge()
    read_burst(port, 0, 2)
    for _ in range(3):
        port.edge()
    assert not port.out.active
    assert port.edge(ar=Address(0, 1)).active


def test_row_activations_count_changes_of_the_open_row(memory: Open) -> None:
    port = memory(banks=2, row_bytes=256)
    for address in (0, 128, 256, 0, 512, 0):  # rows 0, 0, 1 (other bank), 0, 2 (bank of 0), 0
        read_burst(port, address, 1)
    assert port.model.get("row_activations") == 4


def test_writes_without_strobes_open_no_row(memory: Open) -> None:
    port = memory()
    write_burst(port, 0, bytes(64), strobe=0)
    assert port.model.get("row_activations") == 0
    write_burst(port, 0, bytes(64))
    assert port.model.get("row_activations") == 1


def test_addresses_beyond_memory_answer_decerr(memory: Open) -> None:
    port = memory(check_bounds=0)
    assert read_burst(port, SIZE - 16, 2)[1] == [OKAY, DECERR]
    assert write_burst(port, SIZE, bytes(16)) == DECERR


def test_error_range_answers_slverr_and_is_not_written(memory: Open) -> None:
    port = memory(slverr_base=64, slverr_limit=80)
    assert write_burst(port, 32, b"\x55" * 64) == SLVERR
    port.model.set("slverr_limit", 0)
    assert read_burst(port, 32, 4)[0] == b"\x55" * 32 + bytes(16) + b"\x55" * 16


def test_hanging_memory_accepts_and_answers_nothing_until_released(memory: Open) -> None:
    port = memory(latency_cycles=2)
    port.edge(ar=Address(0, 1))
    port.model.set("hang", 1)
    for _ in range(50):
        out = port.edge()
        assert (out.rvalid, out.arready, out.awready, out.wready) == (False,) * 4
    port.model.set("hang", 0)
    assert any(port.edge().rvalid for _ in range(5))


def test_bursts_can_be_cut_short_and_answers_come_unasked(memory: Open) -> None:
    port = memory(latency_cycles=2, short_reads=1)
    lasts = []
    for beats in (1, 3, 3):
        out = port.edge(ar=Address(0, beats))
        for _ in range(10):
            if out.rvalid:
                lasts.append(out.rlast)
            out = port.edge()
    assert lasts == [True, False, True, False, False, True]
    for knob, valid in (("surplus_r", "rvalid"), ("surplus_b", "bvalid")):
        port.model.set(knob, 2)
        assert sum(getattr(port.edge(), valid) for _ in range(10)) == 2
        assert not port.out.active


def test_a_row_can_be_opened_without_counting(memory: Open) -> None:
    port = memory(row_bytes=1024, banks=4)
    read_burst(port, 0, 1)
    port.model.set("open_row", 4)
    assert port.model.get("row_activations") == 1
    read_burst(port, 4 * 1024, 1)
    assert port.model.get("row_activations") == 1
    read_burst(port, 0, 1)
    assert port.model.get("row_activations") == 2


def test_stalls_are_the_same_for_the_same_seed(memory: Open) -> None:
    def trace(seed: int) -> list[tuple[bool, bool, bool]]:
        port = memory(seed=seed, stall_ar=30000, stall_aw=30000, stall_w=30000)
        return [(out.arready, out.awready, out.wready) for out in (port.edge() for _ in range(200))]

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)
    ready = sum(arready for arready, _, _ in trace(1))
    assert 60 < ready < 140


def test_a_presented_beat_is_kept_until_it_is_taken(memory: Open) -> None:
    port = memory(stall_r=20000, latency_cycles=3)
    write_burst(port, 0, bytes(range(64)))
    port.edge(ar=Address(0, 4))
    for beat in range(4):
        while not port.out.rvalid:
            port.edge(rready=False)
        for _ in range(5):
            out = port.edge(rready=False)
            assert out.rvalid
            assert out.rdata == bytes(range(16 * beat, 16 * beat + 16))
        port.edge()


def test_unknown_setting_is_refused(memory: Open) -> None:
    with pytest.raises(KeyError, match="the memory model has no setting 'speed'"):
        memory().model.set("speed", 1)


@pytest.mark.parametrize(
    ("memory", "clock", "latency_cycles", "bandwidth"),
    [
        (MemoryConfig(), Fraction(1), 64, 16 << 16),
        (MemoryConfig(), Fraction(5, 4), 80, 838_861),  # 12.8 bytes
        (MemoryConfig(), Fraction(23, 20), 74, 911_805),  # 73.6 cycles, 13.9130 bytes
        (MemoryConfig(), Fraction(1, 3), 22, 48 << 16),
        (MemoryConfig(latency_cycles=1, bytes_per_cycle=1), Fraction(1, 10), 1, 655_360),
        (MemoryConfig(bytes_per_cycle=3), Fraction(1 << 17), 64 << 17, 2),  # 1.5: to even
        (MemoryConfig(bytes_per_cycle=1024), Fraction(1, 2), 32, MOST_BANDWIDTH),
    ],
)
def test_timing_keeps_nanoseconds_and_bytes_per_second(
    memory: MemoryConfig, clock: Fraction, latency_cycles: int, bandwidth: int
) -> None:
    assert MemoryTiming.at_clock(memory, clock) == MemoryTiming(latency_cycles, bandwidth)


def test_timing_that_cannot_be_represented_is_refused() -> None:
    message = (
        "at 1e+06 times the nominal clock the memory would have a latency of 64000000 cycles and 5e-06 bytes per "
        "cycle, but it must be at most 2147483647 cycles and at least 2^-16 bytes per cycle; lower the frequency"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MemoryTiming.at_clock(MemoryConfig(bytes_per_cycle=5), 10**6)
    with pytest.raises(ValueError, match=r"^at 131072 times the nominal clock .* lower the frequency$"):
        MemoryTiming.at_clock(MemoryConfig(bytes_per_cycle=1), 1 << 17)  # half a unit: to even
    with pytest.raises(ValueError, match=r"latency of 65536000000 cycles"):
        MemoryTiming.at_clock(MemoryConfig(latency_cycles=65536, bytes_per_cycle=1024), 10**6)
    with pytest.raises(ValueError, match=r"^clock must be positive, not 0; raise the frequency$"):
        MemoryTiming.at_clock(MemoryConfig(), 0)
    with pytest.raises(ValueError, match=r"^MemoryTiming\.bandwidth must be in 1\.\.67108864, not 0$"):
        MemoryTiming(1, 0)
    with pytest.raises(ValueError, match=r"^MemoryTiming\.latency_cycles must be in 1\.\.2147483647, not 0$"):
        MemoryTiming(0, 1)

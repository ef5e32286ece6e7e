"""Who may use a simulator: not a forked child, and one thread after another; what the device must have said."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from brownout.cosim import CommandError, ForkedProcessError, ProtocolError, Simulator, SimulatorDied, ownership
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import COMMAND_BYTES, Opcode, PlainCommand
from brownout.hw.registers import OFFSETS

from ..configurations import plain
from ..forks import in_a_child
from .conftest import memory_array
from .gemm_cases import random_int8

pytestmark = pytest.mark.xdist_group("process")

CONFIG = plain(4, 4)
FENCE = PlainCommand(opcode=Opcode.FENCE).encode()


@pytest.fixture(scope="module")
def opened() -> Iterator[Simulator]:
    with Simulator(CONFIG, deadline_s=60) as simulator:
        yield simulator


@pytest.fixture
def simulator(opened: Simulator) -> Simulator:
    """A simulator in order; to start one takes longer than a test."""
    if opened.pid is None:
        opened.restart()
    return opened


@pytest.fixture
def own() -> Iterator[Simulator]:
    """One to be closed."""
    with Simulator(CONFIG, deadline_s=60) as simulator:
        yield simulator


def run_case(simulator: Simulator, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    case = GemmCase(CONFIG, random_int8(rng, 3, 4), random_int8(rng, 4, 5))
    case.write(memory_array(simulator))
    simulator.run([case.command().encode()])
    case.check(memory_array(simulator))


def long_commands(count: int) -> list[bytes]:
    """Each a few hundred thousand cycles."""
    case = GemmCase(CONFIG, np.zeros((8192, 64), np.int8), np.zeros((64, 16), np.int8))
    return [case.command().encode()] * count


@pytest.fixture
def spared(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the simulator would have been ended, because its state is not known; here it is."""
    ended: list[bool] = []
    monkeypatch.setattr(simulator._process, "kill", lambda: ended.append(True))
    return ended


class Stranger:
    """Somebody else who has the host's end of the socket."""

    def __init__(self, simulator: Simulator) -> None:
        process = simulator._process
        assert process is not None
        self._socket = socket.socket(fileno=os.dup(process.link._socket.fileno()))

    def send(self, **request: object) -> None:
        data = json.dumps(request).encode()
        self._socket.sendall(struct.pack("<I", len(data)) + data)

    def ask(self, **request: object) -> dict[str, object]:
        self.send(**request)
        (length,) = struct.unpack("<I", self._socket.recv(4, socket.MSG_WAITALL))
        reply: dict[str, object] = json.loads(self._socket.recv(length, socket.MSG_WAITALL))
        return reply

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stranger(simulator: Simulator) -> Iterator[Stranger]:
    other = Stranger(simulator)
    yield other
    other.close()


def test_every_call_in_a_forked_child_names_the_remedy(simulator: Simulator) -> None:
    message = (
        rf"^this simulator was opened in process {os.getpid()} and cannot be used in process \d+, which was forked "
        r"from it; open another Simulator in this process$"
    )
    calls: dict[str, Callable[[], object]] = {
        "run": lambda: simulator.run([FENCE]),
        "nothing": lambda: simulator.run([]),
        "read": lambda: simulator.read_register("ID"),
        "write": lambda: simulator.write_register("TIMEOUT", 5),
        "counters": simulator.counters,
        "set_memory": lambda: simulator.set_memory({"hang": 1}),
        "soft_reset": simulator.soft_reset,
        "hard_reset": simulator.hard_reset,
        "restart": simulator.restart,
        "resume_at": lambda: simulator.resume_at(3, [None] * CONFIG.memory.banks),
    }

    def child() -> dict[str, str]:
        errors = {}
        for name, call in calls.items():
            with pytest.raises(ForkedProcessError) as caught:
                call()
            assert (caught.value.opened_in, caught.value.used_in) == (os.getppid(), os.getpid())
            errors[name] = str(caught.value)
        return errors

    run_case(simulator)
    errors = in_a_child(child)
    assert isinstance(errors, dict), errors
    assert errors.keys() == calls.keys()
    for text in errors.values():
        assert re.match(message, text)
    run_case(simulator, seed=1)


def test_the_error_of_a_child_can_be_sent_to_its_parent() -> None:
    error = pickle.loads(pickle.dumps(ForkedProcessError("this simulator", 1, 2, "open another one")))
    assert str(error) == (
        "this simulator was opened in process 1 and cannot be used in process 2, which was forked from it; "
        "open another one"
    )
    assert (error.opened_in, error.used_in) == (1, 2)


def test_a_child_that_closes_or_drops_the_simulator_harms_nobody(simulator: Simulator) -> None:
    log, pid = simulator.log, simulator.pid
    assert log is not None
    held: list[Simulator | None] = [simulator]

    def child() -> float:
        assert held[0] is not None
        start = time.monotonic()
        held[0].close()
        with held[0]:
            pass
        seconds = time.monotonic() - start
        held[0] = None
        # Slow: all that the parent has is copied.
        gc.collect()
        return seconds

    seconds = in_a_child(child)
    assert isinstance(seconds, float)
    assert seconds < 3
    assert log.exists()
    assert simulator.pid == pid
    run_case(simulator)


def test_a_child_that_lives_on_does_not_keep_the_simulator_from_ending(own: Simulator) -> None:
    pid, log = own.pid, own.log
    assert pid is not None
    assert log is not None
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    try:
        start = time.monotonic()
        own.close()
        assert time.monotonic() - start < 30
        assert not log.exists(), "it was killed, and did not end in order"
    finally:
        process.kill()
        process.join()


def test_what_a_child_writes_to_memory_stays_in_the_child(simulator: Simulator) -> None:
    memory = memory_array(simulator)
    memory[4096] = 42

    def child() -> tuple[int, int]:
        before = int(memory[4096])
        memory[:] = 7
        return before, int(memory[4096])

    assert in_a_child(child) == (42, 7)
    assert memory[4096] == 42


def test_locks_of_other_threads_do_not_hang_a_child(simulator: Simulator) -> None:
    thread = threading.Thread(target=simulator.run, args=(long_commands(2),))
    thread.start()

    def child() -> str:
        with pytest.raises(ForkedProcessError):
            simulator.counters()
        simulator.close()
        return "returned"

    while simulator._lock._lock.acquire(blocking=False):
        simulator._lock._lock.release()
    assert in_a_child(child) == "returned"
    thread.join(60)
    run_case(simulator)


def next_request(simulator: Simulator) -> list[int]:
    """The number that the simulator expects, taken from the host."""
    assert simulator._process is not None
    return [os.getpid(), next(simulator._process._requests)]


def test_commands_that_another_process_got_through_are_noticed(simulator: Simulator, stranger: Stranger) -> None:
    run_case(simulator)
    head = simulator.read_register("RING_HEAD")
    entry = simulator.ring_base + head * COMMAND_BYTES
    simulator.memory[entry : entry + COMMAND_BYTES] = FENCE
    number = next_request(simulator)
    reply = stranger.ask(op="run", tail=head + 1, bus_bytes=CONFIG.bus_bytes, number=number)
    assert reply["completed"] == 1
    # The head is where the parent's doorbell wants it, and as many commands have been completed.
    message = (
        r"^the device has completed 1 commands of which this object does not know; no result of it can be trusted, so "
        r"it was ended \(log: "
    )
    with pytest.raises(ProtocolError, match=message):
        simulator.run([FENCE])
    with pytest.raises(SimulatorDied, match=re.escape("restart() starts another one")):
        run_case(simulator, seed=1)
    simulator.restart()
    run_case(simulator, seed=1)


def test_a_reply_to_another_request_is_refused(simulator: Simulator, stranger: Stranger, spared: list[bool]) -> None:
    stranger.send(op="read", addresses=[OFFSETS["TIMEOUT"]], number=[os.getpid(), 10**6])
    message = rf"^the simulator answered request \[{os.getpid()}, 1000000\] instead of \[{os.getpid()}, \d+\]"
    with pytest.raises(ProtocolError, match=message):
        simulator.read_register("ID")
    assert spared
    assert simulator._process is not None
    simulator._process.receive(10, time.monotonic())
    run_case(simulator)


def test_a_request_of_another_process_changes_nothing(simulator: Simulator, stranger: Stranger) -> None:
    run_case(simulator)
    for op, arguments in (("run", {"tail": 9, "bus_bytes": 16}), ("write", {"pairs": [[OFFSETS["RING_BASE_LO"], 0]]})):
        reply = stranger.ask(op=op, number=[1, 0], **arguments)
        assert reply["failed"] == f"process 1 has not started this simulator, but {os.getpid()}"
    run_case(simulator, seed=1)


def test_a_request_out_of_order_changes_nothing(simulator: Simulator, stranger: Stranger) -> None:
    reply = stranger.ask(op="write", pairs=[[OFFSETS["RING_BASE_LO"], 0]], number=[os.getpid(), 10**6])
    assert re.match(r"^request 1000000 came after request \d+$", str(reply["failed"]))
    run_case(simulator)


def test_after_a_doorbell_by_hand_a_reset_is_wanted(simulator: Simulator) -> None:
    for reset in (simulator.soft_reset, simulator.hard_reset):
        simulator.write_register("RING_TAIL", simulator.read_register("RING_HEAD"))
        with pytest.raises(ProtocolError, match=r"^RING_TAIL was written by hand; call soft_reset\(\) or hard_"):
            simulator.run([FENCE])
        reset()
        run_case(simulator)


def test_commands_before_a_failed_one_are_counted(simulator: Simulator) -> None:
    for before in (0, 1, 3):
        with pytest.raises(CommandError, match=rf"^command {before} failed: "):
            simulator.run([FENCE] * before + [bytes(COMMAND_BYTES)] + [FENCE])
    before = simulator.read_register("RETIRED")
    simulator.run([FENCE] * 5)
    assert simulator.read_register("RETIRED") - before == 5
    simulator.soft_reset()
    assert simulator.read_register("RETIRED") - before == 5
    run_case(simulator)


def test_threads_run_one_after_another(simulator: Simulator) -> None:
    """Each in memory of its own; some of their commands fail."""
    before, found = simulator.counters(("commands",))["commands"], []
    lengths = (1, 2, 5)

    def work(number: int) -> None:
        for _ in range(6):
            for length in lengths:
                simulator.run([FENCE] * length)
            with pytest.raises(CommandError, match=rf"^command {number} failed: "):
                simulator.run([FENCE] * number + [bytes(COMMAND_BYTES)])
            assert simulator.counters(("commands",))["commands"] > before
        found.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [0, 1, 2, 3]
    assert simulator.counters(("commands",))["commands"] - before == 6 * (4 * sum(lengths) + 0 + 1 + 2 + 3)


def test_close_ends_the_call_of_another_thread(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "CLOSE_GRACE_S", 0.2)
    errors: list[Exception] = []

    def run() -> None:
        try:
            simulator.run(long_commands(200))
        except SimulatorDied as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    simulator.close()
    thread.join(10)
    assert time.monotonic() - start < 30
    assert [type(error) for error in errors] == [SimulatorDied]
    assert simulator.memory_fd < 0

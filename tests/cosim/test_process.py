"""Simulator processes: what happens when one dies, hangs or loses its host, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from brownout.cosim import ProtocolError, Simulator, SimulatorDied, SimulatorTimeout, build_simulator
from brownout.cosim.scoreboard import GemmCase

from ..configurations import plain
from .conftest import memory_array
from .gemm_cases import random_int8

pytestmark = pytest.mark.xdist_group("process")

CONFIG = plain(4, 4)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(CONFIG, deadline_s=60) as opened:
        yield opened


def short_case() -> GemmCase:
    rng = np.random.default_rng(0)
    return GemmCase(CONFIG, random_int8(rng, 3, 4), random_int8(rng, 4, 5))


def run_short(simulator: Simulator) -> None:
    case = short_case()
    case.write(memory_array(simulator))
    simulator.run([case.command().encode()])
    case.check(memory_array(simulator))


def endless_commands() -> list[bytes]:
    """Work for many seconds."""
    case = GemmCase(CONFIG, np.zeros((8192, 64), np.int8), np.zeros((64, 16), np.int8))
    return [case.command().encode()] * 200


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def signal_later(pid: int, number: signal.Signals) -> None:
    threading.Timer(0.3, os.kill, (pid, number)).start()


def test_killed_in_mid_run_and_restarted(simulator: Simulator) -> None:
    pid = simulator.pid
    assert pid is not None
    memory_array(simulator)[3 << 20] = 123
    signal_later(pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(SimulatorDied, match=r"^the simulator was ended by signal 9 \(log: .*\.log\)$") as caught:
        simulator.run(endless_commands())
    assert time.monotonic() - start < 30
    assert caught.value.log is not None
    assert caught.value.log.exists()
    assert simulator.pid is None
    with pytest.raises(SimulatorDied, match=re.escape("the simulator is not running; restart() starts another one")):
        simulator.read_register("ID")
    simulator.restart()
    assert memory_array(simulator)[3 << 20] == 123
    run_short(simulator)


def test_stopped_simulator_is_a_timeout_and_is_killed(simulator: Simulator) -> None:
    pid = simulator.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(SimulatorTimeout, match=r"^no answer from the simulator within 0\.5 s \(log: ") as caught:
        simulator.run([short_case().command().encode()], deadline_s=0.5)
    assert time.monotonic() - start < 30
    assert caught.value.log is not None
    assert wait_until_gone(pid)
    simulator.restart()
    run_short(simulator)


def test_run_that_takes_too_long_is_a_timeout(simulator: Simulator) -> None:
    simulator.set_memory({"hang": 1})
    simulator.write_register("TIMEOUT", 0)
    with pytest.raises(SimulatorTimeout):
        simulator.run([short_case().command().encode()], deadline_s=0.5)
    simulator.restart()
    run_short(simulator)


def test_restart_of_a_healthy_simulator_begins_from_reset(simulator: Simulator) -> None:
    run_short(simulator)
    assert simulator.counters()["commands"] == 1
    simulator.restart()
    assert simulator.counters()["commands"] == 0
    run_short(simulator)


def test_resets_make_the_ring_usable_again(simulator: Simulator) -> None:
    for reset in (simulator.soft_reset, simulator.hard_reset):
        run_short(simulator)
        reset()
        run_short(simulator)


def test_reset_by_pin_ends_work_in_flight(simulator: Simulator) -> None:
    simulator.set_memory({"check_bounds": 0, "hang": 1})
    simulator.write_register("RING_TAIL", 1)
    simulator.set_memory({"hang": 0})
    simulator.hard_reset()
    run_short(simulator)


def test_other_device_than_configured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = plain(2, 2)
    executable = "brownout.cosim.simulator.build_simulator"
    path = build_simulator(CONFIG)
    monkeypatch.setattr(executable, lambda *args, **kwargs: path)
    with pytest.raises(ProtocolError, match=r"^register CONFIG_HASH reads 0x[0-9a-f]{8}, the configuration has 0x"):
        Simulator(other, deadline_s=60)


def test_close_is_idempotent_and_leaves_nothing() -> None:
    build_simulator(CONFIG)  # which stays in use
    files_before = set(os.listdir("/dev/shm"))
    descriptors_before = len(os.listdir("/proc/self/fd"))
    simulator = Simulator(CONFIG, deadline_s=60)
    pid, log = simulator.pid, simulator.log
    assert pid is not None
    assert log is not None
    run_short(simulator)
    simulator.close()
    simulator.close()
    assert not alive(pid)
    assert not log.exists()
    del simulator
    assert set(os.listdir("/dev/shm")) == files_before
    assert len(os.listdir("/proc/self/fd")) <= descriptors_before + 1  # the mapping's own, until it is collected


def test_arrays_on_the_memory_outlive_the_simulator() -> None:
    with Simulator(CONFIG, deadline_s=60) as simulator:
        memory = memory_array(simulator)
        memory[5] = 7
    assert memory[5] == 7


def test_memory_path_opens_the_same_memory(simulator: Simulator) -> None:
    memory_array(simulator)[1000] = 42
    mapped = np.memmap(simulator.memory_path, np.uint8, mode="r+")
    assert mapped[1000] == 42
    assert mapped.size == CONFIG.memory.size_bytes


def test_simulator_started_in_a_thread_that_has_ended_lives_on() -> None:
    opened: list[Simulator] = []
    thread = threading.Thread(target=lambda: opened.append(Simulator(CONFIG, deadline_s=60)))
    thread.start()
    thread.join()
    with opened[0] as simulator:
        time.sleep(0.1)
        run_short(simulator)


@pytest.mark.parametrize("state", ["idle", "running", "stopped"])
def test_simulator_ends_when_its_host_is_killed(tmp_path: Path, state: str) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, sys, threading
        sys.path[:0] = {sys.path!r}
        from brownout.cosim import Simulator
        from brownout.hw.config import AcceleratorConfig
        config = AcceleratorConfig.from_dict({CONFIG.to_dict()!r})
        simulator = Simulator(config, check_axi=False, build_root=os.environ["ROOT"])
        commands = [bytes.fromhex(word) for word in sys.stdin.readline().split()]
        print(simulator.pid, flush=True)
        if {state!r} == "stopped":
            os.kill(simulator.pid, signal.SIGSTOP)
        if {state!r} == "running":
            simulator.run(commands)
        threading.Event().wait()
        """
    )
    root = os.environ.get("BROWNOUT_BUILD", "build")
    host = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROOT": root},
    )
    assert host.stdin is not None
    assert host.stdout is not None
    host.stdin.write(" ".join(command.hex() for command in endless_commands()) + "\n")
    host.stdin.flush()
    pid = int(host.stdout.readline())
    time.sleep(0.2)
    assert alive(pid)
    host.kill()
    host.wait()
    assert wait_until_gone(pid)


def test_waves_show_the_clock_at_its_period(tmp_path: Path) -> None:
    waves = tmp_path / "waves.vcd"
    with Simulator(plain(2, 2), waves=waves, deadline_s=60) as simulator:
        simulator.read_register("ID")
    text = waves.read_text()
    assert "$timescale 1ps" in text
    found = re.search(r"\$var wire +1 (\S+) clk ", text)
    assert found is not None
    time_ps, rises = 0, []
    for line in text.splitlines():
        if line.startswith("#"):
            time_ps = int(line[1:])
        elif line == f"1{found[1]}":
            rises.append(time_ps)
    assert rises[:4] == [250, 750, 1250, 1750]

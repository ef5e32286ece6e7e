"""A simulated accelerator: its memory, its command ring and its registers, behind one context manager."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from brownout.hw.commands import COMMAND_BYTES, ErrorCause, Opcode, PlainCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.registers import (
    ID_WORD,
    INTERFACE_VERSION,
    OFFSETS,
    RETIRED_MODULUS,
    STATUS_BUSY,
    STATUS_DRAINING,
    counters,
)

from .build import build_simulator
from .cache import build_root as resolve_build_root
from .descriptors import reserve_standard_descriptors
from .dram import StallConfig, settings_text, timing_settings
from .errors import AxiViolation, CommandError, ProtocolError, SimulatorDied
from .ownership import ProcessLock, address_of, cut_off_in_children, make_private
from .process import SimulatorProcess
from .waves import wave_name

RING_BYTES = 1 << 16
"""The command ring takes the last 64 KiB of memory, or the last quarter of a memory smaller than 256 KiB."""

_SOFT_RESET_POLLS = 10_000


def ring_bytes(memory_bytes: int) -> int:
    """Size of the command ring at the top of a memory of `memory_bytes`."""
    return min(RING_BYTES, memory_bytes // 4)


class Simulator:
    """A simulator process that runs the RTL of one accelerator.

    Memory is shared with the process: what is written to `memory` is there for the next command, and results are there
    when `run` returns. The process ends with this object or with this Python, whatever happens first. After
    `SimulatorDied` or `SimulatorTimeout` the object can be revived by `restart`.

    Calls from several threads are served one after another; where their operands are in memory is theirs to agree on.
    `close` lets a call of another thread end, which after a few seconds gets `SimulatorDied`.

    A process that is forked from this one cannot use the object: its calls raise `ForkedProcessError`, `close` does
    nothing there, and what it writes to `memory` stays in it.

    Parameters
    ----------
    config : AcceleratorConfig
        What to simulate; its simulator is built if it has not been yet.
    waves : Path, optional
        Wave file to write, anew at every `restart`; costs much speed and disk. Its name ends in ``.vcd``, or in
        ``.fst`` for the smaller format, which needs Debian's package liblz4-dev.
    stalls : StallConfig, optional
        Random back-pressure of the memory.
    check_axi : bool
        Whether every AXI transfer is checked; a violation raises `AxiViolation` from the call that caused it.
    deadline_s : float
        Longest wall-clock wait for any one answer.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Attributes
    ----------
    memory : mmap.mmap
        All of the memory, writable and without copies (``numpy.frombuffer``, ``torch.frombuffer``).
    memory_fd : int
        Open file behind `memory`.
    ring_base : int
        Address of the command ring, `ring_bytes` of it.
    usable_bytes : int
        Memory below the ring, free for data.

    Raises
    ------
    ValueError
        The name of `waves` ends in neither.
    MissingPackageError
        A library that writes `waves` is missing.
    BuildError, SimulatorDied, SimulatorTimeout
        No simulator could be built or started.
    ProtocolError
        The device is not what `config` describes.
    ForkedProcessError
        From any call in a forked process.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        *,
        waves: Path | None = None,
        stalls: StallConfig | None = None,
        check_axi: bool = True,
        deadline_s: float = 120,
        build_root: Path | str | None = None,
    ) -> None:
        self.config = config
        self._waves = waves
        self._deadline_s = deadline_s
        self._root = resolve_build_root(build_root)
        # Ring, tail and the reply belong together.
        self._lock = ProcessLock("this simulator", "open another Simulator in this process")
        self._process: SimulatorProcess | None = None
        # Before the memory, which may be large.
        self._build()
        size = config.memory.size_bytes
        settings: dict[str, int | str | Path] = {"size_bytes": size, **timing_settings(config.memory)}
        if stalls is not None:
            settings |= stalls.settings()
        self._settings = settings_text({**settings, "check_axi": int(check_axi)})
        self.ring_bytes = ring_bytes(size)
        self.usable_bytes = size - self.ring_bytes
        self.ring_base = self.usable_bytes
        self._entries = self.ring_bytes // COMMAND_BYTES
        self._tail = self._retired = 0
        # Whether the doorbell was rung by hand: what is under way then is not known.
        self._rung = False
        reserve_standard_descriptors()
        # The file has no name, so nothing is left of it once both processes are gone.
        self.memory_fd = os.memfd_create("brownout-dram")
        self.memory: mmap.mmap = None  # type: ignore[assignment]
        try:
            os.ftruncate(self.memory_fd, size)
            self.memory = mmap.mmap(self.memory_fd, size)
            self._address = address_of(self.memory)
            cut_off_in_children(self)
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def memory_path(self) -> Path:
        """Path under which this process can open the memory file while the simulator is open."""
        return Path(f"/proc/{os.getpid()}/fd/{self.memory_fd}")

    @property
    def log(self) -> Path | None:
        """Log file of the current process, None when closed; removed when the process ends in order."""
        return self._process.log if self._process is not None else None

    @property
    def pid(self) -> int | None:
        """Process identifier of the simulator, None when there is none."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _build(self) -> Path:
        waves = None if self._waves is None else wave_name(self._waves)
        return build_simulator(self.config, "server", waves=waves, build_root=self._root)

    def _open(self) -> None:
        self._process = SimulatorProcess(
            self._build(),
            memory_fd=self.memory_fd,
            settings=self._settings,
            waves=self._waves,
            logs=self._root / "logs",
            deadline_s=self._deadline_s,
        )
        self._identify()
        self._program_ring()

    def _identify(self) -> None:
        config = self.config
        expected = {
            "ID": ID_WORD,
            "VERSION": INTERFACE_VERSION,
            "CONFIG_HASH": config.hash_word,
            "DIMENSIONS": config.rows | config.cols << 16,
        }
        values = self._request(op="read", addresses=[OFFSETS[name] for name in expected])["values"]
        for (name, wanted), value in zip(expected.items(), values, strict=True):
            if value != wanted:
                message = f"register {name} reads 0x{value:08x}, the configuration has 0x{wanted:08x}"
                raise ProtocolError(message, self.log)

    def _program_ring(self) -> None:
        base = self.ring_base
        values = {"RING_BASE_LO": base & 0xFFFFFFFF, "RING_BASE_HI": base >> 32, "RING_ENTRIES": self._entries}
        self._request(op="write", pairs=[(OFFSETS[name], value) for name, value in values.items()])
        addresses = [OFFSETS["RING_HEAD"], OFFSETS["RETIRED"]]
        self._tail, self._retired = self._request(op="read", addresses=addresses)["values"]
        self._rung = False

    def _exchange(self, deadline_s: float | None = None, **message: Any) -> dict[str, Any]:
        """Send a request and return its reply, whatever it says."""
        with self._lock:
            if self._process is None or not self._process.alive:
                log = self._process.log if self._process is not None else None
                raise SimulatorDied("the simulator is not running; restart() starts another one", log)
            return self._process.request(message, deadline_s or self._deadline_s)

    def _check(self, op: str, reply: Mapping[str, Any]) -> None:
        if violation := reply.get("axi_violation"):
            raise AxiViolation(str(violation), self.log)
        if failed := reply.get("failed"):
            raise ProtocolError(f"request {op!r} failed in the simulator: {failed}", self.log)

    def _request(self, *, op: str, **message: Any) -> dict[str, Any]:
        reply = self._exchange(op=op, **message)
        self._check(op, reply)
        return reply

    def run(self, commands: Sequence[bytes], *, deadline_s: float | None = None) -> None:
        """Run commands to completion, in order.

        Parameters
        ----------
        commands : sequence of bytes
            Encoded commands, `COMMAND_BYTES` each (`brownout.hw.commands.GemmCommand.encode`).
        deadline_s : float, optional
            Instead of the simulator's deadline, for each ring-full of commands.

        Raises
        ------
        CommandError
            A command failed; those before it are complete, those after it were not started, and the ring is clear.
        AxiViolation, SimulatorDied, SimulatorTimeout, ProtocolError
        """
        for command in commands:
            if len(command) != COMMAND_BYTES:
                raise ValueError(f"a command is {COMMAND_BYTES} bytes, not {len(command)}")
        at_once = self._entries - 1  # a full ring would look like an empty one
        with self._lock:
            if self._rung:
                raise ProtocolError("RING_TAIL was written by hand; call soft_reset() or hard_reset() first", self.log)
            for start in range(0, len(commands), at_once):
                part = commands[start : start + at_once]
                for i, command in enumerate(part):
                    address = self.ring_base + (self._tail + i) % self._entries * COMMAND_BYTES
                    self.memory[address : address + COMMAND_BYTES] = command
                self._ring(len(part), start, deadline_s)

    def _ring(self, count: int, first_index: int = 0, deadline_s: float | None = None) -> None:
        """Let the device run the next `count` commands of the ring; the first is number `first_index` of a call."""
        first_entry = self._tail
        tail = (first_entry + count) % self._entries
        reply = self._exchange(deadline_s, op="run", tail=tail, bus_bytes=self.config.bus_bytes)
        if "retired" not in reply:
            # What it has done of the ring is not known.
            self._kill()
            self._check("run", reply)
            self._refuse("not said how many commands it has completed")
        # The ring may have stopped at a command: where it goes on has to be known whatever is raised about it.
        self._tail = reply.get("head", tail)
        expected, self._retired = self._retired, reply["retired"]
        if reply["began"] != expected:
            unknown = (reply["began"] - expected) % RETIRED_MODULUS
            self._refuse(f"completed {unknown} commands of which this object does not know")
        failed = "error_cause" in reply
        succeeded = (reply["error_index"] - first_entry) % self._entries if failed else count
        if reply["completed"] != succeeded or (failed and succeeded >= count):
            done = reply["completed"]
            self._refuse(f"completed {done} commands, where {succeeded} of {count} are said to have succeeded")
        self._check("run", reply)
        if failed:
            raise CommandError(ErrorCause(reply["error_cause"]), first_index + succeeded, self.log)

    def _refuse(self, what: str) -> NoReturn:
        """End a device that has done something else than this object knows of."""
        self._kill()
        raise ProtocolError(f"the device has {what}; no result of it can be trusted, so it was ended", self.log)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def resume_at(self, ring_index: int, open_rows: Sequence[int | None]) -> None:
        """Bring a simulator that was just started to where another one of the same configuration was.

        The ring is brought there with fences, which are counted as commands, the memory directly. What later commands
        count is then the same as there, row activations included.

        Parameters
        ----------
        ring_index : int
            Entry of the next command in the ring.
        open_rows : sequence of int or None
            Row that is open in each bank of the memory, as in `CycleModel.open_rows`.
        """
        fence = PlainCommand(opcode=Opcode.FENCE).encode()
        with self._lock:
            self.run([fence] * ((ring_index - self._tail) % self._entries))
            self.set_memory({"row_bytes": self.config.memory.row_bytes})  # closes all rows
            for row in open_rows:
                if row is not None:
                    self.set_memory({"open_row": row})

    def read_register(self, name: str) -> int:
        """Value of a register by its name in `brownout.hw.registers`.

        Raises
        ------
        KeyError
            There is no register of that name.
        """
        return int(self._request(op="read", addresses=[OFFSETS[name]])["values"][0])

    def write_register(self, name: str, value: int) -> None:
        """Write a register by its name in `brownout.hw.registers`.

        Raises
        ------
        KeyError
            There is no register of that name.
        ValueError
            The value does not fit 32 bits.
        """
        if not 0 <= value < 1 << 32:
            raise ValueError(f"a register holds 32 bits, not {value!r}")
        with self._lock:
            self._rung = self._rung or name == "RING_TAIL"
            self._request(op="write", pairs=[(OFFSETS[name], value)])

    def counters(self, names: Collection[str] | None = None) -> dict[str, int]:
        """Counters since reset: those of `brownout.hw.registers.counters`, and ``dram_row_activations``.

        Parameters
        ----------
        names : collection of str, optional
            Which; others are left out, which saves time. By default all. Names of no counter are ignored.
        """
        wanted = {
            index: counter.name
            for index, counter in enumerate(counters(self.config))
            if names is None or counter.name in names
        }
        reply = self._request(op="counters", indices=list(wanted))
        found = dict(zip(wanted.values(), reply["values"], strict=True))
        if names is None or "dram_row_activations" in names:
            found["dram_row_activations"] = reply["row_activations"]
        return found

    def set_memory(self, settings: Mapping[str, int]) -> None:
        """Change parameters or test knobs of the memory model while no command runs; `restart` forgets them.

        Parameters
        ----------
        settings : mapping
            Values by name: those of `MemoryConfig` except the size; ``bandwidth``: bytes per cycle times 2^16, for
            fractions of a byte; ``seed`` and ``stall_aw``, ``stall_w``, ``stall_b``, ``stall_ar``, ``stall_r`` (per
            65536); ``slverr_base`` and ``slverr_limit``: accesses to bytes from base up to limit are answered with
            SLVERR; ``wrong_id_base`` and ``wrong_id_limit``: likewise with another transaction ID than theirs;
            ``hang``: while 1 nothing is accepted or answered; ``short_reads``: so many of the next read bursts of more
            than one beat end a beat early; ``surplus_r``, ``surplus_b``: so many answers come that nobody asked for,
            each when nothing else is under way on its side; ``open_row``: a row to be open, uncounted; ``check_axi``,
            ``check_bounds``: AXI checks, and among them that addresses are inside memory.
        """
        self._request(op="memory", settings=dict(settings))

    def soft_reset(self) -> None:
        """Reset the accelerator through its CONTROL register and program the ring again; memory stays.

        Returns when the bus has answered all that was under way, so that memory is not written any more.

        Raises
        ------
        ProtocolError
            The bus does not answer. The accelerator is reset all the same.
        """
        with self._lock:
            self.write_register("CONTROL", 1)
            self._wait_while(STATUS_BUSY, "the accelerator stays busy after a soft reset")
            self._program_ring()
            self._wait_while(STATUS_DRAINING, "the bus still owes answers after a soft reset")

    def _wait_while(self, status: int, otherwise: str) -> None:
        for _ in range(_SOFT_RESET_POLLS):
            if not self.read_register("STATUS") & status:
                return
        raise ProtocolError(otherwise, self.log)

    def hard_reset(self) -> None:
        """Assert the reset pin of accelerator and memory model; what was in flight is lost, memory content stays."""
        with self._lock:
            self._request(op="reset")
            self._program_ring()

    def restart(self) -> None:
        """End the simulator process, if it still runs, and start a fresh one on the same memory."""
        with self._lock:
            self._kill()
            self._open()

    def close(self) -> None:
        """End the process and release the memory. Idempotent; arrays that still use the memory keep it alive."""
        self._lock.close(self._free, self.interrupt)

    def interrupt(self) -> None:
        """End the process while another thread waits for it; its call raises `SimulatorDied`."""
        self._lock.check()
        if (process := self._process) is not None:
            process.interrupt()

    def _free(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self.memory_fd >= 0:
            # First, so that a child that is forked now does not close what another thread has opened.
            descriptor, self.memory_fd = self.memory_fd, -1
            os.close(descriptor)
            if self.memory is not None:
                with contextlib.suppress(BufferError):  # arrays still use it
                    self.memory.close()

    def cut_off(self) -> None:
        """In a forked child: what is written to memory stays there."""
        if self.memory_fd < 0:
            return
        if not self.memory.closed:
            make_private(self._address, len(self.memory), self.memory_fd)
        descriptor, self.memory_fd = self.memory_fd, -1
        os.close(descriptor)

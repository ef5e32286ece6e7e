"""Starts and ends simulator processes; none outlives its host."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import cocotb_tools.config
import find_libpython

from .build import TOP
from .descriptors import reserve_standard_descriptors
from .environment import needed_environment
from .errors import BuildFolderError, ProtocolError, SimulatorDied, SimulatorTimeout
from .link import LinkClosed, LinkGarbled, LinkTimeout, SimulatorLink
from .logs import open_simulator_log
from .ownership import ProcessLock, cut_off_in_children

# A child that asks to die with its parent dies with the *thread* that started it, and hosts use short-lived threads. So
# all simulators are started by one thread that lives as long as the process. A forked child needs one of its own.
_launcher = ThreadPoolExecutor(1, "brownout-launcher")


def _renew_launcher() -> None:
    global _launcher
    _launcher = ThreadPoolExecutor(1, "brownout-launcher")


os.register_at_fork(after_in_child=_renew_launcher)

STOP_GRACE_S = 5.0
"""How long a simulator that was told to end may take before it is killed."""


def _libpython() -> str:
    # The variable is cocotb's way out where nothing is found; elsewhere it may name the library of another Python.
    found: str | None = find_libpython.find_libpython() or os.environ.get("LIBPYTHON_LOC")
    if found is None or not Path(found).exists():
        raise ProtocolError(
            f"cannot find libpython{'' if found is None else f': {found} does not exist'}; use a Python that was built "
            "with its shared library, or name the library in the environment variable LIBPYTHON_LOC"
        )
    return found


def cocotb_environment(test_module: str, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what a simulator needs to find Python, cocotb and the test module; as cocotb's own runner sets it.

    Raises
    ------
    ProtocolError
        Python has no shared library.
    """
    libpython = _libpython()
    return {
        **base,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "COCOTB_TOPLEVEL": TOP,
        "COCOTB_TEST_MODULES": test_module,
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_RANDOM_SEED": "1",
        "COCOTB_ANSI_OUTPUT": "0",
        # cocotb lets pytest rewrite assertions, which would load all of pytest's plugins that are installed.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


class SimulatorProcess:
    """A running simulator of the ``server`` flavour, and the link to it.

    Parameters
    ----------
    executable : Path
        Simulator, as `brownout.cosim.build.build_simulator` makes it.
    memory_fd : int
        Open file that is its memory.
    settings : str
        Value of BROWNOUT_DRAM, without ``fd``.
    waves : Path or None
        Wave file to write, in the format of `executable`.
    logs : Path
        Folder for the log file; if it cannot be written, the log is among temporary files.
    deadline_s : float
        Longest wait for it to start.

    Raises
    ------
    SimulatorDied, SimulatorTimeout, ProtocolError
        It did not start.
    BuildFolderError
        The system refuses to run it, or no folder for its log can be written.
    """

    def __init__(
        self, executable: Path, *, memory_fd: int, settings: str, waves: Path | None, logs: Path, deadline_s: float
    ) -> None:
        environment = cocotb_environment("brownout.cosim.server", needed_environment())
        reserve_standard_descriptors()
        self.log, log = open_simulator_log(logs)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment |= {
            "BROWNOUT_SOCKET_FD": str(theirs.fileno()),
            "BROWNOUT_PARENT_PID": str(os.getpid()),
            "BROWNOUT_DRAM": f"fd={memory_fd},{settings}",
            "COCOTB_RESULTS_FILE": os.devnull,
            "COCOTB_REWRITE_ASSERTION_FILES": "",
        }
        if waves is not None:
            environment["BROWNOUT_WAVES"] = str(waves.resolve())
        self.link = SimulatorLink(ours)
        try:
            with log:
                self._process = _launcher.submit(
                    subprocess.Popen,
                    [str(executable)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), memory_fd),
                    # Ctrl-C is for the host, which then ends the simulator in order.
                    start_new_session=True,
                ).result()
        except OSError as error:
            ours.close()
            self.log.unlink()
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOEXEC):
                raise
            remedy = "set BROWNOUT_BUILD to a folder from which programs can be run"
            raise BuildFolderError(f"cannot run {executable}: {error.strerror}; {remedy}") from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.alive = True
        self._owner = ProcessLock("this simulator process", "start another one in this process")
        self._requests = itertools.count()
        cut_off_in_children(self)
        self.receive(deadline_s, time.monotonic())

    @property
    def pid(self) -> int:
        """Process identifier."""
        return self._process.pid

    def request(self, message: dict[str, object], deadline_s: float) -> dict[str, object]:
        """Send a request and wait for its reply.

        Raises
        ------
        SimulatorDied, SimulatorTimeout, ProtocolError
            There is no reply, or one to another request. The process is gone afterwards.
        ForkedProcessError
            Another process has started it.
        """
        self._owner.check()
        start = time.monotonic()
        # Of this process alone, should another one have got hold of the socket.
        number = [os.getpid(), next(self._requests)]
        try:
            self.link.send({**message, "number": number})
        except LinkClosed:
            self._died()
        reply = self.receive(deadline_s, start)
        if reply.get("number") != number:
            self.kill()
            other = reply.get("number")
            raise ProtocolError(f"the simulator answered request {other} instead of {number}", self.log)
        return reply

    def receive(self, deadline_s: float, start: float) -> dict[str, object]:
        """Wait for a message until `deadline_s` after `start`; exceptions as for `request`."""
        try:
            return self.link.receive(max(0.0, start + deadline_s - time.monotonic()))
        except LinkClosed:
            self._died()
        except LinkTimeout:
            self.kill()
            raise SimulatorTimeout(f"no answer from the simulator within {deadline_s:g} s", self.log) from None
        except LinkGarbled as error:
            self.kill()
            raise ProtocolError(f"the simulator answered nonsense: {error}", self.log) from error
        except BaseException:
            # Interrupted between request and reply: the next reply would be taken for the answer to something else.
            self.kill()
            raise

    def _died(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_GRACE_S)
        status = self._process.poll()
        self.kill()
        if status is None:
            how = "closed the link"
        else:
            how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
        raise SimulatorDied(f"the simulator {how}", self.log) from None

    def stop(self) -> None:
        """End it in order, so that waves are complete; then as `kill`. Its log is removed if it ended well.

        Does nothing in a forked child.
        """
        if not self.alive or self._owner.foreign:
            return
        self.link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_GRACE_S)
        if self._process.poll() == 0:
            self.log.unlink(missing_ok=True)
        self.kill()

    def cut_off(self) -> None:
        """In a forked child: let go of the socket, whose end the simulator could not see while it is open here."""
        self.link.abandon()

    def interrupt(self) -> None:
        """End it while another thread waits for its reply, which gets `SimulatorDied`."""
        if not self._owner.foreign:
            self._process.kill()

    def kill(self) -> None:
        """End it at once. Idempotent; does nothing in a forked child."""
        if self._owner.foreign:
            return
        self.alive = False
        self.link.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

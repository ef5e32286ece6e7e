"""Co-simulation: builds simulators of the accelerator, runs them, and gives testbenches their parts.

`Simulator` is the device for a program. `brownout.cosim.drivers` and `brownout.cosim.testbench` are the parts of cocotb
testbenches, which `python -m brownout.cosim.run_tests` runs.

What builds and runs simulators is imported when first used: a simulator's own Python, which has to start with each of
them, does neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .dram import StallConfig
from .errors import (
    AxiViolation,
    BuildError,
    CommandError,
    ForkedProcessError,
    ProtocolError,
    SimulatorDied,
    SimulatorError,
    SimulatorTimeout,
)

if TYPE_CHECKING:
    from .build import build_simulator
    from .simulator import RING_BYTES, Simulator
    from .verilated import CLOCK_PERIOD_PS

_HOME = {
    "CLOCK_PERIOD_PS": "verilated",
    "RING_BYTES": "simulator",
    "Simulator": "simulator",
    "build_simulator": "build",
}

__all__ = [
    "CLOCK_PERIOD_PS",
    "RING_BYTES",
    "AxiViolation",
    "BuildError",
    "CommandError",
    "ForkedProcessError",
    "ProtocolError",
    "Simulator",
    "SimulatorDied",
    "SimulatorError",
    "SimulatorTimeout",
    "StallConfig",
    "build_simulator",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

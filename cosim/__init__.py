"""Co-simulation: builds simulators of the accelerator, runs them, and gives testbenches their parts.

`Simulator` is the device for a program. `brownout.cosim.drivers` and `brownout.cosim.testbench` are the parts of cocotb
testbenches, which `python -m brownout.cosim.run_tests` runs.
"""

from .build import build_simulator
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
from .simulator import RING_BYTES, Simulator
from .verilated import CLOCK_PERIOD_PS

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

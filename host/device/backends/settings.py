"""What a device has been told, and has to be told again when it is started anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.dram import MemoryTiming
from brownout.hw.commands import SetErrorsCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import ErrorState, check_columns

from ...storage.decoding import Count, Form, Uint32, check
from ...storage.state import State


@dataclass(frozen=True)
class _Values:
    """State of the device, without carry lengths."""

    errors: tuple[Uint32, list[Uint32], list[Uint32]] | None
    moves: list[tuple[Count, Count, Count]]
    memory_timing: tuple[Count, Count] | None
    ring_index: Count
    open_rows: list[Count | None]


class DeviceSettings:
    """Errors, operating points and memory timing of one device; each backend keeps its own.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.

    Attributes
    ----------
    errors : ErrorState
        What `set_errors` and `move` have left.
    errors_set : bool
        Whether `set_errors` has been called.
    moves : dict
        Arguments of the last `move` of each voltage domain, in the order in which domains were first moved.
    memory_timing : MemoryTiming or None
        None: that of the configuration.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self.errors = ErrorState()
        self.errors_set = False
        self.moves: dict[int, tuple[int, int, NDArray[np.uint8] | None]] = {}
        self.memory_timing: MemoryTiming | None = None

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        """As `Backend.set_errors`."""
        self.errors.seed, self.errors.rates, self.errors.bits = seed, rates, bits
        self.errors_set = True

    def move(self, domain: int, point: int, transition_cycles: int, lengths: NDArray[np.uint8] | None) -> None:
        """As `Backend.set_point`."""
        self.errors.move(self._config, domain, point, lengths)
        self.moves[domain] = (point, transition_cycles, lengths)

    @property
    def errors_command(self) -> SetErrorsCommand:
        """What tells a device of `errors`, without the points of its domains."""
        return SetErrorsCommand(seed=self.errors.seed, rates=self.errors.rates, bits=self.errors.bits)

    def state(self, ring_index: int, open_rows: Sequence[int | None]) -> State:
        """As `Backend.state`, of a device in this place."""
        errors, timing = self.errors, self.memory_timing
        lengths = {str(domain): move[2] for domain, move in self.moves.items() if move[2] is not None}
        return State(
            {
                "errors": [errors.seed, list(errors.rates), list(errors.bits)] if self.errors_set else None,
                "moves": [[domain, point, cycles] for domain, (point, cycles, _) in self.moves.items()],
                "memory_timing": None if timing is None else [timing.latency_cycles, timing.bandwidth],
                "ring_index": ring_index,
                "open_rows": open_rows,
            },
            {domain: torch.from_numpy(table) for domain, table in lengths.items()},
        )

    @classmethod
    def load(cls, config: AcceleratorConfig, state: State) -> Self:
        """Those of a state; its place is checked too.

        Raises
        ------
        ValueError
            It is that of another accelerator, or no state.
        """
        values, made = state.values, cls(config)
        check(values, _Values, "the state of the device")
        form = Form(torch.uint8, (config.rows, config.cols + check_columns(config)))
        for name, tensor in state.tensors.items():
            form.check(name, tensor, "the state of the device")
        if any(domain > config.check_domain for domain, _, _ in values["moves"]):
            raise ValueError(f"the state moves domains of {values['moves']}, which this accelerator has not")
        if values["errors"] is not None:
            seed, rates, bits = values["errors"]
            made.set_errors(seed, tuple(rates), tuple(bits))
        for domain, point, cycles in values["moves"]:
            table = state.tensors.get(str(domain))
            made.move(domain, point, cycles, None if table is None else table.numpy())
        timing = values["memory_timing"]
        made.memory_timing = None if timing is None else MemoryTiming(*timing)
        return made

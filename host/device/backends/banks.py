"""Where in the banks of the DRAM an output begins, so that writing it closes few rows that are being read."""

from __future__ import annotations

from dataclasses import replace

from brownout.cosim.cycle_model import CycleModel
from brownout.hw.commands import CHANNEL_RECORD_BYTES, GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig

from .arena import PAGE_BYTES, round_up

CANDIDATES = 4
"""Places in a turn of the banks that are tried."""

SHAPING = GemmFlag.CHANNEL | GemmFlag.REQUANT | GemmFlag.INT16 | GemmFlag.CHECK
"""Flags on which the time depends in which what is read and written."""


class OutputPlaces:
    """Asks the cycle model, once for each shape of product.

    Writes of a block run beside reads for the next one, and the memory serves them by turns. While both are in one
    bank, every beat opens a row; whether and for how long they are depends on the shape alone, as long as operands lie
    to each other as before.

    Parameters
    ----------
    config : AcceleratorConfig
        Of the products; its memory's timing is that at the nominal clock.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._turn_bytes = config.memory.banks * config.memory.row_bytes
        self._banks = config.memory.banks
        self._model = CycleModel(config)
        self._known: dict[tuple[int, ...], int] = {}

    def distance(self, command: GemmCommand) -> int:
        """Bytes, modulo a turn of the banks, from the first one of A to the first one of Y; whole pages.

        `command` may have any addresses: W is taken to begin half a turn from A.
        """
        flags = int(command.flags & SHAPING)
        key = (command.batch, command.m, command.n, command.k, flags)
        if key not in self._known:
            step = self._turn_bytes // CANDIDATES
            distances = [round_up(step * index, PAGE_BYTES) for index in range(CANDIDATES)]
            self._known[key] = min(distances, key=lambda distance: self._activations(command, distance))
        return self._known[key]

    def _activations(self, command: GemmCommand, distance: int) -> int:
        turn = self._turn_bytes
        w_addr = round_up(command.batch * command.m * command.lda, turn) + round_up(turn // 2, PAGE_BYTES)
        table = w_addr + command.batch * command.k * command.ldw
        y_addr = round_up(table + command.n * CHANNEL_RECORD_BYTES, max(turn, PAGE_BYTES)) + distance
        has_table = bool(command.flags & GemmFlag.CHANNEL)
        placed = replace(
            command, a_addr=0, w_addr=w_addr, y_addr=y_addr, channel_addr=table if has_table else 0, log_bytes=0
        )
        self._model.open_rows = [None] * self._banks
        return self._model.run([placed])["dram_row_activations"]

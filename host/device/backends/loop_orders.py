"""Which loop order a product is computed in: the one that the cycle model and the energy model find cheapest."""

from __future__ import annotations

from dataclasses import replace

from brownout.cosim.cycle_model import CycleModel
from brownout.hw.commands import CHANNEL_RECORD_BYTES, GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import keeps

from ..power.energy import EnergyMeter, EnergyModel
from ..product.operands import GemmShape
from .arena import PAGE_BYTES, round_up
from .shaped_command import LoopOrder, Matrices, shaped_command

LOOP_ORDERS = ("searched", "fixed")
"""Of every product the cheapest order, or the configuration's blocks with activations read for each of them."""

AS_CONFIGURED = LoopOrder()

MOST_MORE_PIECES = 2
"""Beyond the fewest rows of blocks that can be kept, so many more are tried, and twice as many."""

SHAPING = GemmFlag.CHANNEL | GemmFlag.REQUANT | GemmFlag.INT16 | GemmFlag.CHECK
"""Flags on which time depends."""

_chosen: dict[tuple[AcceleratorConfig, bool, GemmShape, int, int], LoopOrder] = {}
"""What has been found, by accelerator, layout and product: of all devices of the process, which find the same."""


def candidates(config: AcceleratorConfig, shape: GemmShape) -> tuple[LoopOrder, ...]:
    """Orders that are worth a look, the configuration's own first.

    Only that one where activations cannot be kept, or are read once anyway.
    """
    block_cols = config.block_col_tiles * config.cols
    k_tiles = -(-shape.k // config.rows)
    group = 1 if config.checksum is None or not config.group_count else config.checksum.group_rows
    most = min(config.block_rows, config.activation_vectors // k_tiles)
    if not config.keeps_activations or shape.n <= block_cols or (most < group and most < shape.m):
        return (AS_CONFIGURED,)
    found = [AS_CONFIGURED]
    fewest = -(-shape.m // most)
    for pieces in sorted({*range(fewest, fewest + MOST_MORE_PIECES + 1), 2 * fewest}):
        rows = -(-shape.m // pieces)
        rows = min(rows + -rows % group, config.block_rows)
        order = LoopOrder(rows, keep=True)
        if keeps(config, shape.m, shape.k, rows) and order not in found:
            found.append(order)
    return tuple(found)


class LoopOrders:
    """Asks the cycle model, once for each shape of product.

    The cheapest order is that of the least energy times time, at the nominal point and on the reference technology
    (`EnergyModel`). Energy alone would take a slow order for a small saving.

    Parameters
    ----------
    matrices : Matrices
        How matrices lie in memory.
    search : bool
        Whether to look for another order than the configuration's.
    """

    def __init__(self, matrices: Matrices, *, search: bool) -> None:
        self._matrices, self._config = matrices, matrices.config
        self._search = search and matrices.config.keeps_activations
        self._model: CycleModel | None = None

    def of(self, shape: GemmShape, item_bytes: int, flags: int) -> LoopOrder:
        """Order of products of a shape.

        Parameters
        ----------
        shape : GemmShape
            Extents.
        item_bytes : int
            Bytes of an element of the output.
        flags : int
            `GemmFlag` bits of the command.
        """
        if not self._search:
            return AS_CONFIGURED
        shaping = int(flags & SHAPING)
        key = (self._config, self._matrices.tiled, shape, item_bytes, shaping)
        if key not in _chosen:
            orders = candidates(self._config, shape)
            costs = [0.0]
            if len(orders) > 1:
                costs = [self.cost(shaped_command(self._matrices, each, shape, item_bytes, shaping)) for each in orders]
            _chosen[key] = orders[costs.index(min(costs))]
        return _chosen[key]

    def cost(self, command: GemmCommand) -> float:
        """Energy times time of a command whose operands lie behind each other, in J s."""
        config = self._config
        if self._model is None:
            self._model = CycleModel(config)
        # Nothing of what was priced before.
        self._model.open_rows, self._model.ring_index = [None] * config.memory.banks, 0
        turn = config.memory.banks * config.memory.row_bytes
        half = round_up(turn // 2, PAGE_BYTES)
        w_addr = round_up(round_up(command.batch * command.m * command.lda, turn), PAGE_BYTES) + half
        table = w_addr + command.batch * command.k * command.ldw
        y_addr = round_up(round_up(table + command.n * CHANNEL_RECORD_BYTES, turn), PAGE_BYTES)
        channel_addr = table if command.flags & GemmFlag.CHANNEL else 0
        counters = self._model.run([replace(command, w_addr=w_addr, y_addr=y_addr, channel_addr=channel_addr)])
        counters["dram_bytes"] = counters["dram_read_bytes"] + counters["dram_write_bytes"]
        total = EnergyMeter(config, EnergyModel()).totals(counters)
        return total["energy_j"] * total["time_s"]

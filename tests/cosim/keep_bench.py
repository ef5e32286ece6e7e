"""A simulator of an accelerator that can keep activations, and what its products have to come to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from brownout.cosim import Simulator
from brownout.cosim.attention_case import AttentionCase
from brownout.cosim.cycle_model import CycleModel, Found
from brownout.cosim.reference.attention import AttentionScales, reference_attention
from brownout.cosim.reference.gemm import reference_gemm
from brownout.cosim.reference.golden import ChannelTable
from brownout.cosim.reference.result import ReferenceResult, SegmentOutcome
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import GemmCommand, GemmFlag, SetErrorsCommand, SetPointCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.tiling import blocks, with_block_rows

from .conftest import memory_array
from .gemm_cases import random_int8

CHECK, SUPPRESS = GemmFlag.CHECK, GemmFlag.SUPPRESS
NOTHING = GemmFlag(0)
UNWRITTEN = 0x5A
SCALES = AttentionScales(score_mult=40_000, score_shift=23, out_scale=127 << 20, out_shift=21)


def flagged_of_blocks(config: AcceleratorConfig, result: ReferenceResult) -> NDArray[np.uint64]:
    """Flagged segments of each block of `config`."""
    batch, m, n = result.sums.shape
    return np.array(
        [
            (
                result.outcome[
                    block.batch,
                    block.first_row : block.first_row + block.rows,
                    block.first_col_tile : block.first_col_tile + block.col_tiles,
                ]
                != SegmentOutcome.NOT_FLAGGED
            ).sum()
            for block in blocks(config, m, n, batch)
        ],
        np.uint64,
    )


class KeepBench:
    """Runs products on the RTL, the reference and both kinds of cycle model, and compares all there is.

    Parameters
    ----------
    config : AcceleratorConfig
        One with `activation_vectors`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.simulator = Simulator(config, deadline_s=120)
        self.models = [CycleModel(config), CycleModel(config, step=True)]
        self.errors = ErrorState()

    def set_rate(self, seed: int, rate: int) -> None:
        command = SetErrorsCommand(seed=seed, rates=(rate,))
        self._settings(command)
        self.errors = ErrorState(seed=seed, rates=(rate,))

    def set_lengths(self, lengths: NDArray[np.uint8]) -> None:
        """Settled carry lengths of all domains."""
        stride = self.config.bus_bytes
        table = np.lib.stride_tricks.as_strided(memory_array(self.simulator)[4096:], lengths.shape, (stride, 1))
        table[:] = lengths
        for domain in range(self.config.domains):
            self._settings(
                SetPointCommand(
                    domain=domain,
                    point=0,
                    lengths_addr=4096,
                    lengths_stride=stride,
                    read_base=4096,
                    read_limit=8192,
                )
            )
            self.errors.move(self.config, domain, 0, lengths)

    def _settings(self, command: SetErrorsCommand | SetPointCommand) -> None:
        self.simulator.run([command.encode()])
        for model in self.models:
            model.run([command])

    def run(
        self,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        *,
        block_rows: int = 0,
        keep: bool = True,
        flags: GemmFlag = NOTHING,
        tiled: GemmFlag = NOTHING,
        channels: ChannelTable | None = None,
        requantise: bool = False,
        row_padding: int = 0,
        log_bytes: int = 0,
        **fields: int,
    ) -> tuple[ReferenceResult, Mapping[str, int]]:
        """What the reference says, which is what was found, and what the command added to the counters."""
        cut = with_block_rows(self.config, block_rows)
        case = GemmCase(
            *(self.config, a, w),
            channels=channels,
            requantise=requantise,
            base=8192,
            row_padding=row_padding,
            tiled=int(tiled),
            block_rows=block_rows,
            keep=keep,
        )
        memory = memory_array(self.simulator)
        case.write(memory)
        previous = np.zeros_like(case.result(memory)) + 3
        case.fill_output(memory, previous)
        plain = case.command()
        log_at = case.end + -case.end % self.config.bus_bytes
        memory[log_at : log_at + log_bytes] = UNWRITTEN
        if log_bytes:
            log_end = log_at + log_bytes
            limit = log_end + -log_end % self.config.bus_bytes
            fields |= {"log_addr": log_at, "log_bytes": log_bytes, "write_limit": limit}
        command = case.command(flags=int(plain.flags | flags), **fields)
        gained = self._execute(command)
        result = reference_gemm(
            *(cut, a, w),
            options=CommandOptions(
                flags=flags,
                error_key=command.error_key,
                first_row=command.first_row,
                first_col=command.first_col,
                theta=command.theta,
                log_bytes=log_bytes,
            ),
            errors=self.errors,
            channels=channels,
            requantise=requantise,
            previous=previous,
        )
        assert np.array_equal(case.result(memory), result.output)
        if not self.errors.rates and not self.config.error_model.settles:
            case.check(memory)
        case.check_around(memory)
        log = memory[log_at : log_at + log_bytes].tobytes()
        assert log == result.log + bytes([UNWRITTEN]) * (log_bytes - len(result.log))
        assert {name: gained[name] for name in result.counters if name in gained} == {
            name: value for name, value in result.counters.items() if name in gained
        }
        kept = np.flatnonzero(result.uncorrectable) if flags & SUPPRESS else np.zeros(0)
        found = Found(flagged_of_blocks(cut, result), kept.astype(np.uint64)) if flags & CHECK else None
        for model in self.models:
            counted = model.run([command], [found])
            assert counted == {name: gained[name] for name in counted}
        return result, gained

    def _execute(self, command: GemmCommand) -> dict[str, int]:
        before = self.simulator.counters()
        self.simulator.run([command.encode()])
        return {name: value - before[name] for name, value in self.simulator.counters().items()}

    def attend(self, seed: int) -> None:
        """Attention still is what it was, wherever products have left the ring."""
        rng = np.random.default_rng(seed)
        width, columns = self.config.slab_k_tiles * self.config.rows, self.config.cols
        q, k, v = (random_int8(rng, 2, *shape) for shape in ((11, width - 1), (9, width - 1), (9, columns)))
        case = AttentionCase(self.config, q, k, v, SCALES, base=8192)
        memory = memory_array(self.simulator)
        case.write(memory)
        command = case.command()
        before = self.simulator.counters()
        self.simulator.run([command.encode()])
        gained = {name: value - before[name] for name, value in self.simulator.counters().items()}
        wanted = reference_attention(
            *(self.config, q, k, v),
            scales=SCALES,
            block_rows=case.block_rows,
            options=CommandOptions(),
            value_error_key=0,
            value_theta=0,
            errors=self.errors,
        )
        case.check(memory, wanted.output, wanted.log)
        for model in self.models:
            counted = model.run([command])
            assert counted == {name: gained[name] for name in counted}

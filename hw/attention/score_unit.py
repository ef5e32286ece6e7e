"""Turns a block of scores into rows of exponentials, and their sums into output scales."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..array.tag import accumulator_depth
from ..block_walker import BlockWalker
from ..checks.check_row import widths
from ..config import ACC_BITS, DIMENSION_BITS, AcceleratorConfig
from ..depths import BUFFERS
from ..params import EXPONENT_STEPS, K_BITS, SCORE_BITS, SCORE_MULT_BITS, params_layout
from .depths import CORRECTOR_STAGES, DIVIDER_STAGES, LEAST_ROWS, exponential_depth, exponential_latency
from .divider import QUOTIENT_BITS, SUM_BITS, Divider
from .exponential import EXPONENT_BITS, Exponential, ranked
from .score_corrector import ScoreCorrector, score_increments_layout

RANK_BITS = SCORE_BITS + 1


def scale_depth(config: AcceleratorConfig) -> int:
    """Divided output scales: [buffer][row]."""
    return BUFFERS * config.block_rows


class ScoreUnit(wiring.Component):
    """Passes twice over the scores of a block, a row of a column tile in every cycle.

    The first pass finds the largest score of each row, the second writes exponentials and sums them up. Both see scores
    that were corrected. Where heads have one k-tile, scores of a column tile are final after one pass of the array,
    which reads nothing from their bank: then the first pass follows the array tile by tile. Otherwise it begins when
    all scores are there. What they do for a row of a column tile is a pipeline without stalls; a column tile takes at
    least `LEAST_ROWS` cycles, so that a row's largest score and sum are there when its next tile comes.

    Members
    -------
    params, start : as of the other engines
    scores_done, score_tile_done : pulses, all scores of a block, of a pass of the array are stored
    score_enable, score_address, score_row : read port of the bank of scores
    score_syndromes : of the row checker, likewise; with checksum units
    write_enable, write_address, write_row : rows of exponentials, C bytes
    exponentials_ready : pulse, a column tile of them is there
    scales_ready : pulse, the output scales of a block are there
    scale_address, scale_enable, scale : read port of output scales
    increments : `score_increments_layout`; with checksum units
    moving : a pass is under way
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        protection: dict[str, object] = {}
        if config.checksum is not None:
            protection = {
                "score_syndromes": In(sum(widths(config))),
                "increments": Out(score_increments_layout(config)),
            }
        super().__init__(
            {
                "params": In(params_layout(config)),
                "start": In(1),
                "scores_done": In(1),
                "score_tile_done": In(1),
                "score_enable": Out(1),
                "score_address": Out(range(accumulator_depth(config))),
                "score_row": In(ACC_BITS * config.cols),
                "write_enable": Out(1),
                "write_address": Out(range(exponential_depth(config))),
                "write_row": Out(8 * config.cols),
                "exponentials_ready": Out(1),
                "scales_ready": Out(1),
                "scale_address": In(range(scale_depth(config))),
                "scale_enable": In(1),
                "scale": Out(QUOTIENT_BITS),
                "moving": Out(1),
                **protection,
            }
        )

    def _tag_layout(self) -> data.StructLayout:
        """Of a row of a column tile.

        Whether it is there, in the second pass, of the first or last tile, the block's last row, the tile's last
        position; its place; its columns inside the scores, and those up to the query's own place.
        """
        config = self.config
        return data.StructLayout(
            {
                "valid": 1,
                "second": 1,
                "first_tile": 1,
                "last_tile": 1,
                "last_row": 1,
                "tile_end": 1,
                "row": range(config.block_rows + 1),
                "address": range(exponential_depth(config)),
                "parity": 1,
                "cols": range(config.cols + 1),
                "counted": range(config.cols + 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        issued = Signal(self._tag_layout())
        self._issue(m, issued)
        tags = [issued]
        for stage in range(1, exponential_latency(config) + 2):
            tag = Signal(self._tag_layout(), name=f"tag_{stage}")
            m.d.sync += tag.eq(tags[-1])
            tags.append(tag)
        row, marked, at = self._corrected(m, tags)
        scores, counts = self._scaled(m, row, marked, tags[at])
        # Two cycles after the sums: logarithms, the largest of the row before this tile, and what follows from them.
        self._largest(m, scores, counts, tags[at + 1 : at + 4])
        self._exponentials(m, scores, counts, tags[at + 2 :])
        return m

    def _issue(self, m: Module, tag: data.View) -> None:
        """Walk the blocks, twice over each: column tile by column tile, row by row."""
        config, params = self.config, self.params
        m.submodules.walker = walker = BlockWalker(config)
        walker.walk(m, params)
        waiting = Signal()
        tiles_waiting = Signal(range(exponential_depth(config) + 1))
        follows = Signal()  # the array, tile by tile
        here = Signal()  # scores of the position are
        taken = Signal()
        second = Signal()
        row = Signal(range(config.block_rows + 1))
        position = Signal(range(max(config.block_rows, LEAST_ROWS) + 1))
        positions = Signal.like(position)
        left = Signal(K_BITS)  # keys from the tile on
        first_tile = Signal()
        last_tile = Signal()
        base = Signal(range(accumulator_depth(config) + config.block_rows))
        query = Signal(DIMENSION_BITS)  # of the block's first row, in its head
        key = Signal(K_BITS)  # of the tile's first column
        parity = Signal()
        cols = Signal(range(config.cols + 1))
        before = Signal(signed(DIMENSION_BITS + 2))  # keys of the tile up to the query's own place
        end = Signal()
        m.d.comb += [
            walker.start.eq(self.start & params.attention),
            positions.eq(Mux(walker.rows < LEAST_ROWS, LEAST_ROWS, walker.rows)),
            last_tile.eq(left <= config.cols),
            cols.eq(Mux(last_tile, left, config.cols)),
            before.eq(query + row - key + 1),
            follows.eq(params.k <= config.rows),
            here.eq(self.moving & (second | ~follows | (position != 0) | (tiles_waiting != 0))),
            taken.eq(here & follows & ~second & (position == 0)),
            tag.valid.eq(here & (position < walker.rows)),
            tag.second.eq(second),
            tag.first_tile.eq(first_tile),
            tag.last_tile.eq(last_tile),
            tag.last_row.eq(row == walker.rows - 1),
            tag.tile_end.eq(here & end),
            tag.row.eq(row),
            tag.address.eq(base + row),
            tag.parity.eq(parity),
            tag.cols.eq(cols),
            tag.counted.eq(cols),
            end.eq(position == positions - 1),
            self.score_enable.eq(tag.valid),
            self.score_address.eq(base + row),
        ]
        with m.If(params.causal & (before < cols)):
            m.d.comb += tag.counted.eq(Mux(before < 0, 0, before))
        with m.If(self.start):
            m.d.sync += query.eq(0)
        with m.If(self.scores_done & ~follows):
            m.d.sync += waiting.eq(1)
        m.d.sync += tiles_waiting.eq(tiles_waiting + (self.score_tile_done & follows) - taken)
        with m.If(~self.moving):
            m.d.sync += [
                second.eq(0),
                row.eq(0),
                position.eq(0),
                left.eq(params.keys),
                first_tile.eq(1),
                base.eq(0),
                key.eq(0),
            ]
            with m.If(waiting | (tiles_waiting != 0)):
                m.d.sync += [waiting.eq(0), self.moving.eq(1)]
        with m.Elif(here):
            m.d.sync += [position.eq(position + 1), row.eq(row + 1)]
            with m.If(end):
                m.d.sync += [
                    position.eq(0),
                    row.eq(0),
                    first_tile.eq(0),
                    left.eq(left - config.cols),
                    base.eq(base + params.block_rows),
                    key.eq(key + config.cols),
                ]
                with m.If(last_tile):
                    m.d.sync += [second.eq(1), first_tile.eq(1), left.eq(params.keys), base.eq(0), key.eq(0)]
                    with m.If(second):
                        m.d.sync += [self.moving.eq(0), parity.eq(~parity), query.eq(query + walker.rows)]
                        m.d.comb += walker.advance.eq(1)
                        with m.If(walker.last_in_product):
                            m.d.sync += query.eq(0)

    def _corrected(self, m: Module, tags: list[data.View]) -> tuple[Value, Value | None, int]:
        """Sums of the row, its marks, and the stage at which they are there."""
        config = self.config
        if config.checksum is None:
            return self.score_row, None, 1
        m.submodules.corrector = corrector = ScoreCorrector(config)
        m.d.comb += [
            corrector.params.eq(self.params),
            corrector.cols.eq(tags[1].cols),
            corrector.row.eq(self.score_row),
            corrector.syndromes.eq(self.score_syndromes),
        ]
        with m.If(tags[CORRECTOR_STAGES].valid & tags[CORRECTOR_STAGES].second):
            m.d.comb += self.increments.eq(corrector.increments)
        return corrector.out, corrector.out_marked, 1 + CORRECTOR_STAGES

    def _scaled(self, m: Module, row: Value, marked: Value | None, tag: data.View) -> tuple[list[Signal], list[Signal]]:
        """Logarithms of the row two cycles later, and which of them count."""
        params = self.params
        largest, least = (1 << (SCORE_BITS - 1)) - 1, -(1 << (SCORE_BITS - 1))
        half = Signal(ACC_BITS + SCORE_MULT_BITS)
        m.d.comb += half.eq((1 << params.score_shift) >> 1)
        scores, counts = [], []
        for c in range(self.config.cols):
            product = Signal(signed(ACC_BITS + SCORE_MULT_BITS + 1), name=f"product_{c}", reset_less=True)
            rounded = Signal(signed(ACC_BITS + SCORE_MULT_BITS + 1), name=f"rounded_{c}")
            score = Signal(signed(SCORE_BITS), name=f"score_{c}", reset_less=True)
            inside = Signal(name=f"inside_{c}", reset_less=True)
            counted = Signal(name=f"counts_{c}", reset_less=True)
            m.d.comb += rounded.eq((product + half) >> params.score_shift)
            m.d.sync += [
                product.eq(row.word_select(c, ACC_BITS).as_signed() * params.score_mult),
                inside.eq((tag.counted > c) & (1 if marked is None else ~marked[c])),
                counted.eq(inside),
                score.eq(Mux(rounded > largest, largest, Mux(rounded < least, least, rounded))),
            ]
            scores.append(score)
            counts.append(counted)
        return scores, counts

    def _largest(self, m: Module, scores: list[Signal], counts: list[Signal], tags: list[data.View]) -> None:
        """Keep the largest score of each row; `self._top` is that of the row of `scores`, in the second pass."""
        early, _, late = tags
        m.submodules.tops = memory = Memory(shape=RANK_BITS, depth=self.config.block_rows, init=[])
        read, write = memory.read_port(), memory.write_port()
        of_tile = Signal(RANK_BITS, reset_less=True)
        before = Signal(RANK_BITS, reset_less=True)
        ranks = [ranked(score, counted) for score, counted in zip(scores, counts, strict=True)]
        kept = Mux(late.first_tile, 0, before)
        m.d.comb += [
            read.addr.eq(early.row),
            write.addr.eq(late.row),
            write.data.eq(Mux(of_tile > kept, of_tile, kept)),
            write.en.eq(late.valid & ~late.second),
        ]
        m.d.sync += [of_tile.eq(_largest_of(m, ranks)), before.eq(read.data)]
        self._top = read.data

    def _exponentials(self, m: Module, scores: list[Signal], counts: list[Signal], tags: list[data.View]) -> None:
        """Exponentials two cycles after the logarithms, sums a cycle later, then the division."""
        config, params = self.config, self.params
        written, summed = tags[2], tags[3]
        values = []
        for c, (score, counted) in enumerate(zip(scores, counts, strict=True)):
            m.submodules[f"exponential_{c}"] = unit = Exponential()
            m.d.comb += [unit.distance.eq(self._top - ranked(score, counted)), unit.counts.eq(counted)]
            values.append(unit.value)
        m.d.comb += [
            self.write_enable.eq(written.valid & written.second),
            self.write_address.eq(written.address),
            self.write_row.eq(Cat(Cat(value, Const(0, 8 - EXPONENT_BITS)) for value in values)),
            self.exponentials_ready.eq(written.tile_end & written.second),
        ]
        m.submodules.sums = memory = Memory(shape=SUM_BITS, depth=config.block_rows, init=[])
        read, write = memory.read_port(), memory.write_port()
        of_tile = Signal(range(EXPONENT_STEPS * config.cols + 1), reset_less=True)
        total = Signal(SUM_BITS)
        m.d.sync += of_tile.eq(sum(values[1:], start=values[0]))
        m.d.comb += [
            read.addr.eq(written.row),
            total.eq(Mux(summed.first_tile, 0, read.data) + of_tile),
            write.addr.eq(summed.row),
            write.data.eq(total),
            write.en.eq(summed.valid & summed.second),
        ]
        m.submodules.divider = divider = Divider()
        m.d.comb += [divider.numerator.eq(params.out_scale), divider.divisor.eq(total)]
        layout = data.StructLayout({"valid": 1, "last": 1, "address": range(scale_depth(config))})
        tag = Signal(layout, name="scale_tag")
        m.d.comb += [
            tag.valid.eq(write.en & summed.last_tile),
            tag.last.eq(tag.valid & summed.last_row),
            tag.address.eq(Mux(summed.parity, config.block_rows, 0) + summed.row),
        ]
        for stage in range(DIVIDER_STAGES):
            later = Signal(layout, name=f"scale_tag_{stage}")
            m.d.sync += later.eq(tag)
            tag = later
        m.submodules.scales = scales = Memory(shape=QUOTIENT_BITS, depth=scale_depth(config), init=[])
        store, fetch = scales.write_port(), scales.read_port()
        m.d.comb += [
            store.addr.eq(tag.address),
            store.data.eq(divider.quotient),
            store.en.eq(tag.valid),
            self.scales_ready.eq(tag.last),
            fetch.addr.eq(self.scale_address),
            fetch.en.eq(self.scale_enable),
            self.scale.eq(fetch.data),
        ]


def _largest_of(m: Module, values: list[Value]) -> Value:
    """The largest of unsigned values, by a tree."""
    level = 0
    while len(values) > 1:
        pairs = []
        for index in range(0, len(values) - 1, 2):
            larger = Signal(RANK_BITS, name=f"larger_{level}_{index}")
            a, b = values[index : index + 2]
            m.d.comb += larger.eq(Mux(a > b, a, b))
            pairs.append(larger)
        values = pairs + values[len(values) // 2 * 2 :]
        level += 1
    return values[0]

"""Runs the passes: loads weight tiles into the array and feeds it rows of activations."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..attention.depths import exponential_depth
from ..block_walker import BlockWalker
from ..config import AcceleratorConfig
from ..depths import BANKS, BUFFERS, SCORE_BANK, VALUE_BANK
from ..load.receiver import activation_depth, ring_sum, weight_depth
from ..params import K_BITS, params_layout
from ..split import split_size
from .systolic import output_latency
from .tag import accumulator_depth, row_tag_layout


class _AttentionWalk:
    """Where ATTENTION is in its block: at the scores, slab of keys by slab of keys, or at the sums of values."""

    def __init__(self, m: Module, config: AcceleratorConfig, params: data.View) -> None:
        self.most = config.block_col_tiles * config.cols
        self.scores = Signal(name="scores")
        self.values = Signal(name="values")
        self.ready = Signal(range(exponential_depth(config) + 1), name="exponentials_waiting")  # column tiles
        self.left = Signal(K_BITS, name="keys_left")
        self.first_key = Signal(K_BITS, name="first_key")
        self.last = Signal(name="keys_last")
        self.cols = Signal(range(self.most + 1), name="keys_cols")
        self.next_cols = Signal(range(self.most + 1), name="keys_next_cols")
        self.acc_base = Signal(range(accumulator_depth(config) + config.block_rows), name="acc_base")
        self.a_addr = Signal(range(exponential_depth(config) + config.block_rows), name="exponentials_addr")
        later = Signal(K_BITS, name="keys_later")
        m.d.comb += [
            self.scores.eq(params.attention & ~self.values),
            self.last.eq(self.left <= self.most),
            self.cols.eq(Mux(self.last, self.left, self.most)),
            later.eq(self.left - self.most),
            self.next_cols.eq(Mux(later < self.most, later, self.most)),
        ]


class Sequencer(wiring.Component):
    """Issues every pass of a product: per block, slab, k-tile and column tile one weight tile and the block's rows.

    Two halves work on neighbouring passes. The *weight half* waits until the data of a pass is on chip (and, for
    the first pass of a block, until an accumulator bank is free) and reads the weight tile in R cycles; the *row
    half* then reads one row of activations per cycle, back to back with the pass before. A pass therefore takes
    max(rows, R, 3) cycles once data keeps up.

    Members
    -------
    start : pulse, begin the product in `params`
    slab_loaded, tile_loaded, bank_freed : pulses that return credits
    slab_freed : pulse, the last row of a slab was read
    vectors_freed : vectors of kept activations that were read for the last time; where activations can be kept
    w_addr, w_enable : weight scratchpad
    a_addr, a_enable : activation scratchpad; enable means a row of it was issued
    row_valid : a row was issued, from the scratchpad or of digits
    load, swap : to the array, aligned with the scratchpads' data
    digit, group_first : with the scratchpads' data: the row is one of digits of column sums, the first of its group
    acc_valid, acc_tag : to the accumulator, one cycle before the row's sums are out
    block_done : pulse, all sums of a block are stored
    from_exponentials : `a_addr` is one of exponentials, not of the scratchpad; with an attention unit, as the next two
    scores_done, score_tile_done : pulses, all scores of a block, of a pass are stored
    exponentials_ready : pulse, a column tile of exponentials is there
    moving : weights are loaded, or rows are in the array
    macs : useful multiply-accumulates of the row issued
    stall_load, stall_weight, stall_drain : why no row was issued
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.acc_depth = accumulator_depth(config)
        attention: dict[str, object] = {}
        if config.attention:
            attention = {
                "from_exponentials": Out(1),
                "scores_done": Out(1),
                "score_tile_done": Out(1),
                "exponentials_ready": In(1),
            }
        kept: dict[str, object] = {}
        if config.keeps_activations:
            kept = {"vectors_freed": Out(range(config.activation_vectors + 1))}
        super().__init__(
            {
                "params": In(params_layout(config)),
                "start": In(1),
                "slab_loaded": In(1),
                "tile_loaded": In(1),
                "bank_freed": In(1),
                "slab_freed": Out(1),
                "w_addr": Out(range(weight_depth(config))),
                "w_enable": Out(1),
                "a_addr": Out(self._row_addresses()),
                "a_enable": Out(1),
                "row_valid": Out(1),
                "load": Out(1),
                "swap": Out(1),
                "digit": Out(1),
                "group_first": Out(1),
                "acc_valid": Out(1),
                "acc_tag": Out(row_tag_layout(config)),
                "block_done": Out(1),
                "moving": Out(1),
                "macs": Out(range(config.rows * config.cols + 1)),
                "stall_load": Out(1),
                "stall_weight": Out(1),
                "stall_drain": Out(1),
                **attention,
                **kept,
            }
        )

    def _row_addresses(self) -> range:
        """Addresses of rows of activations, or of exponentials."""
        most = activation_depth(self.config)
        return range(max(most, exponential_depth(self.config)) if self.config.attention else most)

    def _pass_layout(self) -> data.StructLayout:
        config = self.config
        attention = {"of_scores": 1, "of_values": 1} if config.attention else {}
        kept: dict[str, range] = {}
        if config.keeps_activations:
            kept = {"vectors": range(config.slab_k_tiles * config.block_rows + 1)}
        return data.StructLayout(
            {
                **attention,
                **kept,
                "rows": range(config.block_rows + 1),
                "a_addr": self._row_addresses(),
                "acc_address": range(self.acc_depth),
                "bank": 1,
                "first": 1,
                "slab_last": 1,
                "block_last": 1,
                "macs": range(config.rows * config.cols + 1),
                "final": 1,
                "tile": range(config.block_col_tiles),
                "row": 32,
                "col": 32,
                "cols": range(config.cols + 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pending = Signal(self._pass_layout())
        pending_valid = Signal()
        pending_fresh = Signal()
        taken = Signal()
        walking = self._weight_half(m, pending, pending_valid, pending_fresh, taken)
        rowing = self._row_half(m, pending, pending_valid & ~pending_fresh, taken)
        m.d.comb += self.stall_weight.eq((walking | pending_valid) & ~rowing & ~self.stall_load & ~self.stall_drain)
        with m.If(rowing):
            m.d.comb += [self.stall_load.eq(0), self.stall_drain.eq(0)]
        return m

    def _weight_half(
        self, m: Module, pending: data.View, pending_valid: Signal, pending_fresh: Signal, taken: Signal
    ) -> Signal:
        config, params = self.config, self.params
        m.submodules.walker = walker = BlockWalker(config)
        slabs_ready = Signal(range(BUFFERS + 1))
        tiles_ready = Signal(range(BUFFERS * config.slab_k_tiles + 1))
        banks_free = Signal(range(BANKS + 1), init=BANKS)

        k_left = Signal(K_BITS)
        n_left = Signal.like(walker.cols)
        k_tile = Signal(range(config.slab_k_tiles))
        col_tile = Signal(range(config.block_col_tiles))
        bank = Signal()
        buffer = Signal(range(BUFFERS))
        first_k = Signal()
        new_block = Signal()
        a_addr = Signal(range(activation_depth(config) + config.block_rows))
        w_addr = Signal(range(weight_depth(config) + config.rows))
        acc_address = Signal(range(self.acc_depth + config.block_rows))
        a_buffer = Signal(range(BUFFERS))  # that of weights, but for ATTENTION, whose queries are one slab of a block
        half = config.slab_k_tiles * config.block_rows

        new_slab = Signal()
        new_tile = Signal()
        last_k = Signal()
        last_col = Signal()
        slab_last_tile = Signal()
        slab_tiles = split_size(m, k_left, largest=config.slab_k_tiles, unit=config.rows, name="slab")
        slab_tiles_left = Signal.like(slab_tiles)  # meaningful after the slab's first k-tile
        tiles_left = Signal.like(slab_tiles)
        # Where the block is in the whole product, for draws of errors. Unused bits are optimised away.
        block_row = Signal(32)
        block_col = Signal(32)
        k_valid = Signal(range(config.rows + 1))
        n_valid = Signal(range(config.cols + 1))
        m.d.comb += [
            new_tile.eq(col_tile == 0),
            new_slab.eq(new_tile & (k_tile == 0)),
            last_k.eq(k_left <= config.rows),
            last_col.eq(n_left <= config.cols),
            tiles_left.eq(Mux(k_tile == 0, slab_tiles, slab_tiles_left)),
            slab_last_tile.eq(tiles_left == 1),
            k_valid.eq(Mux(last_k, k_left, config.rows)),
            n_valid.eq(Mux(last_col, n_left, config.cols)),
        ]

        load_left = Signal(range(config.rows + 1))
        no_bank = Signal()
        no_data = Signal()
        go = Signal()
        waits_for_bank: Value = new_block & (banks_free == 0)
        waits_for_slab: Value = new_slab & (slabs_ready == 0)
        takes_bank: Value = new_block
        takes_slab: Value = new_slab
        if config.keeps_activations:
            takes_slab = new_slab & ~(params.keep_activations & ~walker.first_in_row)
            waits_for_slab = takes_slab & (slabs_ready == 0)
        attention = None
        if config.attention:
            attention = _AttentionWalk(m, config, params)
            scores, values = attention.scores, attention.values
            # Of the sums of values only one block is on chip; scores may overwrite those whose exponentials are used.
            waits_for_bank = Mux(
                params.attention,
                values & ((new_block & (banks_free != BANKS)) | (new_tile & (attention.ready == 0))),
                waits_for_bank,
            )
            takes_bank = new_block & ~scores
            takes_slab = Mux(params.attention, new_block & scores, takes_slab)
            waits_for_slab = takes_slab & (slabs_ready == 0)
            m.d.sync += attention.ready.eq(attention.ready + self.exponentials_ready - (go & new_tile & values))
        m.d.comb += [
            no_bank.eq(walker.valid & waits_for_bank),
            no_data.eq(walker.valid & (waits_for_slab | (new_tile & (tiles_ready == 0)))),
            go.eq(walker.valid & ~no_bank & ~no_data & ~pending_valid & (load_left <= 1)),
            self.stall_drain.eq(no_bank & ~pending_valid & (load_left == 0)),
            self.stall_load.eq(no_data & ~no_bank & ~pending_valid & (load_left == 0)),
        ]
        m.d.sync += [
            slabs_ready.eq(slabs_ready + self.slab_loaded - (go & takes_slab)),
            tiles_ready.eq(tiles_ready + self.tile_loaded - (go & new_tile)),
            banks_free.eq(banks_free + self.bank_freed - (go & takes_bank)),
            pending_fresh.eq(go),
            self.load.eq(self.w_enable & (load_left == config.rows)),
        ]
        walker.walk(m, params)
        m.d.comb += [
            walker.start.eq(self.start),
            walker.advance.eq(go & last_k & last_col & (1 if attention is None else ~attention.scores)),
            self.w_enable.eq(load_left != 0),
        ]
        with m.If(load_left != 0):
            m.d.sync += [load_left.eq(load_left - 1), self.w_addr.eq(self.w_addr + 1)]
        with m.If(taken):
            m.d.sync += pending_valid.eq(0)
        with m.If(go):
            m.d.sync += [
                load_left.eq(config.rows),
                self.w_addr.eq(w_addr),
                pending_valid.eq(1),
                pending.rows.eq(walker.rows),
                pending.a_addr.eq(a_addr),
                pending.acc_address.eq(acc_address),
                pending.bank.eq(bank),
                pending.first.eq(first_k),
                pending.slab_last.eq(slab_last_tile & last_col),
                pending.block_last.eq(last_k & last_col),
                pending.macs.eq(k_valid * n_valid),
                pending.final.eq(last_k),
                pending.tile.eq(col_tile),
                pending.row.eq(block_row),
                pending.col.eq(block_col + col_tile * config.cols),
                pending.cols.eq(n_valid),
                new_block.eq(0),
                # The next pass: the next column tile, else the next k-tile, else the next slab, else the next block.
                col_tile.eq(col_tile + 1),
                n_left.eq(n_left - config.cols),
                w_addr.eq(w_addr + config.rows),
                acc_address.eq(acc_address + config.block_rows),
            ]
            tile_entries = config.block_col_tiles * config.rows
            slab_entries = config.slab_k_tiles * tile_entries
            with m.If(last_col):
                tile_end = Array(
                    [
                        index * slab_entries + (tile + 1) * tile_entries
                        for index in range(BUFFERS)
                        for tile in range(config.slab_k_tiles)
                    ]
                )
                m.d.sync += [
                    first_k.eq(0),
                    col_tile.eq(0),
                    n_left.eq(walker.cols),
                    acc_address.eq(0),
                    k_tile.eq(k_tile + 1),
                    slab_tiles_left.eq(tiles_left - 1),
                    k_left.eq(k_left - config.rows),
                    a_addr.eq(a_addr + config.block_rows),
                    w_addr.eq(tile_end[buffer * config.slab_k_tiles + k_tile]),
                ]
                with m.If(slab_last_tile):
                    m.d.sync += [
                        k_tile.eq(0),
                        buffer.eq(~buffer),
                        a_addr.eq(Mux(buffer, 0, config.slab_k_tiles * config.block_rows)),
                        w_addr.eq(Mux(buffer, 0, slab_entries)),
                    ]
                with m.If(last_k):
                    m.d.sync += [bank.eq(~bank), new_block.eq(1)]
            if attention is not None:
                stride = Mux(attention.scores, params.block_rows, config.block_rows)
                with m.If(params.attention):
                    m.d.sync += [
                        pending.a_addr.eq(Mux(attention.values, attention.a_addr, a_addr)),
                        pending.bank.eq(Mux(attention.values, VALUE_BANK, SCORE_BANK)),
                        pending.block_last.eq(last_k & last_col & (attention.values | attention.last)),
                        pending.col.eq(attention.first_key + col_tile * config.cols),
                        acc_address.eq(acc_address + stride),
                    ]
                m.d.sync += [pending.of_scores.eq(attention.scores), pending.of_values.eq(attention.values)]
                with m.If(params.attention & last_col):
                    m.d.sync += [
                        acc_address.eq(attention.acc_base),
                        n_left.eq(Mux(attention.scores, attention.cols, walker.cols)),
                        # Slabs of weights are not slabs of queries.
                        a_addr.eq(Mux(attention.scores, a_addr + config.block_rows, a_addr)),
                        bank.eq(bank),
                        attention.a_addr.eq(attention.a_addr + params.block_rows),
                    ]
                    with m.If(attention.scores & last_k):
                        m.d.sync += [
                            k_left.eq(params.k),
                            n_left.eq(attention.next_cols),
                            first_k.eq(1),
                            new_block.eq(0),
                            a_addr.eq(Mux(a_buffer, half, 0)),
                            acc_address.eq(acc_address + stride),
                            attention.acc_base.eq(acc_address + stride),
                            attention.left.eq(attention.left - attention.cols),
                            attention.first_key.eq(attention.first_key + attention.cols),
                        ]
                        with m.If(attention.last):
                            m.d.sync += [
                                k_left.eq(params.keys),
                                n_left.eq(walker.cols),
                                new_block.eq(1),
                                a_buffer.eq(~a_buffer),
                                a_addr.eq(Mux(a_buffer, 0, half)),
                                acc_address.eq(0),
                                attention.acc_base.eq(0),
                                attention.a_addr.eq(0),
                                attention.first_key.eq(0),
                                attention.values.eq(1),
                            ]
                with m.Elif(slab_last_tile & last_col):
                    m.d.sync += [a_buffer.eq(~a_buffer), a_addr.eq(Mux(a_buffer, 0, half))]
        if config.keeps_activations:
            block_end: Value = last_k & last_col
            reads_slab: Value = last_col
            starts_over: Value = params.keep_activations & ~walker.last_in_row
            if attention is not None:
                reads_slab = last_col & ~attention.values
                starts_over = Mux(params.attention, ~attention.last, starts_over)
            freed = params.keep_activations & walker.last_in_row & slab_last_tile & last_col
            # The k-tiles of a row of blocks, or of queries, follow each other in the ring.
            following = Signal(range(activation_depth(config)), name="a_following")
            row_base = Signal(range(activation_depth(config)), name="a_row_base")
            m.d.comb += following.eq(ring_sum(a_addr, walker.rows, activation_depth(config)))
            with m.If(go):
                m.d.sync += [
                    a_addr.eq(Mux(reads_slab, following, a_addr)),
                    pending.vectors.eq(Mux(freed, (k_tile + 1) * walker.rows, 0)),
                ]
                with m.If(reads_slab & block_end):
                    m.d.sync += [
                        a_addr.eq(Mux(starts_over, row_base, following)),
                        row_base.eq(Mux(starts_over, row_base, following)),
                    ]
            with m.If(self.start):
                m.d.sync += row_base.eq(a_addr)
        if "first_row" in params_layout(config).members:
            with m.If(walker.advance):
                m.d.sync += block_col.eq(block_col + walker.cols)
                with m.If(walker.last_in_row):
                    m.d.sync += [block_col.eq(params.first_col), block_row.eq(block_row + walker.rows)]
            with m.If(self.start):
                m.d.sync += [block_row.eq(params.first_row), block_col.eq(params.first_col)]
        # The walker shows a new block one cycle after start or advance.
        entered = Signal()
        m.d.sync += entered.eq(self.start | walker.advance)
        with m.If(entered):
            m.d.sync += [k_left.eq(params.k), n_left.eq(walker.cols), first_k.eq(1), new_block.eq(1)]
            m.d.comb += go.eq(0)
            if attention is not None:
                m.d.sync += [
                    attention.values.eq(0),
                    attention.left.eq(params.keys),
                    attention.first_key.eq(0),
                    attention.acc_base.eq(0),
                ]
                with m.If(params.attention):
                    m.d.sync += [n_left.eq(Mux(params.keys < attention.most, params.keys, attention.most))]
                    m.d.sync += acc_address.eq(0)
        return walker.valid

    def _row_half(self, m: Module, pending: data.View, pending_ready: Signal, taken: Signal) -> Signal:
        config = self.config
        current = Signal(self._pass_layout())
        rows_left = Signal(range(config.block_rows + 1))
        last_row = Signal()
        last = Signal()
        m.d.comb += [
            taken.eq(pending_ready & (~self.row_valid | last)),
            self.a_addr.eq(current.a_addr),
            last_row.eq(self.a_enable & (rows_left == 1)),
            self.slab_freed.eq(last_row & current.slab_last),
            self.macs.eq(Mux(self.a_enable, current.macs, 0)),
        ]
        if config.keeps_activations:
            m.d.comb += self.vectors_freed.eq(Mux(last_row, current.vectors, 0))
        m.d.sync += self.swap.eq(taken)
        with m.If(self.a_enable):
            m.d.sync += [
                rows_left.eq(rows_left - 1),
                current.a_addr.eq(current.a_addr + 1),
                current.acc_address.eq(current.acc_address + 1),
                current.row.eq(current.row + 1),
            ]
            if config.keeps_activations:
                in_ring: Value = ~current.of_values if config.attention else Const(1)
                with m.If(in_ring & (current.a_addr == activation_depth(config) - 1)):
                    m.d.sync += current.a_addr.eq(0)
        tag = Signal(row_tag_layout(config), name="tag")
        if config.group_count:
            self._digit_rows(m, current, rows_left, last_row, last, taken, tag)
        else:
            m.d.comb += [
                self.row_valid.eq(rows_left != 0),
                self.a_enable.eq(self.row_valid),
                last.eq(last_row),
                tag.address.eq(current.acc_address),
            ]
            if hasattr(tag, "row"):
                m.d.comb += tag.row.eq(current.row)
        with m.If(taken):
            m.d.sync += [current.eq(pending), rows_left.eq(pending.rows)]

        # The row is at the array one cycle after its issue and its sums are out `output_latency` cycles later;
        # the accumulator wants to know one cycle before. Registered once more here, hence equal to the latency.
        stages = output_latency(config)
        in_array = Signal(range(stages + 1))  # cycles until the last row has left
        with m.If(self.row_valid):
            m.d.sync += in_array.eq(stages)
        with m.Elif(in_array != 0):
            m.d.sync += in_array.eq(in_array - 1)
        m.d.comb += self.moving.eq(self.w_enable | self.row_valid | (in_array != 0))
        m.d.comb += [
            tag.bank.eq(current.bank),
            tag.first.eq(current.first),
            tag.block_last.eq(current.block_last & last),
        ]
        if config.attention:
            m.d.comb += [
                tag.of_scores.eq(current.of_scores),
                tag.of_values.eq(current.of_values),
                tag.tile_last.eq(last),
                self.from_exponentials.eq(current.of_values),
            ]
        for name in ("final", "tile", "col", "cols"):
            if name in row_tag_layout(config).members:
                m.d.comb += getattr(tag, name).eq(getattr(current, name))
        valid = self.row_valid
        for stage in range(1, stages + 1):
            valid_next = Signal(name=f"valid_d{stage}")
            tag_next = Signal(row_tag_layout(config), name=f"tag_d{stage}", reset_less=True)
            m.d.sync += [valid_next.eq(valid), tag_next.eq(tag)]
            valid, tag = valid_next, tag_next
        m.d.comb += [self.acc_valid.eq(valid), self.acc_tag.eq(tag)]
        # With checksum units a block is done when its last syndrome is stored.
        done = valid & tag.block_last
        for stage in range(1 if config.checksum is None else 3):
            storing = Signal(name=f"storing_{stage}")
            m.d.sync += storing.eq(done)
            done = storing
        if not config.attention:
            m.d.sync += self.block_done.eq(done)
            return self.row_valid
        of_scores, tile_done = tag.of_scores, valid & tag.of_scores & tag.tile_last
        for stage in range(1 if config.checksum is None else 3):
            of_scores_next = Signal(name=f"storing_scores_{stage}")
            tile_done_next = Signal(name=f"storing_tile_{stage}")
            m.d.sync += [of_scores_next.eq(of_scores), tile_done_next.eq(tile_done)]
            of_scores, tile_done = of_scores_next, tile_done_next
        m.d.sync += [
            self.block_done.eq(done & ~of_scores),
            self.scores_done.eq(done & of_scores),
            self.score_tile_done.eq(tile_done),
        ]
        return self.row_valid

    def _digit_rows(
        self,
        m: Module,
        current: data.View,
        rows_left: Signal,
        last_row: Signal,
        last: Signal,
        taken: Signal,
        tag: data.View,
    ) -> None:
        """After each group of rows, and after the last row, the rows of digits of the group's column sums."""
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        check = self.params.check
        group_left = Signal(range(checksum.group_rows + 1))
        digits_left = Signal(range(checksum.digits + 1))
        digit = Signal(range(checksum.digits + 1))
        group = Signal(range(config.group_count))
        group_row = Signal(32)
        group_end = Signal()
        in_digits = Signal()
        fresh = Signal()
        m.d.comb += [
            in_digits.eq(digits_left != 0),
            self.row_valid.eq(in_digits | (rows_left != 0)),
            self.a_enable.eq((rows_left != 0) & ~in_digits),
            group_end.eq(self.a_enable & ((group_left == 1) | last_row)),
            fresh.eq(self.a_enable & (group_left == checksum.group_rows)),
            last.eq(Mux(check, in_digits & (digits_left == 1) & (rows_left == 0), last_row)),
        ]
        m.d.sync += [self.digit.eq(in_digits), self.group_first.eq(fresh)]
        with m.If(fresh):
            m.d.sync += group_row.eq(current.row)
        with m.If(self.a_enable):
            m.d.sync += group_left.eq(group_left - 1)
        with m.If(group_end & check):
            m.d.sync += [digits_left.eq(checksum.digits), digit.eq(0)]
        with m.If(in_digits):
            m.d.sync += [digits_left.eq(digits_left - 1), digit.eq(digit + 1)]
            with m.If(digits_left == 1):
                m.d.sync += [group.eq(group + 1), group_left.eq(checksum.group_rows)]
        with m.If(taken):
            m.d.sync += [group.eq(0), group_left.eq(checksum.group_rows)]
        # Sums of digit rows lie behind those of the rows of data: [column tile][group][digit].
        tile_base = Array(
            config.block_rows * config.block_col_tiles + tile * config.group_count * checksum.digits
            for tile in range(config.block_col_tiles)
        )
        m.d.comb += [
            tag.address.eq(
                Mux(in_digits, tile_base[current.tile] + group * checksum.digits + digit, current.acc_address)
            ),
            tag.digit.eq(Mux(in_digits, digit + 1, 0)),
            tag.group.eq(group),
            tag.group_first.eq(fresh),
            tag.group_end.eq(in_digits & (digits_left == 1)),
        ]
        if hasattr(tag, "row"):
            m.d.comb += tag.row.eq(Mux(in_digits, group_row, current.row))

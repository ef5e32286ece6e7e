"""One row of processing elements: the innermost hardware of the accelerator."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal, signed

from ..config import ACC_BITS, AcceleratorConfig
from ..errors.constants import LENGTH_BITS
from ..errors.razor import sum_or_bypass, total_of

MODULE_SUFFIX = "array_row"


class ArrayRow(Elaboratable):
    """C weight-stationary processing elements side by side.

    Activations enter at column 0 and move one column per cycle; partial sums enter from the row above and leave
    one cycle later, ``psum_out[c] = psum_in[c] + a[c] * active[c]``, two's complement, wrapping mod 2^32.

    Each element holds two weights. `load` writes the shadow weight, `swap` copies shadow to active; a weight
    swapped in one cycle multiplies from the next one on. `load` and `swap` in the same cycle are allowed:
    the active weight takes the old shadow.

    The registers have no reset: whatever they hold is overwritten before a valid row uses it.

    Members
    -------
    a_in : 8 bits
        Activation for column 0.
    w_in : C * 8 bits
        Weights for the shadow registers.
    load, swap : C bits
        Per-column control.
    psum_in, psum_out : C * 32 bits
        Partial sums.
    a_taps : one byte per checksum segment
        Activation after the segment's last column, for its check columns; only with checksum units.
    first, lengths : C bits, C * 6 bits
        First row of a pass; settled carry lengths; only with a model of errors that `settles`.
    borrow_in, borrow_out : C bits
        The element above took the cycle of this one to finish its sum, so this one drops its product; the same for the
        row below. They go with the partial sums; only with a model of errors that `settles` and ``razor``.
    valid, dropped : C bits, 0 .. C
        The element has an activation of a row; how many elements that had one dropped its product in the cycle before;
        only with a model of errors that `settles` and ``razor``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        cols = config.cols
        self.a_in = Signal(8)
        self.w_in = Signal(8 * cols)
        self.load = Signal(cols)
        self.swap = Signal(cols)
        self.psum_in = Signal(ACC_BITS * cols)
        self.psum_out = Signal(ACC_BITS * cols)
        self.a_taps = Signal(8 * len(config.segments))
        self.first = Signal(cols)
        self.lengths = Signal(LENGTH_BITS * cols)
        self.borrow_in = Signal(cols)
        self.borrow_out = Signal(cols, reset_less=True)
        self.valid = Signal(cols)
        self.dropped = Signal(range(cols + 1), reset_less=True)
        self._domain = ClockDomain("sync", reset_less=True)

    @property
    def ports(self) -> list[Signal]:
        """Signals of the module's boundary."""
        ports = [self._domain.clk, self.a_in, self.w_in, self.load, self.swap, self.psum_in, self.psum_out]
        if self.config.segments:
            ports.append(self.a_taps)
        if self.config.error_model.settles:
            ports += [self.first, self.lengths]
            if self.config.razor:
                ports += [self.borrow_in, self.borrow_out, self.valid, self.dropped]
        return ports

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += self._domain
        cols = self.config.cols
        moving = self.a_in
        tapped = {segment.stop: index for index, segment in enumerate(self.config.segments)}
        sums = []
        borrows = []
        shadows = [Signal(signed(8), name=f"shadow_{c}", reset_less=True) for c in range(cols)]
        actives = [Signal(signed(8), name=f"active_{c}", reset_less=True) for c in range(cols)]
        # Loads and swaps happen for R of many cycles: the outer test lets a simulator skip all columns at once.
        with m.If(self.load.any()):
            for c in range(cols):
                with m.If(self.load[c]):
                    m.d.sync += shadows[c].eq(self.w_in[8 * c : 8 * c + 8])
        with m.If(self.swap.any()):
            for c in range(cols):
                with m.If(self.swap[c]):
                    m.d.sync += actives[c].eq(shadows[c])
        for c in range(cols):
            psum = Signal(ACC_BITS, name=f"psum_{c}", reset_less=True)
            product = Signal(signed(16), name=f"product_{c}")
            m.d.comb += product.eq(moving.as_signed() * actives[c])
            above = self.psum_in[ACC_BITS * c : ACC_BITS * (c + 1)]
            if self.config.error_model.settles:
                extended = Signal(ACC_BITS, name=f"extended_{c}")
                m.d.comb += extended.eq(product)
                captured, settled = self.config.error_model.element_sum(
                    m,
                    x=above,
                    y=extended,
                    width=ACC_BITS,
                    length=self.lengths[LENGTH_BITS * c : LENGTH_BITS * (c + 1)],
                    first=self.first[c],
                    name=str(c),
                )
                if self.config.razor:
                    captured, borrow = sum_or_bypass(
                        m, x=above, settled=settled, captured=captured, borrowed=self.borrow_in[c], name=str(c)
                    )
                    borrows.append(borrow)
                m.d.sync += psum.eq(captured)
            else:
                # The slice truncates on purpose: sums wrap.
                m.d.sync += psum.eq((above.as_signed() + product)[:ACC_BITS])
            sums.append(psum)
            if c + 1 < cols or tapped:
                following = Signal(8, name=f"a_{c + 1}", reset_less=True)
                m.d.sync += following.eq(moving)
                moving = following
            if c + 1 in tapped:
                m.d.comb += self.a_taps.word_select(tapped[c + 1], 8).eq(moving)
        m.d.comb += self.psum_out.eq(Cat(sums))
        if borrows:
            dropped = self.borrow_in & self.valid
            m.d.sync += [self.borrow_out.eq(Cat(borrows)), self.dropped.eq(total_of(list(dropped)))]
        return m

"""One row of check columns: elements that sum activations times weighted sums of the weights."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal, signed

from ..arithmetic import residue
from ..config import AcceleratorConfig
from ..errors.constants import LENGTH_BITS
from ..residues import RESIDUE_BITS

MODULE_SUFFIX = "check_row"


def is_residue(config: AcceleratorConfig, check: int) -> bool:
    """Whether row check `check` is computed with a modulus."""
    assert config.checksum is not None
    return config.checksum.modulus(check) > 0


def weight_bits(config: AcceleratorConfig, check: int) -> int:
    """Width of the weights u of a check column: signed, or a residue."""
    assert config.checksum is not None
    if is_residue(config, check):
        return RESIDUE_BITS
    largest = sum(abs(weight) for weight in config.checksum.weights(check)) * 128
    return largest.bit_length() + 1


def widths(config: AcceleratorConfig) -> list[int]:
    """Widths of the sums of all check columns, in their order."""
    assert config.checksum is not None
    return [config.checksum.check_bits(check) for _, check in config.check_columns]


class CheckRow(Elaboratable):
    """The check columns' part of one array row; protocol of `brownout.hw.array.row.ArrayRow`.

    The columns of a segment stand after the segment's last array column and share its activation.

    Members
    -------
    a_in : one byte per segment
        Activation after the segment's last column.
    u_in : weights of all check columns, each `weight_bits` wide
    load, swap, first : one bit per segment
    lengths : 6 bits per check column; with a model of errors that `settles`
    psum_in, psum_out : partial sums of all check columns, each `ChecksumConfig.check_bits` wide
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        assert config.checksum is not None
        segments = len(config.segments)
        self.a_in = Signal(8 * segments)
        self.u_in = Signal(sum(weight_bits(config, check) for _, check in config.check_columns))
        self.load = Signal(segments)
        self.swap = Signal(segments)
        self.first = Signal(segments)
        self.lengths = Signal(LENGTH_BITS * len(config.check_columns))
        self.psum_in = Signal(sum(widths(config)))
        self.psum_out = Signal(sum(widths(config)))
        self._domain = ClockDomain("sync", reset_less=True)

    @property
    def ports(self) -> list[Signal]:
        """Signals of the module's boundary."""
        ports = [self._domain.clk, self.a_in, self.u_in, self.load, self.swap, self.psum_in, self.psum_out]
        if self.config.error_model.settles:
            ports += [self.first, self.lengths]
        return ports

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += self._domain
        sums = []
        u_at = psum_at = 0
        for column, (segment, check) in enumerate(self.config.check_columns):
            bits, width = weight_bits(self.config, check), widths(self.config)[column]
            folds = is_residue(self.config, check)
            shape = bits if folds else signed(bits)
            shadow = Signal(shape, name=f"shadow_{column}", reset_less=True)
            active = Signal(shape, name=f"active_{column}", reset_less=True)
            with m.If(self.load[segment]):
                m.d.sync += shadow.eq(self.u_in[u_at : u_at + bits])
            with m.If(self.swap[segment]):
                m.d.sync += active.eq(shadow)
            product = Signal(signed(bits + 9), name=f"product_{column}")
            m.d.comb += product.eq(self.a_in.word_select(segment, 8).as_signed() * active)
            above = self.psum_in[psum_at : psum_at + width]
            # A residue takes one bit more until its carry has been added at the other end.
            sum_bits = width + 1 if folds else width
            addend = Signal(sum_bits, name=f"addend_{column}")
            m.d.comb += addend.eq(residue(m, product, f"residue_{column}") if folds else product)
            total = Signal(sum_bits, name=f"total_{column}")
            if self.config.error_model.settles:
                captured, _ = self.config.error_model.element_sum(
                    m,
                    x=above,
                    y=addend,
                    width=sum_bits,
                    length=self.lengths.word_select(column, LENGTH_BITS),
                    first=self.first[segment],
                    name=str(column),
                )
                m.d.comb += total.eq(captured)
            else:
                m.d.comb += total.eq((above + addend)[:sum_bits])
            psum = Signal(width, name=f"psum_{column}", reset_less=True)
            m.d.sync += psum.eq((total[:width] + total[width]) if folds else total)
            sums.append(psum)
            u_at, psum_at = u_at + bits, psum_at + width
        m.d.comb += self.psum_out.eq(Cat(sums))
        return m

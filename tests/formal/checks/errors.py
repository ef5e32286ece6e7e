"""Single-bit errors in the columns of a segment, and what they leave in its checks, from tables of plain arithmetic."""

from __future__ import annotations

from amaranth.hdl import Array, Assume, Const, Mux, Signal

from brownout.hw.config import ChecksumConfig

MODULUS = 8191


def weights(cols: int) -> list[int]:
    """Weights of the places of a segment in the first locator; the last place is the plain check."""
    return [*ChecksumConfig(segment_cols=cols).weights(1), 0]


class SingleBitError:
    """Any error of plus or minus 2^bit, 0 <= bit <= 31, in any place of a segment of `cols` columns.

    Attributes
    ----------
    place, value : Signal
        0 .. `cols`, of which the last is the plain check; signed.
    residue : Signal
        What it adds to the first locator's syndrome, modulo 8191.
    """

    def __init__(self, spec, cols: int, name: str, *, constant: bool = False) -> None:
        m = spec.module
        make = spec.constant if constant else spec.input
        self.place = make(range(cols + 1), name=f"{name}_place")
        self.bit = make(5, name=f"{name}_bit")
        self.minus = make(1, name=f"{name}_minus")
        m.d.comb += Assume(self.place <= cols)
        self.value = Signal(range(-(1 << 31), (1 << 31) + 1), name=f"{name}_value")
        self.residue = Signal(range(MODULUS), name=f"{name}_residue")
        rows = []
        for weight in weights(cols):
            signs = [
                Array(Const(weight * (sign << bit) % MODULUS, 13) for bit in range(32))[self.bit] for sign in (1, -1)
            ]
            rows.append(Mux(self.minus, signs[1], signs[0]))
        m.d.comb += [
            self.value.eq(Mux(self.minus, -(1 << self.bit), 1 << self.bit)),
            self.residue.eq(Array(rows)[self.place]),
        ]


def sum_of_residues(m, first, second, name: str) -> Signal:
    """Two residues added modulo 8191."""
    total = Signal(range(2 * MODULUS), name=f"{name}_total")
    reduced = Signal(range(MODULUS), name=name)
    m.d.comb += [total.eq(first + second), reduced.eq(Mux(total >= MODULUS, total - MODULUS, total))]
    return reduced


def is_power_of_two(m, value, name: str) -> Signal:
    """Whether a signed number is plus or minus a power of two."""
    magnitude = Signal(len(value), name=f"{name}_magnitude")
    is_power = Signal(name=name)
    m.d.comb += [magnitude.eq(abs(value)), is_power.eq((magnitude != 0) & ((magnitude & (magnitude - 1)) == 0))]
    return is_power

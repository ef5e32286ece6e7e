"""What leaves the corrector after single-bit errors in a segment: the right sum, or a marked one."""

from amaranth.hdl import Assert, Assume, Cat, Mux, Signal

from brownout.hw.checks.corrector import Corrector
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from ..prover import Spec, prove
from .errors import SingleBitError, sum_of_residues

COLS = 4
DEPTH = 4


def corrector_spec(*, pairs, checks_err):
    """A vector of four columns, one chunk, in every cycle, with one or two errors; `checks_err`: also of the check."""
    spec = Spec()
    m = spec.module
    checksum = ChecksumConfig(segment_cols=COLS, locators=1, column_checks=False, pairs=pairs)
    config = AcceleratorConfig(rows=1, cols=COLS, drain_lanes=COLS, checksum=checksum)
    m.submodules.unit = unit = Corrector(config)
    right, plain = spec.input(32 * COLS, name="right"), Signal(34)
    spec.inputs += [unit.block_row, unit.block_col]
    first, second = (SingleBitError(spec, COLS, name) for name in ("first", "second"))
    two = spec.input(name="two")
    residue = Signal(13)
    wrong = []
    for column in range(COLS):
        error = Mux(first.place == column, first.value, 0) + Mux(two & (second.place == column), second.value, 0)
        wrong.append((right.word_select(column, 32) + error)[:32])
    m.d.comb += [
        Assume(first.place != second.place),
        Assume(checks_err | ((first.place < COLS) & (second.place < COLS))),
        plain.eq(first.value + Mux(two, second.value, 0)),
        residue.eq(sum_of_residues(m, first.residue, Mux(two, second.residue, 0), "both")),
        unit.syndromes.eq(Cat(plain[:33], residue)),
        unit.params.check.eq(1),
        unit.params.correct.eq(1),
        unit.params.theta.eq(0),
        unit.chunk.valid.eq(1),
        unit.chunk.payload.count.eq(COLS),
        unit.chunk.payload.cols.eq(COLS),
        unit.chunk.payload.index.eq(0),
        unit.chunk.payload.elements.eq(Cat(wrong)),
        unit.out.ready.eq(1),
    ]
    history = [(right, two)]
    for stage in range(3):
        kept = tuple(Signal(len(value), name=f"{value.name}_{stage}") for value in history[-1])
        m.d.sync += [later.eq(earlier) for later, earlier in zip(kept, history[-1], strict=True)]
        history.append(kept)
    right, two = history[-1]
    out = [
        (unit.out.payload.elements.word_select(column, 32) == right.word_select(column, 32), unit.out_marked[column])
        for column in range(COLS)
    ]
    m.d.comb += [
        Assert(~unit.out.valid | ((unit.out.payload.cols == COLS) & (unit.out.payload.count == COLS))),
        Assert(~(unit.out.valid & ~two) | Cat(same & ~marked for same, marked in out).all()),
        Assert(~(unit.out.valid & two) | Cat(same | marked for same, marked in out).all()),
    ]
    return spec


def test_single_errors_are_corrected_and_two_are_corrected_or_marked():
    prove(corrector_spec(pairs=True, checks_err=True), "corrector-pairs", depth=DEPTH, unbounded=True)


def test_without_locators_of_pairs_single_errors_are_corrected_and_two_in_columns_marked():
    prove(corrector_spec(pairs=False, checks_err=False), "corrector", depth=DEPTH, unbounded=True)


def test_without_locators_of_pairs_errors_of_a_column_and_of_the_check_are_marked():
    prove(corrector_spec(pairs=False, checks_err=True), "corrector-check", depth=DEPTH, unbounded=True)

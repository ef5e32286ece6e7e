"""Locates, corrects and marks errors in rows on their way out of the accumulators."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..arithmetic import large, residue
from ..config import ACC_BITS, SYNDROME_BITS, AcceleratorConfig
from ..drain.vectors import vector_chunk_layout
from ..load.receiver import chunks_per_vector
from ..log_record import LOG_PLAIN_CHECK, Outcome
from ..params import params_layout
from .check_row import is_residue, widths
from .column_checker import group_layout
from .double_errors import DoubleErrorLocator
from .log_value import log_record_value


def most_corrected(config: AcceleratorConfig) -> int:
    """Most columns of a segment of a row that are corrected."""
    assert config.checksum is not None
    return 2 if config.checksum.pairs else 1


class Corrector(wiring.Component):
    """Three pipeline stages: look at a vector's syndromes, decide about its columns, apply the decision to its chunks.

    Members
    -------
    params : constant while chunks are in flight
    chunk : stream of chunks of `vector_chunk_layout`
    block_row, block_col : global row and column of the block, for the log; constant likewise
    syndromes, group, group_row : of the vector whose first chunk is offered; its place in its group
    out : stream of the same chunks, corrected
    out_marked : one bit per lane, with `out`
    record_valid, record : pulse, a record for the log
    checks, detected, corrected, suppressed : increments of the counters
    empty : no chunk is inside
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        groups: dict[str, object] = {}
        if config.group_count and config.checksum is not None:
            groups = {"group": In(group_layout(config)), "group_row": In(range(config.checksum.group_rows))}
        super().__init__(
            {
                "params": In(params_layout(config)),
                "chunk": In(stream.Signature(vector_chunk_layout(config))),
                "syndromes": In(sum(widths(config))),
                "block_row": In(32),
                "block_col": In(32),
                **groups,
                "out": Out(stream.Signature(vector_chunk_layout(config))),
                "out_marked": Out(config.lanes),
                "record_valid": Out(1),
                "record": Out(8 * config.log_record_bytes),
                "checks": Out(1),
                "detected": Out(1),
                "corrected": Out(range(most_corrected(config) + 1)),
                "suppressed": Out(range(config.cols + 1)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        layout = vector_chunk_layout(config)
        valid = [Signal(name=f"valid_{stage}") for stage in range(3)]
        chunks = [Signal(layout, name=f"chunk_{stage}", reset_less=True) for stage in range(3)]
        move = Signal()
        m.d.comb += [
            move.eq(~valid[2] | self.out.ready),
            self.chunk.ready.eq(move),
            self.out.valid.eq(valid[2]),
            self.out.payload.eq(chunks[2]),
            self.empty.eq(~Cat(valid).any()),
        ]
        look = Signal()
        decide = Signal()
        m.d.comb += [
            look.eq(move & self.chunk.valid & (self.chunk.payload.index == 0)),
            decide.eq(move & valid[0] & (chunks[0].index == 0)),
        ]
        locators: list[DoubleErrorLocator | None] = [None for _ in config.segments]
        if config.checksum is not None and config.checksum.pairs:
            for segment in range(len(locators)):
                locators[segment] = m.submodules[f"pairs_{segment}"] = DoubleErrorLocator(config, segment)
        evidence = self._look(m, look, locators)
        decisions = [
            self._decide(m, segment, decide, evidence[segment], chunks[0], locator)
            for segment, locator in enumerate(locators)
        ]
        applied, marked = self._apply(m, chunks[1], decisions)
        with m.If(move):
            m.d.sync += [
                *(later.eq(earlier) for later, earlier in zip(valid, [self.chunk.valid, *valid], strict=False)),
                chunks[0].eq(self.chunk.payload),
                chunks[1].eq(chunks[0]),
                chunks[2].eq(chunks[1]),
                chunks[2].elements.eq(applied),
                self.out_marked.eq(marked),
            ]
        self._report(m, move & valid[1] & self.params.check, chunks[1], decisions)
        return m

    def _look(self, m: Module, look: Signal, locators: list[DoubleErrorLocator | None]) -> list[dict[str, Value]]:
        """First stage: what the syndromes of each segment say, before columns are compared."""
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        found: list[dict[str, Value]] = [{"r": []} for _ in config.segments]
        at = 0
        for (segment, _), width in zip(config.check_columns, widths(config), strict=True):
            found[segment]["r"].append(self.syndromes[at : at + width])
            at += width
        kept = []
        for segment, entry in enumerate(found):
            syndromes = entry["r"]
            plain = syndromes[0].as_signed()
            further = Signal(name=f"further_{segment}")
            for check, syndrome in enumerate(syndromes[1:], start=1):
                is_large = (
                    syndrome.any() & (self.params.theta < SYNDROME_BITS)
                    if is_residue(config, check)
                    else large(syndrome, self.params.theta)
                )
                with m.If(is_large):
                    m.d.comb += further.eq(1)
            values: dict[str, Value] = {
                "plain": plain,
                "flagged": self.params.check & (large(plain, self.params.theta) | (~plain.any() & further)),
                "wrong": Cat(syndrome.any() for syndrome in syndromes),
            }
            for check in range(1, checksum.checks):
                values[f"r_{check}"] = syndromes[check]
            if any(is_residue(config, check) for check in range(checksum.checks)):
                values["reduced"] = residue(m, plain, f"reduced_{segment}")
            if checksum.column_checks:
                columns = config.segments[segment]
                values |= self._column_evidence(m, segment, columns, plain)
            registers = {}
            for name, value in values.items():
                register = Signal(value.shape(), name=f"{name}_of_{segment}", reset_less=True)
                with m.If(look):
                    m.d.sync += register.eq(value)
                registers[name] = register
            kept.append(registers)
            if (locator := locators[segment]) is not None:
                m.d.comb += [
                    locator.plain.eq(plain),
                    locator.residues.eq(Cat(syndromes[1:])),
                    locator.look.eq(look),
                    locator.wanted.eq(values["flagged"] & self.params.correct),
                    locator.kept_plain.eq(registers["plain"]),
                ]
        return kept

    def _column_evidence(self, m: Module, segment: int, columns: range, plain: Value) -> dict[str, Value]:
        checksum = self.config.checksum
        assert checksum is not None
        if checksum.check_scheme.matches:
            q = [self.group.q.word_select(c, ACC_BITS) for c in columns]
            return {
                "column_flagged": Cat(large(value, self.params.theta) for value in q),
                "equal": Cat(value == plain[:ACC_BITS] for value in q),
                "repeated": self.group.repeated[segment].bit_select(self.group_row, 1),
            }
        evidence = {"column_flagged": self.group.flagged[columns.start : columns.stop]}
        if checksum.locators:
            evidence["column_wrong"] = self.group.wrong[columns.start : columns.stop]
        return evidence

    def _decide(
        self,
        m: Module,
        segment: int,
        decide: Signal,
        found: dict[str, Value],
        chunk: data.View,
        locator: DoubleErrorLocator | None,
    ) -> dict[str, Signal]:
        """Second stage: the column to which the evidence points, and what happens."""
        config, checksum = self.config, self.config.checksum
        assert checksum is not None
        columns = config.segments[segment]
        size = len(columns)
        inside = Signal(size, name=f"inside_{segment}")
        m.d.comb += inside.eq(Cat(chunk.cols > c for c in columns))
        fits = Signal(size, name=f"fits_{segment}")
        fit = Signal(size, name=f"fit_{segment}")
        own = Signal(name=f"own_error_{segment}")
        plain = found["plain"]
        if checksum.check_scheme.matches:
            usable = plain[:ACC_BITS].any() & ~found["repeated"]
            m.d.comb += fits.eq(Mux(usable, found["equal"] & inside, 0))
            alone = (fits & (fits - 1)[:size]) == 0
            m.d.comb += fit.eq(Mux(alone, fits, 0))
        elif checksum.locators:
            for place in range(size):
                agree = [self._agrees(m, segment, place, check, found) for check in range(1, checksum.checks)]
                m.d.comb += fits[place].eq(Cat(agree).all() & plain.any())
            usable = inside & (found["column_wrong"] if checksum.column_checks else inside)
            candidates = Signal(size, name=f"candidates_{segment}")
            m.d.comb += [
                candidates.eq(fits & usable),
                # The lowest one.
                fit.eq(candidates & (~candidates + 1)[:size]),
            ]
            wrong = found["wrong"]
            alone = (wrong & (wrong - 1)[: len(wrong)]) == 0
            m.d.comb += own.eq(alone & ~wrong[1] if checksum.locators == 1 else alone)
        rest = inside & found["column_flagged"] if checksum.column_checks else inside

        registers = {
            "flagged": Signal(name=f"decided_flagged_{segment}", reset_less=True),
            "plain": Signal(signed(SYNDROME_BITS), name=f"decided_plain_{segment}", reset_less=True),
            "action": Signal(2, name=f"decided_action_{segment}", reset_less=True),
            "place": Signal(range(max(size, 2)), name=f"decided_place_{segment}", reset_less=True),
            "correct": Signal(size, name=f"decided_correct_{segment}", reset_less=True),
            "mark": Signal(size, name=f"decided_mark_{segment}", reset_less=True),
        }
        with m.If(decide):
            m.d.sync += [
                registers["flagged"].eq(found["flagged"]),
                registers["plain"].eq(plain),
                registers["place"].eq(_place(fit)),
                registers["correct"].eq(0),
                registers["mark"].eq(0),
                registers["action"].eq(int(Outcome.IGNORED)),
            ]
            with m.If(found["flagged"]):
                with m.If(fit.any() & self.params.correct):
                    m.d.sync += [registers["correct"].eq(fit), registers["action"].eq(int(Outcome.CORRECTED))]
                with m.Elif(fit.any()):
                    m.d.sync += [registers["mark"].eq(fit), registers["action"].eq(int(Outcome.LOCATED))]
                with m.Elif(~own):
                    m.d.sync += [registers["mark"].eq(rest), registers["action"].eq(int(Outcome.UNCORRECTABLE))]
        if locator is not None:
            m.d.comb += locator.inside.eq(inside)
            registers |= self._decide_pair(m, segment, decide, locator, fit.any(), registers)
        return registers

    def _decide_pair(
        self,
        m: Module,
        segment: int,
        decide: Signal,
        locator: DoubleErrorLocator,
        has_fit: Value,
        registers: dict[str, Signal],
    ) -> dict[str, Signal]:
        """Second stage: double errors overrule what was decided without them. Further registers of the decision."""
        size = len(locator.inside)
        in_columns = locator.first[:size].any()
        pair = {
            # The error of the column that is corrected first, or alone.
            "error": Signal(ACC_BITS, name=f"decided_error_{segment}", reset_less=True),
            "is_pair": Signal(name=f"decided_is_pair_{segment}", reset_less=True),
            "second": Signal(size, name=f"decided_second_{segment}", reset_less=True),
            "second_error": Signal(ACC_BITS, name=f"decided_second_error_{segment}", reset_less=True),
            "other_place": Signal(8, name=f"decided_other_place_{segment}", reset_less=True),
        }
        with m.If(decide):
            m.d.sync += [
                pair["error"].eq(locator.kept_plain),
                pair["is_pair"].eq(0),
                pair["second"].eq(0),
                pair["other_place"].eq(0),
            ]
            # An error of the check itself leaves no residue; a double error, however it is placed, always does.
            with m.If(locator.unique & ~has_fit):
                m.d.sync += [
                    registers["action"].eq(int(Outcome.CORRECTED)),
                    registers["correct"].eq((locator.first | locator.second)[:size]),
                    registers["mark"].eq(0),
                    registers["place"].eq(_place(Mux(in_columns, locator.first, locator.second)[:size])),
                    pair["error"].eq(locator.first_error),
                    pair["is_pair"].eq(1),
                    pair["second"].eq(locator.second[:size]),
                    pair["second_error"].eq(locator.second_error),
                    pair["other_place"].eq(
                        Mux(locator.first[size] | locator.second[size], LOG_PLAIN_CHECK, _place(locator.second[:size]))
                    ),
                ]
            with m.Elif(locator.found):
                m.d.sync += [
                    registers["action"].eq(int(Outcome.UNCORRECTABLE)),
                    registers["correct"].eq(0),
                    registers["mark"].eq(locator.inside),
                    registers["place"].eq(0),
                ]
        return pair

    def _agrees(self, m: Module, segment: int, place: int, check: int, found: dict[str, Value]) -> Value:
        """Whether locator `check` is what an error of the plain syndrome's size in this column would make it."""
        checksum = self.config.checksum
        assert checksum is not None
        weight = checksum.weights(check)[place]
        actual = found[f"r_{check}"]
        if checksum.modulus(check):
            wanted = residue(m, found["reduced"] * weight, f"wanted_{segment}_{place}_{check}")
        else:
            wanted = Signal(len(actual), name=f"wanted_{segment}_{place}_{check}")
            # Extended with its sign to the width of the locator.
            m.d.comb += wanted.eq(found["plain"] * weight)
        return wanted == actual

    def _apply(self, m: Module, chunk: data.View, decisions: list[dict[str, Signal]]) -> tuple[Value, Value]:
        """Third stage: the chunk's elements, corrected, and which of them are marked."""
        config = self.config
        correct = Cat(decision["correct"] for decision in decisions)
        mark = Cat(decision["mark"] for decision in decisions)
        lanes = config.lanes
        elements = []
        marks = []
        for lane in range(lanes):
            places = [index * lanes + lane for index in range(chunks_per_vector(config))]
            segment_of = [place // config.segments[0].stop if place < config.cols else 0 for place in places]
            errors = Array(decisions[segment].get("error", decisions[segment]["plain"]) for segment in segment_of)
            corrects = Array(correct[place] if place < config.cols else 0 for place in places)
            marked = Array(mark[place] if place < config.cols else 0 for place in places)
            element = Signal(ACC_BITS, name=f"element_{lane}")
            value = chunk.elements.word_select(lane, ACC_BITS)
            error: Value = errors[chunk.index]
            if config.checksum is not None and config.checksum.pairs:
                second = Cat(decision["second"] for decision in decisions)
                seconds = Array(second[place] if place < config.cols else 0 for place in places)
                second_errors = Array(decisions[segment]["second_error"] for segment in segment_of)
                error = Mux(seconds[chunk.index], second_errors[chunk.index], error)
            m.d.comb += element.eq(Mux(corrects[chunk.index], value - error, value))
            elements.append(element)
            marks.append(marked[chunk.index])
        return Cat(elements), Cat(marks)

    def _report(self, m: Module, moving: Value, chunk: data.View, decisions: list[dict[str, Signal]]) -> None:
        """Count and log a segment when the chunk with its first column passes; no chunk has two of them."""
        config = self.config
        for decision, columns in zip(decisions, config.segments, strict=True):
            marked = Signal(range(config.cols + 1), name=f"marked_{columns.start}")
            m.d.comb += marked.eq(sum((bit for bit in decision["mark"]), start=Cat()))
            corrected = decision["action"] == int(Outcome.CORRECTED)
            pair = {}
            if "is_pair" in decision:
                pair = {"other_place": decision["other_place"], "pair": decision["is_pair"]}
                # One column, and another if both errors are in columns.
                corrected = corrected + (decision["is_pair"] & (decision["other_place"] != LOG_PLAIN_CHECK))
            with m.If(moving & (chunk.index == columns.start // config.lanes) & (chunk.cols > columns.start)):
                m.d.comb += self.checks.eq(1)
                with m.If(decision["flagged"]):
                    m.d.comb += [
                        self.detected.eq(1),
                        self.corrected.eq(corrected),
                        self.suppressed.eq(marked),
                        self.record_valid.eq(1),
                        self.record.eq(
                            log_record_value(
                                {
                                    "row": self.block_row + chunk.row,
                                    "col": self.block_col + chunk.tile * config.cols + columns.start,
                                    "syndrome": decision["plain"],
                                    "count": marked,
                                    "place": decision["place"],
                                    "outcome": decision["action"],
                                    **pair,
                                    "negative": decision["plain"][SYNDROME_BITS - 1],
                                },
                                decision["mark"] if config.group_count else None,
                            )
                        ),
                    ]


def _place(one_hot: Value) -> Value:
    """Number of the bit that is set, 0 if none is."""
    return sum((Mux(bit, place, 0) for place, bit in enumerate(one_hot)), start=Cat())

"""Corrects and marks whole rows of scores: the corrector of the drain, as wide as the array."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..checks.check_row import widths
from ..checks.corrector import Corrector, most_corrected
from ..checks.double_errors import DoubleErrorLocator
from ..config import ACC_BITS, AcceleratorConfig
from ..log_record import LOG_PLAIN_CHECK, Outcome
from ..params import params_layout


def score_increments_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What counters of the checks gain by a row of scores, by name."""
    segments = len(config.segments)
    return data.StructLayout(
        {
            "checks": range(segments + 1),
            "detected": range(segments + 1),
            "corrected": range(most_corrected(config) * segments + 1),
            "suppressed": range(config.cols + 1),
        }
    )


class ScoreCorrector(Corrector):
    """Looks, decides and applies as `Corrector` does, a row of all columns in every cycle; nothing is logged.

    Members
    -------
    params : constant while rows are in flight
    cols : columns of the row inside the scores
    row, syndromes : sums of the row, and its syndromes
    out, out_marked : corrected sums and marks, `CORRECTOR_STAGES` cycles later
    increments : of the row whose sums come out in the next cycle
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        wiring.Component.__init__(
            self,
            {
                "params": In(params_layout(config)),
                "cols": In(range(config.cols + 1)),
                "row": In(ACC_BITS * config.cols),
                "syndromes": In(sum(widths(config))),
                "out": Out(ACC_BITS * config.cols),
                "out_marked": Out(config.cols),
                "increments": Out(score_increments_layout(config)),
            },
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        layout = data.StructLayout({"row": ACC_BITS * config.cols, "cols": range(config.cols + 1)})
        looked, decided = (Signal(layout, name=f"row_{stage}", reset_less=True) for stage in range(2))
        always = Signal()
        m.d.comb += always.eq(1)
        m.d.sync += [looked.row.eq(self.row), looked.cols.eq(self.cols), decided.eq(looked)]
        locators: list[DoubleErrorLocator | None] = [None for _ in config.segments]
        if config.checksum is not None and config.checksum.pairs:
            for segment in range(len(locators)):
                locators[segment] = m.submodules[f"pairs_{segment}"] = DoubleErrorLocator(config, segment)
        evidence = self._look(m, always, locators)
        decisions = [
            self._decide(m, segment, always, evidence[segment], looked, locator)
            for segment, locator in enumerate(locators)
        ]
        elements: list[Value] = []
        for decision, columns in zip(decisions, config.segments, strict=True):
            for place, column in enumerate(columns):
                value = decided.row.word_select(column, ACC_BITS)
                error: Value = decision.get("error", decision["plain"])[:ACC_BITS]
                if "second" in decision:
                    error = Mux(decision["second"][place], decision["second_error"], error)[:ACC_BITS]
                elements.append(Mux(decision["correct"][place], value - error, value)[:ACC_BITS])
        m.d.sync += [
            self.out.eq(Cat(elements)),
            self.out_marked.eq(Cat(decision["mark"] for decision in decisions)),
        ]
        self._count(m, decided.cols, decisions)
        return m

    def _count(self, m: Module, cols: Value, decisions: list[dict[str, Signal]]) -> None:
        totals: dict[str, Value] = {}
        for decision, columns in zip(decisions, self.config.segments, strict=True):
            counted = self.params.check & (cols > columns.start)
            flagged = counted & decision["flagged"]
            corrected: Value = decision["action"] == int(Outcome.CORRECTED)
            if "is_pair" in decision:
                corrected = corrected + (decision["is_pair"] & (decision["other_place"] != LOG_PLAIN_CHECK))
            gains = {
                "checks": counted,
                "detected": flagged,
                "corrected": Mux(flagged, corrected, 0),
                "suppressed": Mux(flagged, sum((bit for bit in decision["mark"]), start=Cat()), 0),
            }
            totals = {name: totals[name] + gain if totals else gain for name, gain in gains.items()}
        m.d.comb += [self.increments[name].eq(total) for name, total in totals.items()]

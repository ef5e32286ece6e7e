"""The accelerator: everything between the two AXI ports."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect

from .array.accumulator import Accumulator
from .array.sequencer import Sequencer
from .array.systolic import SystolicArray
from .attention.depths import exponential_depth
from .attention.score_unit import ScoreUnit
from .bus.axi import Axi4LiteSignature, Axi4Signature
from .bus.read_port import ReadPort
from .bus.write_port import WritePort
from .checks.column_checker import ColumnChecker
from .checks.column_sums import ColumnSums
from .checks.row_checker import RowChecker
from .commands import ErrorCause
from .config import ACC_BITS, AcceleratorConfig
from .control.command_processor import CommandProcessor
from .control.counters import Counters
from .control.register_file import RegisterFile
from .copy.copier import Copier
from .drain.drain import Drain
from .load.fetcher import Fetcher
from .load.receiver import Receiver
from .registers import ADDRESS_BITS


class AcceleratorTop(wiring.Component):
    """Weight-stationary systolic-array accelerator.

    Commands come from a ring in memory, data from and to the same memory; see `brownout.hw.commands` for the
    command format and `brownout.hw.registers` for the register map.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator to build.
    name : str
        Name of the top module, with which those of the rows begin.

    Members
    -------
    m_axi : AXI4 master
    s_axil : AXI4-Lite slave
    irq : interrupt, level
    """

    def __init__(self, config: AcceleratorConfig, name: str) -> None:
        self.config = config
        self.name = name
        super().__init__(
            {
                "m_axi": Out(Axi4Signature(address_bits=config.address_bits, data_bytes=config.bus_bytes)),
                "s_axil": In(Axi4LiteSignature(address_bits=ADDRESS_BITS)),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.read_port = read_port = ReadPort(config)
        m.submodules.write_port = write_port = WritePort(config)
        m.submodules.registers = registers = RegisterFile(config)
        m.submodules.processor = processor = CommandProcessor(config)
        m.submodules.array = array = config.dataflow.array(config, self.name)
        m.submodules.accumulator = accumulator = config.dataflow.accumulator(config)
        fetcher, receiver = Fetcher(config), Receiver(config)
        sequencer, drain = config.dataflow.sequencer(config), Drain(config)
        datapath_reset = ResetInserter(processor.datapath_reset)
        m.submodules.fetcher = datapath_reset(fetcher)
        m.submodules.receiver = datapath_reset(receiver)
        m.submodules.sequencer = datapath_reset(sequencer)
        m.submodules.drain = datapath_reset(drain)

        copier = None
        if config.checksum is not None:
            copier = Copier(config)
            m.submodules.copier = datapath_reset(copier)
        self._connect_bus(m, read_port, write_port)
        score_unit = ScoreUnit(config) if config.attention else None
        self._connect_control(
            m, registers, processor, read_port, write_port, receiver, sequencer, drain, score_unit, copier
        )
        self._connect_reads(m, processor, read_port, fetcher, receiver, copier)
        self._connect_writes(m, write_port, drain, copier)
        connect(m, fetcher.job, receiver.job)
        for engine in (fetcher, sequencer, drain):
            m.d.comb += [engine.params.eq(processor.params), engine.start.eq(processor.start)]
        m.d.comb += [
            fetcher.slab_freed.eq(sequencer.slab_freed),
            fetcher.channel_freed.eq(drain.channel_freed),
            sequencer.slab_loaded.eq(receiver.slab_loaded),
            sequencer.tile_loaded.eq(receiver.tile_loaded),
            sequencer.bank_freed.eq(drain.bank_freed),
            drain.block_done.eq(sequencer.block_done),
            drain.channels_loaded.eq(receiver.channels_loaded),
            receiver.a_addr.eq(sequencer.a_addr),
            receiver.a_enable.eq(sequencer.a_enable),
            receiver.w_addr.eq(sequencer.w_addr),
            receiver.w_enable.eq(sequencer.w_enable),
            receiver.channel_addr.eq(drain.channel_addr),
            receiver.channel_enable.eq(drain.channel_enable),
            drain.channel_row.eq(receiver.channel_row),
            array.w_row.eq(receiver.w_row),
            array.load.eq(sequencer.load),
            array.swap.eq(sequencer.swap),
            accumulator.valid.eq(sequencer.acc_valid),
            accumulator.bank.eq(sequencer.acc_tag.bank),
            accumulator.first.eq(sequencer.acc_tag.first),
            accumulator.address.eq(sequencer.acc_tag.address),
            accumulator.y_row.eq(array.y_row),
            accumulator.drain_enable.eq(drain.acc_enable),
            accumulator.drain_bank.eq(drain.acc_bank),
            accumulator.drain_address.eq(drain.acc_address),
            drain.acc_row.eq(accumulator.drain_row),
        ]
        if config.keeps_activations:
            m.d.comb += fetcher.vectors_freed.eq(sequencer.vectors_freed)
        dropped = Signal.like(array.dropped)
        if score_unit is not None:
            m.submodules.score_unit = datapath_reset(score_unit)
            self._connect_scores(m, processor, receiver, sequencer, array, accumulator, drain, score_unit)
        self._connect_protection(m, processor, receiver, sequencer, array, accumulator, drain, score_unit, dropped)
        self._connect_counters(m, registers, processor, sequencer, receiver, drain, score_unit, dropped)
        return m

    def _connect_scores(
        self,
        m: Module,
        processor: CommandProcessor,
        receiver: Receiver,
        sequencer: Sequencer,
        array: SystolicArray,
        accumulator: Accumulator,
        drain: Drain,
        score_unit: ScoreUnit,
    ) -> None:
        """Scores to exponentials, exponentials to the array, output scales to the drain."""
        config = self.config
        m.submodules.exponentials = memory = Memory(shape=8 * config.cols, depth=exponential_depth(config), init=[])
        write, read = memory.write_port(), memory.read_port()
        self._a_row = Signal(8 * config.rows, name="a_row")
        from_exponentials = Signal()
        m.d.sync += from_exponentials.eq(sequencer.from_exponentials)
        m.d.comb += [
            score_unit.params.eq(processor.params),
            score_unit.start.eq(processor.start),
            score_unit.scores_done.eq(sequencer.scores_done),
            score_unit.score_tile_done.eq(sequencer.score_tile_done),
            accumulator.score_enable.eq(score_unit.score_enable),
            accumulator.score_address.eq(score_unit.score_address),
            score_unit.score_row.eq(accumulator.score_row),
            write.en.eq(score_unit.write_enable),
            write.addr.eq(score_unit.write_address),
            write.data.eq(score_unit.write_row),
            read.en.eq(sequencer.a_enable & sequencer.from_exponentials),
            read.addr.eq(sequencer.a_addr),
            self._a_row.eq(Mux(from_exponentials, read.data, receiver.a_row)),
            sequencer.exponentials_ready.eq(score_unit.exponentials_ready),
            drain.scales_ready.eq(score_unit.scales_ready),
            score_unit.scale_address.eq(drain.scale_address),
            score_unit.scale_enable.eq(drain.scale_enable),
            drain.scale.eq(score_unit.scale),
        ]

    def _connect_protection(
        self,
        m: Module,
        processor: CommandProcessor,
        receiver: Receiver,
        sequencer: Sequencer,
        array: SystolicArray,
        accumulator: Accumulator,
        drain: Drain,
        score_unit: ScoreUnit | None,
        dropped: Signal,
    ) -> None:
        """Timing errors and checksum units, as far as the configuration has them."""
        config = self.config
        if config.error_model.settles:
            m.d.comb += array.lengths.eq(processor.lengths)
            if config.razor:
                m.d.sync += array.valid.eq(sequencer.row_valid)
                m.d.comb += dropped.eq(array.dropped)
        if config.group_count:
            m.submodules.column_sums = column_sums = ColumnSums(config)
            row_issued = Signal()
            m.d.sync += row_issued.eq(sequencer.a_enable)
            m.d.comb += [
                column_sums.a_row.eq(receiver.a_row),
                column_sums.enable.eq(row_issued),
                column_sums.first.eq(sequencer.group_first),
                column_sums.digit.eq(sequencer.digit),
                array.a_row.eq(column_sums.out_row),
            ]
        else:
            m.d.comb += array.a_row.eq(receiver.a_row if score_unit is None else self._a_row)
        injector = None
        if config.error_model.draws:
            m.submodules.injector = injector = config.error_model.injector(config)
            m.d.comb += [
                injector.errors.eq(processor.errors),
                injector.valid.eq(sequencer.acc_valid),
                injector.tag.eq(sequencer.acc_tag),
                injector.total_row.eq(accumulator.total_row),
                accumulator.stored_row.eq(injector.stored_row),
            ]
            if config.razor:
                m.d.comb += dropped.eq(injector.dropped)
        else:
            m.d.comb += accumulator.stored_row.eq(accumulator.total_row)
        if config.checksum is None:
            return
        m.submodules.row_checker = row_checker = RowChecker(config)
        m.d.comb += [
            row_checker.valid.eq(sequencer.acc_valid),
            row_checker.tag.eq(sequencer.acc_tag),
            row_checker.check_row.eq(array.check_row),
            row_checker.stored_row.eq(accumulator.stored_row),
            row_checker.drain_enable.eq(drain.acc_enable),
            row_checker.drain_bank.eq(drain.acc_bank),
            row_checker.drain_address.eq(drain.acc_address),
            drain.syndromes.eq(row_checker.syndromes),
        ]
        if score_unit is not None:
            m.d.comb += [
                row_checker.score_enable.eq(score_unit.score_enable),
                row_checker.score_address.eq(score_unit.score_address),
                score_unit.score_syndromes.eq(row_checker.score_syndromes),
            ]
        if injector is not None:
            m.d.comb += [
                row_checker.errors.eq(processor.errors),
                row_checker.row_key.eq(injector.row_key),
                row_checker.col.eq(injector.col),
            ]
        if config.group_count:
            m.submodules.column_checker = column_checker = ColumnChecker(config)
            m.d.comb += [
                column_checker.theta.eq(processor.params.theta),
                column_checker.valid.eq(sequencer.acc_valid),
                column_checker.tag.eq(sequencer.acc_tag),
                column_checker.stored_row.eq(accumulator.stored_row),
                column_checker.syndromes_now.eq(row_checker.syndromes_now),
                column_checker.now_valid.eq(row_checker.now_valid),
                column_checker.drain_enable.eq(drain.acc_enable),
                column_checker.drain_bank.eq(drain.acc_bank),
                column_checker.drain_tile.eq(drain.group_tile),
                column_checker.drain_group.eq(drain.group_index),
                drain.group.eq(column_checker.group),
            ]

    def _connect_bus(self, m: Module, read_port: ReadPort, write_port: WritePort) -> None:
        axi = self.m_axi
        for name, member in axi.signature.members.items():
            port = read_port.axi if name[:2] == "ar" or name[0] == "r" else write_port.axi
            outer, inner = getattr(axi, name), getattr(port, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)

    def _connect_control(
        self,
        m: Module,
        registers: RegisterFile,
        processor: CommandProcessor,
        read_port: ReadPort,
        write_port: WritePort,
        receiver: Receiver,
        sequencer: Sequencer,
        drain: Drain,
        score_unit: ScoreUnit | None,
        copier: Copier | None,
    ) -> None:
        connect(m, wiring.flipped(self.s_axil), registers.axil)
        for name in ("ring_base", "ring_entries", "tail", "timeout", "doorbell", "acknowledge", "soft_reset"):
            m.d.comb += getattr(processor, name).eq(getattr(registers, name))
        status = ("head", "busy", "stopped", "draining", "cause")
        for name in (*status, "drained", "failed", "command_done", "reset_done"):
            m.d.comb += getattr(registers, name).eq(getattr(processor, name))
        m.d.comb += [
            self.irq.eq(registers.irq),
            processor.bus_idle.eq(read_port.idle & write_port.idle),
            processor.bus_progress.eq(read_port.progress | write_port.progress),
            processor.engines_done.eq(drain.done),
            processor.moving.eq(sequencer.moving | drain.moving | (0 if score_unit is None else score_unit.moving)),
            read_port.stop.eq(processor.stop),
            write_port.stop.eq(processor.stop),
        ]
        faults = [
            (receiver.bad_record, ErrorCause.CHANNEL_RECORD),
            (write_port.error, write_port.cause),
            (read_port.error, read_port.cause),
        ]
        if copier is not None:
            m.d.comb += [copier.params.eq(processor.copy_params), copier.start.eq(processor.copy_start)]
            with m.If(copier.done):
                m.d.comb += processor.engines_done.eq(1)
            faults.insert(0, (copier.bad_run, ErrorCause.RUN))
        for fault, cause in faults:
            with m.If(fault):
                m.d.comb += [processor.fault.eq(1), processor.fault_cause.eq(cause)]
        for surplus, cause in (
            (write_port.surplus, ErrorCause.WRITE_SURPLUS),
            (read_port.surplus, ErrorCause.READ_SURPLUS),
        ):
            with m.If(surplus):
                m.d.comb += processor.surplus_cause.eq(cause)

    def _connect_reads(
        self,
        m: Module,
        processor: CommandProcessor,
        read_port: ReadPort,
        fetcher: Fetcher,
        receiver: Receiver,
        copier: Copier | None,
    ) -> None:
        """Commands are fetched only while the fetcher rests, so a multiplexer without arbitration is enough."""
        with m.If(processor.fetching):
            m.d.comb += [
                read_port.request.payload.eq(processor.request.payload),
                read_port.request.valid.eq(processor.request.valid),
                processor.request.ready.eq(read_port.request.ready),
                processor.beat.valid.eq(read_port.beat.valid),
                read_port.beat.ready.eq(processor.beat.ready),
            ]
        with m.Else():
            m.d.comb += [
                read_port.request.payload.eq(fetcher.request.payload),
                read_port.request.valid.eq(fetcher.request.valid),
                fetcher.request.ready.eq(read_port.request.ready),
                receiver.beat.valid.eq(read_port.beat.valid),
                read_port.beat.ready.eq(receiver.beat.ready),
            ]
        m.d.comb += [
            processor.beat.payload.eq(read_port.beat.payload),
            receiver.beat.payload.eq(read_port.beat.payload),
        ]
        if copier is None:
            return
        m.d.comb += copier.read_beat.payload.eq(read_port.beat.payload)
        with m.If(copier.busy):
            m.d.comb += [
                read_port.request.payload.eq(copier.read_request.payload),
                read_port.request.valid.eq(copier.read_request.valid),
                copier.read_request.ready.eq(read_port.request.ready),
                copier.read_beat.valid.eq(read_port.beat.valid),
                read_port.beat.ready.eq(copier.read_beat.ready),
            ]

    def _connect_writes(self, m: Module, write_port: WritePort, drain: Drain, copier: Copier | None) -> None:
        """The drain rests while something is copied."""
        if copier is None:
            connect(m, drain.request, write_port.request)
            connect(m, drain.beat, write_port.beat)
            return
        with m.If(copier.busy):
            connect(m, copier.write_request, write_port.request)
            connect(m, copier.write_beat, write_port.beat)
        with m.Else():
            connect(m, drain.request, write_port.request)
            connect(m, drain.beat, write_port.beat)

    def _connect_counters(
        self,
        m: Module,
        registers: RegisterFile,
        processor: CommandProcessor,
        sequencer: Sequencer,
        receiver: Receiver,
        drain: Drain,
        score_unit: ScoreUnit | None,
        dropped: Signal,
    ) -> None:
        config = self.config
        acc_bytes = config.cols * ACC_BITS // 8
        m.submodules.counters = counters = Counters(config, increment_bits=16)
        acc_write = Signal()
        m.d.sync += acc_write.eq(sequencer.acc_valid)
        running = processor.running
        values = {
            "cycles": running,
            "busy_cycles": sequencer.row_valid,
            "stall_load_cycles": sequencer.stall_load,
            "stall_weight_cycles": sequencer.stall_weight,
            "stall_drain_cycles": sequencer.stall_drain,
            "macs": sequencer.macs,
            "sram_read_bytes": (
                Mux(sequencer.a_enable, config.rows, 0)
                + Mux(sequencer.w_enable, config.cols, 0)
                + Mux(sequencer.acc_valid & ~sequencer.acc_tag.first, acc_bytes, 0)
                + Mux(drain.acc_enable, acc_bytes, 0)
            ),
            "sram_write_bytes": (
                Mux(receiver.a_written, config.rows, 0)
                + Mux(receiver.w_written, config.cols, 0)
                + Mux(acc_write, acc_bytes, 0)
            ),
            "dram_read_bytes": Mux(self.m_axi.rvalid & self.m_axi.rready, config.bus_bytes, 0),
            "dram_write_bytes": Mux(self.m_axi.wvalid & self.m_axi.wready, config.bus_bytes, 0),
            "commands": processor.command_done,
        }
        if score_unit is not None:
            values["sram_read_bytes"] += Mux(score_unit.score_enable, acc_bytes, 0)
            values["sram_write_bytes"] += Mux(score_unit.write_enable, config.cols, 0)
        if config.checksum is not None:
            values |= {name: drain.increments[name] for name in drain.increments.shape().members}
            if score_unit is not None:
                for name in score_unit.increments.shape().members:
                    values[name] = values[name] + score_unit.increments[name]
        if config.razor:
            values["dropped"] = dropped
        if config.error_model.errs:
            values["transition_cycles"] = processor.in_transition
            for domain in range(config.domains):
                for point in range(config.operating_points):
                    here = running & (processor.points[domain] == point)
                    values[f"domain_{domain}_point_{point}_cycles"] = here
        assert list(values) == [counter.name for counter in counters.counters]
        for name, value in values.items():
            m.d.comb += counters.increments[name].eq(value)
        m.d.comb += [
            counters.clear.eq(processor.reset_done),
            counters.capture.eq(registers.capture | processor.capture),
            registers.snapshot.eq(counters.snapshot),
        ]

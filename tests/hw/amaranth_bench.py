"""Helpers for tests that run one component in Amaranth's own simulator."""

from __future__ import annotations

import warnings

from amaranth.sim import Simulator


def simulate(component, *testbenches, processes=()):
    """Run testbenches (``async def bench(ctx)``) on a component until all have returned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulator = Simulator(component)
        simulator.add_clock(1e-9, if_exists=True)  # none in a combinational component
        for testbench in testbenches:
            simulator.add_testbench(testbench)
        for process in processes:
            simulator.add_testbench(process, background=True)
        simulator.run()

"""Depths of queues and numbers of buffers: beside a configuration, what time depends on.

RTL, the cycle model and the memory model take them from here. No hardware is imported with them.
"""

from __future__ import annotations

BUFFERS = 2
"""Slabs (activations and weights), and channel tables, that are on chip at a time."""

BANKS = 2
"""Accumulator banks."""

SCORE_BANK, VALUE_BANK = 0, 1
"""Accumulator banks of ATTENTION: of the scores, and of the sums of values."""

JOB_QUEUE = 8
"""Jobs whose requests may be out before their data is in."""

BURST_QUEUE = 8
"""Write bursts whose address may be out before their data is."""

MAX_BURST_BEATS = 256
"""Of AXI4: beats of a burst."""

BURST_BOUNDARY_BYTES = 4096
"""Of AXI4: no burst crosses a multiple of it."""

RUNS_AT_ONCE = 64
"""Entries of the list of a COPY that are on chip at a time."""

SPAN_QUEUE = 16
"""Runs of a COPY whose reads may be out before their data is in."""

WRITE_BUFFER_BEATS = 16
"""Of the memory model: beats of write data that it takes before their burst is performed."""

BANDWIDTH_FRACTION_BITS = 16
"""Of the memory model: its bandwidth is counted in 2^-16 byte per cycle."""

STALL_PROBABILITY_BITS = 16
"""Of the memory model: probabilities with which it stalls are counted in 2^-16."""

"""The command ring, the registers and the counters."""

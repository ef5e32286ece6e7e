"""Ten digits at three operating points on RTL, proved bit by bit against the twin: ``python -m brownout.host.demo``."""

from __future__ import annotations

DEFAULT_VOLTAGE_V = 0.67
"""Where hardly a digit survives without protection, and none suffers with it."""

"""Ten pictures at three voltages on RTL, proved bit by bit against the twin: ``python -m brownout.host.demo``."""

from __future__ import annotations

DEFAULT_VOLTAGE_V = 0.67
"""Where hardly a picture survives without protection, and none suffers with it."""

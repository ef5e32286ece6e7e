"""Runs that survive their process: see ``docs/checkpoints.md``."""

from __future__ import annotations

from .journal import Journal, journal
from .options import RunCheckpoint

__all__ = ["Journal", "RunCheckpoint", "journal"]

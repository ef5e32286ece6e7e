"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")

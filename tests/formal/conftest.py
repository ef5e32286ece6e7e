"""Proofs: run by ``make formal`` alone."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.formal)
            # A proof has a deadline of its own, of processor time, which says what was not done.
            item.add_marker(pytest.mark.timeout(3600))

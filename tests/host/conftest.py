"""Fixtures of the host tests."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from brownout.hw.config import MemoryConfig

from ..configurations import plain


def pytest_configure(config):
    config.addinivalue_line("markers", "rtl: builds and runs a simulator")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small products are slower on more threads, and tests share the machine. For fixtures of modules too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def threads_are_put_back():
    """What a test sets is not the next one's: the last bits of a calibration depend on the number of threads."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def config():
    """A small array whose tiles are cut by every test shape."""
    return dataclasses.replace(plain(4, 4), memory=MemoryConfig(size_bytes=1 << 23))


@pytest.fixture
def generator(request):
    """A seeded generator; its seed is printed with a failing test."""
    seed = sum(request.node.name.encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)

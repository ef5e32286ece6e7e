"""Allocation of the accelerator's DRAM."""

from __future__ import annotations

from collections import deque

from ...errors import DeviceMemoryError

PAGE_BYTES = 4096
"""Regions begin at AXI's 4 KiB boundary, which bursts must not cross, so that none is cut short by its address."""


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


class Arena:
    """First-fit allocator over a range of addresses.

    What stays (weights) is taken from the bottom and what lives for one product from the top, so that
    short-lived regions do not fragment the memory.

    Parameters
    ----------
    size_bytes : int
        Addresses are ``0 .. size_bytes-1``.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes // PAGE_BYTES * PAGE_BYTES
        self._free = [(0, self.size_bytes)] if self.size_bytes else []
        self._released: deque[tuple[int, int]] = deque()

    @property
    def free_bytes(self) -> int:
        """Bytes not allocated, in however many pieces."""
        self._collect()
        return sum(end - start for start, end in self._free)

    def allocate(self, size_bytes: int, *, from_top: bool = False) -> tuple[int, int]:
        """Take a page-aligned region.

        Returns
        -------
        (int, int)
            First address, and first address after the region.

        Raises
        ------
        DeviceMemoryError
            No free piece is large enough.
        """
        size = round_up(size_bytes, PAGE_BYTES)
        index = self._find(size, from_top)
        start, end = self._free[index]
        region = (end - size, end) if from_top else (start, start + size)
        rest = (start, end - size) if from_top else (start + size, end)
        if rest[0] == rest[1]:
            del self._free[index]
        else:
            self._free[index] = rest
        return region

    def top_place(self, size_bytes: int) -> int:
        """First address of what ``allocate(size_bytes, from_top=True)`` would take now; nothing is taken.

        Raises
        ------
        DeviceMemoryError
            As there.
        """
        size = round_up(size_bytes, PAGE_BYTES)
        index = self._find(size, from_top=True)
        return self._free[index][1] - size

    def _find(self, size: int, from_top: bool) -> int:
        """Index of the free piece that `size` bytes, whole pages, go to."""
        self._collect()
        order = range(len(self._free) - 1, -1, -1) if from_top else range(len(self._free))
        for index in order:
            start, end = self._free[index]
            if end - start >= size:
                return index
        largest = max((end - start for start, end in self._free), default=0)
        raise DeviceMemoryError(
            f"the accelerator's DRAM has no room for {size} bytes: the largest free piece is {largest} of "
            f"{self.size_bytes} bytes; raise MemoryConfig.size_bytes, split the product, or drop resident weights"
        )

    def free(self, region: tuple[int, int]) -> None:
        """Give a region back.

        Safe in a finaliser on any thread: the region only joins the free list at the next allocation.
        """
        self._released.append(region)

    def _collect(self) -> None:
        if not self._released:
            return
        while self._released:
            self._free.append(self._released.popleft())
        self._free.sort()
        merged = [self._free[0]]
        for start, end in self._free[1:]:
            if start == merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self._free = merged

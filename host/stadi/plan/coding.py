"""Compressed exchange: what devices send instead of whole keys and values.

The sizes that planners count with; `brownout.host.stadi.execute.residuals` makes the messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...storage.packable import packable

SCALE_BYTES = 1
"""Scales of blocks are whole numbers up to 255: residuals of int8 are whole numbers themselves."""


@packable("stadi.coding.ExchangeCoding")
@dataclass(frozen=True)
class ExchangeCoding:
    """Keys and values are sent as what has changed since the last message, in few bits.

    Synchronous steps send them whole, and so do keyframes.

    Attributes
    ----------
    bits : int
        Bits of each element, 1 to 7.
    block : int
        Elements of a token row that share a scale.
    keyframe_interval : int or None
        Every so many-th message to a device is whole; None for never.

    Raises
    ------
    ValueError
        There is no such coding.
    """

    bits: int
    block: int
    keyframe_interval: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7:
            raise ValueError(
                f"ExchangeCoding.bits must be in 1..7, not {self.bits!r}; whole keys and values have 8 "
                "and need no coding"
            )
        if not self.block >= 1:
            raise ValueError(f"ExchangeCoding.block must be at least 1, not {self.block!r}")
        if self.keyframe_interval is not None and not self.keyframe_interval >= 1:
            raise ValueError(
                f"ExchangeCoding.keyframe_interval must be at least 1, or None for no keyframes, "
                f"not {self.keyframe_interval!r}"
            )

    def bytes(self, count: int) -> int:
        """Bytes of a token row of so many elements in a self-attention: codes and scales; bits fill whole bytes."""
        return -(-count * self.bits // 8) + -(-count // self.block) * SCALE_BYTES

    def is_keyframe(self, number: int) -> bool:
        """Whether a message is whole, by its number since the last synchronous step, whose own number is 0.

        In a plan without synchronous steps the first message is number 0.
        """
        if number == 0:
            return True
        return self.keyframe_interval is not None and number % self.keyframe_interval == 0


AUTO = ExchangeCoding(bits=4, block=32, keyframe_interval=None)
"""What ``coding="auto"`` compares with whole keys and values."""

AUTO_GAIN = 0.01
"""Share of the predicted latency that `AUTO` must save to be taken: it costs quality."""

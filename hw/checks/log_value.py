"""A record of the syndrome log as a value in hardware."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Value

from ..log_record import LOG_FIELDS, LOG_MASK_BITS, LOG_MASK_WORD, WORD_BITS


def padded(value: Value, bits: int) -> Value:
    """`value` in exactly `bits` bits."""
    return Cat(value, Const(0, bits))[:bits]


def log_record_value(values: Mapping[str, Value], mask: Value | None) -> Value:
    """All bits of a record.

    Parameters
    ----------
    values : mapping of str to Value
        What `brownout.hw.log_record.LOG_FIELDS` are, cut or filled up to their widths; fields that are not named are 0.
    mask : Value or None
        Bit i: column i of the segment is marked as uncorrectable. None without column checks.
    """
    assert values.keys() <= {field.name for field in LOG_FIELDS}
    parts: list[Value] = []
    end = 0
    for field in LOG_FIELDS:
        start = field.word * WORD_BITS + field.low
        parts += [Const(0, start - end), padded(values.get(field.name, Const(0, field.width)), field.width)]
        end = start + field.width
    parts.append(Const(0, LOG_MASK_WORD * WORD_BITS - end))
    if mask is not None:
        parts.append(padded(mask, LOG_MASK_BITS))
    return Cat(*parts)

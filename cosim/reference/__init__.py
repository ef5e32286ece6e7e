"""Timing errors and checksums of one GEMM command, written down from docs/protection.md without regard to speed.

RTL and fast twin are compared with this. It works in Python's and numpy's 64-bit integers, which hold every sum that
occurs without wrapping, and wraps where the page says so.
"""

from .carries import carry_pass, late_bits
from .checks import Located, find_double_errors, is_flagged, large
from .draws import draw, mix, pick
from .gemm import reference_gemm
from .numbers import check_weights, digits_of, wrap
from .result import ReferenceResult, SegmentOutcome

__all__ = [
    "Located",
    "ReferenceResult",
    "SegmentOutcome",
    "carry_pass",
    "check_weights",
    "digits_of",
    "draw",
    "find_double_errors",
    "is_flagged",
    "large",
    "late_bits",
    "mix",
    "pick",
    "reference_gemm",
    "wrap",
]

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brownout.host.stadi.plan.load import LoadTrace

TRACE = LoadTrace((0.0, 1.0, 3.0), (0.0, 1.0, 0.5))
"""Free for a second, taken for two, then half free."""


def test_work_passes_over_times_that_are_taken():
    assert TRACE.finish(0.25, 0.5) == 0.75
    assert TRACE.finish(0.5, 1.0) == 4.0
    assert TRACE.finish(2.0, 0.25) == 3.5
    assert TRACE.work(0.5, 4.0) == 1.0
    assert [TRACE.availability(time) for time in (0.0, 0.999, 1.0, 3.0, 99.0)] == [1, 1, 0, 0.5, 0.5]


@given(start=st.floats(0, 10), work=st.floats(0.001, 10))
def test_finish_and_work_are_inverse(start, work):
    assert TRACE.work(start, TRACE.finish(start, work)) == pytest.approx(work, rel=1e-9)


@pytest.mark.parametrize(
    ("starts", "duties", "message"),
    [
        ((), (), "LoadTrace needs as many starts_s as duties, and at least one, not 0 and 0"),
        ((0.0, 1.0), (0.0,), "LoadTrace needs as many starts_s as duties, and at least one, not 2 and 1"),
        ((0.5,), (0.0,), "LoadTrace.starts_s must begin with 0, not 0.5"),
        ((0.0, 2.0, 2.0), (0.0,) * 3, "LoadTrace.starts_s must rise and be finite, but 2.0 follows 2.0"),
        ((0.0,), (1.5,), "LoadTrace.duties must be in 0..1, not 1.5"),
        (
            (0.0,),
            (1.0,),
            "LoadTrace.duties must end below 1: a device that is never free again finishes nothing",
        ),
    ],
)
def test_bad_traces_are_refused(starts, duties, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LoadTrace(starts, duties)

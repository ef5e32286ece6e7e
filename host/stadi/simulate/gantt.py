"""Gantt chart of a timeline, as SVG that is put into a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from .timeline import Segment, Timeline

STYLE = """
.gantt { width: 100%; height: auto; display: block; font: 12.5px system-ui, sans-serif; }
.gantt text { fill: currentColor; } .gantt .soft { opacity: 0.62; }
.gantt .compute { fill: light-dark(#c8691f, #e08f4a); } .gantt .compute.odd { fill: light-dark(#dd8d4c, #c4722f); }
.gantt .warm { fill: light-dark(#3b6fb6, #6fa3ea); } .gantt .warm.odd { fill: light-dark(#6892cb, #4f7fc0); }
.gantt .wait { fill: light-dark(#d9d6cf, #3a3d45); } .gantt .exchange { fill: light-dark(#7a5ba6, #b79be0); }
.gantt .lost { fill: light-dark(#b3261e, #ff8a80); } .gantt .meeting { stroke: currentColor; opacity: 0.28; }
.gantt .axis { stroke: currentColor; opacity: 0.5; }
"""
"""For pages that show charts; they set ``color-scheme``."""

WIDTH, LEFT, RIGHT = 1000, 118, 92
BAR, GAP, TOP, AXIS = 30, 14, 8, 26

KINDS = {
    "warm": "computes, in step with all others",
    "compute": "computes, with what others sent before",
    "exchange": "waits for a link",
    "wait": "waits for others",
    "lost": "in vain",
}


class _Bar(NamedTuple):
    segment: Segment
    kind: str


def _bars(timeline: Timeline, device: str) -> list[_Bar]:
    """Segments of a device; computing of one step in one piece, as far as it is not interrupted."""
    synchronous = {
        step
        for plan, end in zip(timeline.plans, [*(p.first_step for p in timeline.plans[1:]), None], strict=True)
        for step in range(plan.first_step, plan.async_start if end is None else min(end, plan.async_start))
    }
    bars: list[_Bar] = []
    for segment in timeline.segments:
        if segment.device != device:
            continue
        kind = "warm" if segment.kind == "compute" and segment.step in synchronous else segment.kind
        last = bars[-1] if bars else None
        if last and last.kind == kind and last.segment.step == segment.step and last.segment.end_s == segment.start_s:
            bars[-1] = last._replace(segment=last.segment._replace(end_s=segment.end_s))
        else:
            bars.append(_Bar(segment, kind))
    return bars


def _tick(span_s: float) -> float:
    """Distance of marks on the axis: 1, 2 or 5 times a power of ten, five to ten of them."""
    power = 1e-12
    while True:
        for factor in (1, 2, 5):
            if span_s / (factor * power) <= 10:
                return factor * power
        power *= 10


def _time(seconds: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:g} {unit}"
    return f"{seconds / 1e-9:g} ns" if seconds else "0"


def sync_points(timeline: Timeline) -> list[float]:
    """Times at which all devices have met, but for the last one: the end."""
    ends = {end for plan in timeline.plans for _, end in plan.intervals}
    found = []
    for end in sorted(ends):
        times = [s.end_s for s in timeline.segments if s.kind in ("compute", "wait", "exchange") and s.step < end]
        if times and end < timeline.plans[0].steps:
            found.append(max(times))
    return found


def gantt_svg(timeline: Timeline, *, devices: Sequence[str] | None = None, until_s: float | None = None) -> str:
    """Draw who computes and waits when.

    Parameters
    ----------
    timeline : Timeline
        What became of a plan.
    devices : sequence of str, optional
        Rows of the chart; by default those of the timeline.
    until_s : float, optional
        End of the time axis, for charts that are to be compared; by default the latency.

    Returns
    -------
    str
        An ``<svg class="gantt">`` that needs `STYLE`.
    """
    names = list(timeline.busy_s if devices is None else devices)
    span = timeline.latency_s if until_s is None else until_s
    scale = (WIDTH - LEFT - RIGHT) / span
    bottom = TOP + len(names) * (BAR + GAP)
    parts = []
    for row, name in enumerate(names):
        y = TOP + row * (BAR + GAP)
        parts.append(f'<text x="0" y="{y + 19}">{html.escape(name)}</text>')
        for bar in _bars(timeline, name):
            start, end = bar.segment.start_s, bar.segment.end_s
            odd = " odd" if bar.segment.step % 2 and bar.kind in ("compute", "warm") else ""
            title = f"{KINDS[bar.kind]}, step {bar.segment.step}: {(end - start) * 1e6:,.1f} µs"
            parts.append(
                f'<rect class="{bar.kind}{odd}" x="{LEFT + start * scale:.2f}" y="{y}" '
                f'width="{max((end - start) * scale, 0.3):.2f}" height="{BAR}"><title>{title}</title></rect>'
            )
        share = timeline.utilisation.get(name)
        busy = "unused" if share is None else f"{min(share, 1.0):.0%} busy"
        parts.append(f'<text class="soft" x="{WIDTH}" y="{y + 19}" text-anchor="end">{busy}</text>')
    for time_s in sync_points(timeline):
        x = LEFT + time_s * scale
        parts.append(f'<line class="meeting" x1="{x:.2f}" y1="2" x2="{x:.2f}" y2="{bottom - GAP + 5}"/>')
    tick, at = _tick(span), 0.0
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>')
    while at <= span * (1 + 1e-9):
        x = LEFT + at * scale
        parts.append(f'<line class="axis" x1="{x:.2f}" y1="{bottom}" x2="{x:.2f}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="soft" x="{x:.2f}" y="{bottom + 18}" text-anchor="middle">{_time(round(at, 12))}</text>'
        )
        at += tick
    return (
        f'<svg class="gantt" viewBox="0 0 {WIDTH} {bottom + AXIS}" role="img" '
        f'aria-label="Gantt chart of {len(names)} devices">{"".join(parts)}</svg>'
    )


def legend(timelines: Sequence[Timeline]) -> str:
    """What the colours of some charts mean."""
    seen = {bar.kind for timeline in timelines for name in timeline.busy_s for bar in _bars(timeline, name)}
    items = [
        f'<span><svg width="12" height="12"><rect class="{kind}" width="12" height="12" rx="3"/></svg> {text}</span>'
        for kind, text in KINDS.items()
        if kind in seen
    ]
    return f'<p class="gantt legend">{" &ensp; ".join(items)}</p>'

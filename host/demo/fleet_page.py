"""The part of the demo's page that shows one image over two accelerators."""

from __future__ import annotations

import html
import math

from ..stadi.simulate.gantt import gantt_svg, legend
from .fleet import LABEL, ON_RTL, STEPS, WARMUP_STEPS, SharedImage
from .markup import img, section

TITLES = {
    "single": "The large one alone",
    "uniform": "Equal halves",
    "elastic": "Rows by speed",
    "stadi": "Rows and strides by speed",
}


def _rows(shared: SharedImage, method: str) -> str:
    shares = {share.device: share for share in shared.twin[method].timeline.plans[0].shares}
    parts = []
    for device in shared.devices:
        share = shares.get(device.name)
        if share is not None:
            stride = "" if share.stride == 1 else f", every {share.stride}nd step"
            parts.append(
                f"{device.name}: {share.count} of {shared.spec.image_size // shared.spec.patch_size} rows{stride}"
            )
    return html.escape("; ".join(parts))


def _run(shared: SharedImage, method: str, until_s: float) -> str:
    made = shared.rtl if method == ON_RTL else shared.twin[method]
    timeline, single = made.timeline, shared.twin["single"].timeline.latency_s
    change = "" if method == "single" else f" ({timeline.latency_s / single - 1:+.0%})".replace("-", "\N{MINUS SIGN}")
    distance = shared.psnr_db[method]
    kept = "the same picture" if math.isinf(distance) else f"{distance:.0f} dB to the picture of one"
    mark = '<b class="good">✓</b>' if shared.recognised[method] else '<b class="bad">✗</b>'
    figure = (
        f"<figure>{img(shared.images[method], f'{LABEL}, {TITLES[method]}')}<figcaption>{mark}</figcaption></figure>"
    )
    facts = (
        f"{timeline.latency_s * 1e3:.2f} ms{change} · {timeline.energy_j * 1e6:,.0f} µJ · {kept}"
        f"{' · on RTL' if method == ON_RTL else ''}"
    )
    return (
        f'<div class="run"><header><h3>{TITLES[method]}</h3><span>{facts}</span></header><div class="shared">{figure}'
        f"<div>{gantt_svg(timeline, devices=[device.name for device in shared.devices], until_s=until_s)}"
        f'<p class="soft">{_rows(shared, method)}</p></div></div></div>'
    )


def fleet_section(shared: SharedImage) -> str:
    """Pictures, times and a Gantt chart of each plan."""
    until_s = max(made.timeline.latency_s for made in shared.twin.values())
    verdict = (
        '<p class="verdict good">✓ Two simulators, one image: pixels, times and energy are those of the twin</p>'
        if shared.mismatch is None
        else f'<p class="verdict bad">RTL and twin differ: {html.escape(shared.mismatch)}</p>'
    )
    text = (
        f"The digit {LABEL} of the model {shared.spec.name} in {STEPS} steps with guidance, by a large and a small "
        f"accelerator, 25 GB/s between them. Each denoises some rows of patches. In the first {WARMUP_STEPS} steps or "
        "more all wait for the keys and values of all rows; after that each uses what the others sent before, and the "
        "slow one may take two steps at once. Lines mark where all meet. Simulated time, without the host."
    )
    runs = "".join(_run(shared, method, until_s) for method in shared.twin)
    return section("One image, two unequal accelerators", text, verdict + legend([shared.rtl.timeline]) + runs)

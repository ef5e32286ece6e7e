"""The report of STADI: one HTML file. Run by benchmarks/stadi.py."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from brownout.host.stadi.plan.planner import METHODS
from brownout.host.stadi.simulate.gantt import STYLE as GANTT_STYLE
from brownout.host.stadi.simulate.gantt import gantt_svg, legend
from brownout.host.stadi.simulate.timeline import Timeline

from .drift import STYLE, percent, plain, table

COUNTS, RATIOS = (2, 3, 4, 8), (1, 2, 3, 4)

TITLES = {
    "single": "single device",
    "guidance": "halves of guidance",
    "uniform": "uniform patches (DistriFusion)",
    "elastic": "elastic patches",
    "steps": "step allocation",
    "thresholds": "both, by thresholds",
    "stadi": "STADI, searched",
}

REACHED = (
    ("reduction_vs_patch_1to2", "Latency saved over uniform patches, 1:2", "0.45", True),
    ("reduction_vs_elastic_1to2", "Latency saved over elastic patches, 1:2", "0.20", True),
    ("bound_ratio_min", "Least bound over latency, constant load", "0.95", True),
    ("bound_ratio_min_varying", "Least bound over latency, varying load", "0.85", True),
    ("utilisation_min", "Least utilisation of a device, constant load", "0.90", True),
    ("planner_error_max", "Largest error of a predicted latency", "0.03", False),
    ("joint_energy_saving", "Energy saved by operating points, no errors", "0.15", True),
    ("psnr_stride2_1to2_db", "PSNR of STADI's images for 1:2, dB", "32", True),
    ("psnr_headroom_db", "The same, above a single device at half the steps, dB", "-1.5", True),
    ("agreement_drop_stride2_1to2", "Class agreement lost", "0.01", False),
)


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes
    ----------
    metrics : dict of str to float
        As in the result file.
    settings : dict
        Each setting in time.
    timelines : dict of str to Timeline
        By method and fleet.
    pictures : dict of str to torch.Tensor
        float32 (N, 1, H, W) of each setting of quality.
    """

    metrics: Mapping[str, float]
    settings: Mapping[str, Any]
    timelines: Mapping[str, Timeline]
    pictures: Mapping[str, torch.Tensor]


def headlines(report: Report) -> str:
    """Figures against what was to be reached."""
    rows = []
    for name, title, wanted, more in REACHED:
        value = report.metrics[name]
        good = value >= float(wanted) if more else value <= float(wanted)
        rows.append(
            (title, plain(value, ".3f"), f"{'at least' if more else 'at most'} {wanted}", "yes" if good else "no")
        )
    return table(("", "measured", "to reach", "reached"), rows)


def charts(report: Report, name: str) -> str:
    """Gantt charts of all methods on one fleet, on one time axis."""
    found = {
        method: report.timelines[f"{method}_{name}"] for method in METHODS if f"{method}_{name}" in report.timelines
    }
    until = max(timeline.latency_s for timeline in found.values())
    devices = list(dict.fromkeys(device for timeline in found.values() for device in timeline.busy_s))
    parts = [legend(list(found.values()))]
    for method, timeline in found.items():
        title = f"{TITLES[method]}: {timeline.latency_s * 1e3:,.0f} ms, {timeline.energy_j:,.1f} J"
        parts.append(f"<h3>{html.escape(title)}</h3>{gantt_svg(timeline, devices=devices, until_s=until)}")
    return "".join(parts)


def latencies(report: Report) -> str:
    """All methods, numbers of devices and ratios."""
    rows = []
    for count in COUNTS:
        for ratio in RATIOS:
            key = f"1to{ratio}_{count}"
            values = [report.metrics.get(f"latency_{method}_{key}") for method in METHODS]
            stadi = report.settings[f"stadi_{key}"]
            rows.append(
                (
                    f"{count} devices, 1:{ratio}",
                    *("-" if value is None else f"{value * 1e3:,.0f}" for value in values),
                    percent(min(stadi["utilisation"].values())),
                    plain(stadi["bound_ratio"], ".3f"),
                    percent(max(stadi["exposed_s"].values()) / stadi["latency_s"]),
                    plain(stadi["energy_j"], ".1f"),
                )
            )
    return table(("ms", *METHODS, "utilisation", "bound", "exposed", "J"), rows)


def varying(report: Report) -> str:
    """Loads that change."""
    rows = []
    for name, setting in report.settings.items():
        if name.startswith("varying_"):
            rows.append(
                (
                    name.removeprefix("varying_").replace("_", " "),
                    f"{setting['latency_s'] * 1e3:,.0f}",
                    plain(setting["bound_ratio"], ".3f"),
                    percent(report.metrics[f"{name}_reduction_vs_fixed"]),
                    percent(report.metrics[f"{name}_reduction_vs_elastic"]),
                    str(setting["plans"]),
                )
            )
    return table(("load", "ms", "bound", "saved over the first plan", "over elastic", "plans"), rows)


def quality(report: Report) -> str:
    """Images against those of a single device."""
    metrics, rows = report.metrics, []
    for name in report.pictures:
        rows.append(
            (
                name.replace("_", " "),
                plain(metrics.get(f"psnr_{name}_db"), ".1f"),
                plain(metrics.get(f"psnr_worst_{name}_db"), ".1f"),
                plain(metrics.get(f"perceptual_{name}"), ".4f"),
                plain(metrics[f"agreement_{name}"], ".3f"),
            )
        )
    sheet = "".join(
        f'<tr><td>{name.replace("_", " ")}</td><td><img alt="{name}" src="{_strip(images)}"></td></tr>'
        for name, images in report.pictures.items()
    )
    head = ("", "PSNR, dB", "worst image", "perceptual distance", "agreement")
    return table(head, rows) + f'<div class="scroll"><table class="pictures">{sheet}</table></div>'


def _strip(images: torch.Tensor) -> str:
    """PNG of images side by side."""
    pixels = (torch.cat([*images[:, 0]], 1) * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(report: Report, path: Path) -> Path:
    """Write the page and return its path."""
    count = int(report.metrics["images"])
    document = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>STADI on unequal accelerators</title><style>{STYLE}{GANTT_STYLE}
.gantt {{ background: none; }} .legend svg {{ vertical-align: -1px; background: none; }}
h3 {{ font-size: 15px; margin: 18px 0 4px; }}
.pictures img {{ height: 44px; image-rendering: pixelated; display: block; }}</style></head><body><main>
<h1>One image over several unequal accelerators</h1>
<p class="soft">Latency: DiT-XL/2 at 512 x 512 with guidance, 50 steps of which at least 4 are synchronous,
simulated time. Images: {count} of each setting, a transformer with 14 rows of patches on MNIST, int8.</p>
<h2>Figures</h2>{headlines(report)}
<h2>Two devices, one half as fast</h2>{charts(report, "1to2_2")}
<h2>Constant load</h2><p class="soft">Latency of each method; utilisation (least of any device), bound over
latency, largest share of time that a device waits for links, and energy of STADI's plan.</p>{latencies(report)}
<h2>Varying load</h2>{varying(report)}
<h2>Images</h2><p class="soft">Against those of a single device in 50 steps, from the same noise.</p>{quality(report)}
</main></body></html>
"""
    path.write_text(document, encoding="utf-8")
    return path

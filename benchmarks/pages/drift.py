"""The report of DRIFT: one HTML file, made from result files only. Run by benchmarks/drift.py."""

from __future__ import annotations

import html
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brownout.host.storage.files import read_json
from brownout.host.storage.results import Results

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c1d21, #e9e7e2); --soft: light-dark(#62646d, #9a9ca6);
  --rule: light-dark(#e4e1db, #2e3139); --ground: light-dark(#fbfaf8, #15161a); }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 48px 24px 80px; } h1 { font-size: 32px; letter-spacing: -0.02em; }
h2 { font-size: 20px; margin: 44px 0 6px; } p { max-width: 46em; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14.5px; }
th, td { text-align: right; padding: 5px 12px; border-bottom: 1px solid var(--rule); } th:first-child, td:first-child {
  text-align: left; padding-left: 0; } svg { max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
"""

MODEL_TITLES = {"dit": "DiT-XL/2-512", "pixart": "PixArt-alpha", "sd15": "SD 1.5"}

STRATEGIES = {
    "unprotected": ("unprotected", "#9aa0a6"),
    "drop": ("drop", "#b07aa1"),
    "zeroing": ("zeroing ABFT", "#e15759"),
    "recompute": ("recompute ABFT", "#76b7b2"),
    "dmr": ("DMR", "#59a14f"),
    "drift": ("DRIFT as published", "#f28e2b"),
    "ours_s16_v25_e0": ("rollback, S = 16, checks a quarter up", "#8cb8e6"),
    "ours_s16p_v25_e0": ("the same, double errors located too", "#2f6db5"),
}


def load(folder: Path, name: str) -> dict[str, Any]:
    """A result file; empty if there is none."""
    path = folder / f"{name}.json"
    return asdict(read_json(path, Results)) if path.exists() else {}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table of texts."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text; a dash for none."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def plain(value: float | None, form: str = ".2f") -> str:
    """A number as text; a dash for none."""
    return "-" if value is None else format(value, form)


def costs_section(metrics: dict[str, float]) -> str:
    """The published savings, reproduced, and rollback under the same model."""
    rows = []
    for key, title in MODEL_TITLES.items():
        rows.append(
            [
                title,
                percent(metrics.get(f"paper_published_{key}")),
                percent(metrics.get(f"paper_model_{key}")),
                percent(metrics.get(f"paper_checked_{key}")),
                percent(metrics.get(f"ours_saving_{key}")),
                plain(metrics.get(f"ours_speedup_{key}")) + "x",
            ]
        )
    rows.append(
        [
            "mean",
            percent(metrics.get("paper_published_mean")),
            percent(metrics.get("paper_model_mean")),
            percent(metrics.get("drift_saving_avg")),
            percent(metrics.get("ours_saving_avg")),
            plain(metrics.get("ours_speedup_avg")) + "x",
        ]
    )
    head = [
        "energy saved",
        "DRIFT, published",
        "its model, recomputed",
        "with check energy",
        "rollback",
        "rollback, overclocked",
    ]
    return table(head, rows)


def whole_section(metrics: dict[str, float]) -> str:
    """Whole models, executed: joules before and after, and how the saving depends on what is assumed."""
    models = [key for key in MODEL_TITLES if f"whole_saving_{key}" in metrics]
    rows = [
        [
            MODEL_TITLES[key],
            plain(metrics[f"nominal_joule_per_image_{key}"]) + " J",
            plain(metrics[f"joule_per_image_{key}"]) + " J",
            percent(metrics[f"whole_saving_{key}"]),
            plain(metrics[f"whole_speedup_{key}"]) + "x",
            percent(metrics.get(f"whole_saving_drift_{key}")),
        ]
        for key in models
    ]
    head = ["an image", "nominal", "undervolted", "saved", "overclocked", "saved by DRIFT"]
    assumed = [
        [name.removeprefix("whole_saving_").removesuffix("_avg"), percent(value)]
        for name, value in metrics.items()
        if name.startswith("whole_saving_") and name.endswith("_avg") and name != "whole_saving_avg"
    ]
    return table(head, rows) + table(["mean saving, if one thing is another", ""], assumed)


def curves(metrics: dict[str, float]) -> dict[str, list[tuple[float, float]]]:
    """Distance over rate, by variant."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, value in metrics.items():
        if name.startswith("distance_"):
            variant, _, rate = name.removeprefix("distance_").rpartition("_")
            found[variant].append((float(rate), value))
    return {variant: sorted(points) for variant, points in found.items()}


def plot(metrics: dict[str, float]) -> str:
    """SVG of distances over rates."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "brownout"
    figure, axes = pyplot.subplots(figsize=(8.4, 4.2))
    for variant, points in curves(metrics).items():
        if variant in STRATEGIES and len(points) > 1:
            title, colour = STRATEGIES[variant]
            rates, values = zip(*points, strict=True)
            axes.loglog(rates, [max(value, 1e-5) for value in values], "o-", ms=3.5, label=title, color=colour)
    axes.set_xlabel("errors per output")
    axes.set_ylabel("perceptual distance to the clean run")
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8.5)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def quality_section(folder: Path) -> str:
    """One plot and one table for each model and model of timing errors."""
    parts = []
    for path in sorted(folder.glob("drift_quality_*.json")):
        results = read_json(path, Results)
        metrics, config = results.metrics, results.config
        lines = curves(metrics)
        rates = sorted({rate for points in lines.values() for rate, _ in points})
        rows = []
        for variant, points in lines.items():
            values = dict(points)
            rows.append([variant, *(plain(values.get(rate), ".4f") for rate in rates)])
        title = f"{config['model']}, errors of the model “{config['timing']}”, {config['steps']} steps"
        parts.append(f"<h3>{html.escape(title)}</h3>{plot(metrics) if len(rates) > 1 else ''}")
        parts.append(table(["distance at rate", *(f"{rate:.2g}" for rate in rates)], rows))
    return "".join(parts)


def rates_section(metrics: dict[str, float]) -> str:
    """Largest rates at kept quality."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        if name.startswith("quality_rate_ours_s"):
            variant, _, model = name.removeprefix("quality_rate_").rpartition("_")
            found[variant][model] = value
    models = sorted({model for each in found.values() for model in each})
    return table(["scheme", *models], [[v, *(plain(each.get(m), ".3g") for m in models)] for v, each in found.items()])


def rtl_section(metrics: dict[str, float]) -> str:
    """What ran on RTL."""
    rows = []
    for name, value in metrics.items():
        if name.startswith("rtl_identical_"):
            model = name.removeprefix("rtl_identical_")
            figures = [
                f"{metrics[f'rtl_{each}_{model}']:,.0f}" for each in ("cycles", "injected", "corrected", "suppressed")
            ]
            rows.append([model, "identical" if value else "DIFFERENT", *figures])
    return table(["model", "RTL and twin", "cycles", "errors", "corrected", "rolled back"], rows)


def write_page(folder: Path) -> Path:
    """Write ``drift.html`` beside the result files.

    Parameters
    ----------
    folder : Path
        Of ``drift.json`` and the others; what is missing is left out.
    """
    document = load(folder, "drift")
    metrics, config = document.get("metrics", {}), document.get("config", {})
    ratio, scheme = plain(metrics.get("quality_rate_ratio"), ".1f"), config.get("saving_scheme")
    summary = (
        f"Of the energy of a whole image, with memory and all bytes that the host moves, undervolting with rollback "
        f"saves {percent(metrics.get('whole_saving_avg'))} on the mean of three models, or makes it "
        f"{plain(metrics.get('whole_speedup_avg'))}x as fast ({config.get('whole_variant')}), at the quality of DRIFT "
        f"at an error rate of 3e-3. In what DRIFT counts, rollback stands {ratio} times as many errors ({scheme}): "
        f"{percent(metrics.get('ours_saving_avg'))} of the energy saved instead of "
        f"{percent(metrics.get('drift_saving_avg'))} by the published ratios of energies, checks priced alike, or "
        f"{plain(metrics.get('ours_speedup_avg'))}x the speed instead of {plain(metrics.get('drift_speedup_avg'))}x."
    )
    body = f"""<h1>DRIFT, with real checksums</h1><p>{html.escape(summary)}</p>
<h2>Energy and speed of the whole chip, executed</h2>{whole_section(metrics)}
<h2>Energy and speed by the published ratios</h2>{costs_section(metrics)}
<p class="soft">The guard band alone (0.85 V, no errors) saves {percent(metrics.get("guardband_saving"))}. Conventions:
docs/drift.md.</p>
<h2>Largest error rate at DRIFT's quality</h2>{rates_section(metrics)}
<h2>On RTL</h2>{rtl_section(metrics)}
<h2>Quality over error rate, identical errors</h2>{quality_section(folder)}"""
    path = folder / "drift.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>DRIFT, with real checksums</title><style>{STYLE}</style><main>{body}</main></html>\n"
    )
    return path

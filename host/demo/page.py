"""The demo's page: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from ..device.power.timing import DelayModel
from ..drift.operating_point import OperatingPoint
from ..offloading import LayerReport
from ..stadi.simulate.gantt import STYLE as GANTT_STYLE
from .fleet_page import fleet_section
from .markup import folded, img, section
from .run import Demo, DemoOutcome
from .style import STYLE

STRIP_LABEL = 3
"""Class whose way from noise to picture is shown."""

PARTS = {"mac": "array", "check": "checksums", "memory": "memory", "leakage": "leakage"}
"""Parts of the energy in `Run.energy_j`, as the page calls them."""

ARRAY_PARTS = ("mac", "check")


def _change(value: float, reference: float) -> str:
    """Difference in percent, with its sign."""
    return f"{value / reference - 1:+.1%}".replace("-", "\N{MINUS SIGN}")


def _point(point: OperatingPoint, *, checked: bool) -> str:
    """Operating point and what errs at it."""
    delay_model = DelayModel()
    parts = [f"array {point.voltage_v:g} V"]
    if checked and point.check_voltage_v is not None:
        parts.append(f"checksums {point.check_voltage_v:g} V")
    parts.append(f"{point.frequency_hz / 1e9:g} GHz")
    rate = delay_model.error_rate(point.voltage_v, point.frequency_hz)
    parts.append(f"{rate * 1e6:,.0f} errors per million outputs" if rate else "no errors")
    return " · ".join(parts)


def _picture(outcome: DemoOutcome, index: int, name: str) -> str:
    good, psnr = bool(outcome.recognised[index]), float(outcome.psnr_db[index])
    mark = '<b class="good">✓</b>' if good else '<b class="bad">✗</b>'
    distance = "" if math.isinf(psnr) else f" {psnr:.0f} dB"
    text = f"{name}, {outcome.scenario.title}"
    return f"<figure>{img(outcome.rtl.images[index], text)}<figcaption>{mark}{distance}</figcaption></figure>"


def _fact(value: str, caption: str) -> str:
    return f"<div><b>{value}</b><span>{html.escape(caption)}</span></div>"


def _facts(demo: Demo, outcome: DemoOutcome) -> str:
    name, stats, images, metrics = outcome.scenario.name, outcome.rtl.stats, len(demo.labels), demo.metrics
    energy, reference = outcome.rtl.energy_j(), demo.nominal.rtl.energy_j()
    array, total = energy["mac"] + energy["check"], stats["energy_j"]
    if outcome is demo.nominal:
        changes, suffix, against, psnr = ("", ""), "", "float32", metrics["psnr_to_float32_db"]
    else:
        changes = (_change(array, reference["mac"]), _change(total, demo.nominal.rtl.stats["energy_j"]))
        suffix, against, psnr = f"_{name}", "nominal", metrics[f"psnr_{name}_db"]
    facts = [
        _fact(f"{array / images * 1e6:.2f} µJ", f"an image, array and checksums {changes[0]}"),
        _fact(f"{total / images * 1e6:.1f} µJ", f"an image, memory too {changes[1]}"),
        _fact(f"{metrics[f'class_agreement{suffix}']:.0%}", "recognised"),
        _fact(f"{psnr:.1f} dB", f"PSNR to {against}"),
    ]
    if outcome is not demo.nominal:
        facts += [
            _fact(f"{metrics[f'perceptual_{name}']:.4f}", "perceptual distance to nominal"),
            _fact(f"{stats['injected']:,.0f}", "timing errors"),
        ]
    if stats["checks"]:
        facts += [
            _fact(f"{stats['corrected']:,.0f}", "corrected"),
            _fact(f"{stats['rolled_back']:,.0f}", "elements rolled back"),
        ]
    return f'<div class="facts">{"".join(facts)}</div>'


def _run(demo: Demo, outcome: DemoOutcome) -> str:
    pictures = "".join(_picture(outcome, index, name) for index, name in enumerate(demo.class_names))
    point = _point(outcome.scenario.point, checked=bool(outcome.rtl.stats["checks"]))
    return (
        f'<div class="run"><header><h3>{html.escape(outcome.scenario.title)}</h3><span>{point}</span></header>'
        f'<div class="scroll"><div class="pictures">{pictures}</div></div>{_facts(demo, outcome)}</div>'
    )


def _pictures(demo: Demo) -> str:
    text = (
        "Same noise in each column, drawn on RTL. The first evaluation is at the nominal point, for there is nothing "
        "to go back to; after it every layer, embeddings and attention included, is at the low one. In attention, "
        "where nothing is kept to go back to, errors that cannot be corrected stay. ✓: recognised as what was asked "
        "for; dB: PSNR to the nominal run."
    )
    return section("Pictures", text, "".join(_run(demo, outcome) for outcome in demo.outcomes))


def _bar(demo: Demo, energy: dict[str, float], parts: Sequence[str]) -> str:
    """Stacked bar of some parts; the run that takes most of them fills its cell."""
    each_run = (outcome.rtl.energy_j() for outcome in demo.outcomes)
    full = max(sum(run[part] for part in parts) for run in each_run)
    pieces = (f'<i class="{part}" style="width:{energy[part] / full:.2%}" title="{PARTS[part]}"></i>' for part in parts)
    return f'<td class="bar"><div class="stack">{"".join(pieces)}</div></td>'


def _energy_row(demo: Demo, outcome: DemoOutcome) -> str:
    energy, images = outcome.rtl.energy_j(), len(demo.labels)
    total, nominal = sum(energy.values()), sum(demo.nominal.rtl.energy_j().values())
    cells = "".join(f"<td>{energy[part] / images * 1e6:.2f}</td>" for part in PARTS)
    change = "" if outcome is demo.nominal else f" <small>{_change(total, nominal)}</small>"
    return (
        f"<tr><td>{html.escape(outcome.scenario.title)}</td>{cells}<td>{total / images * 1e6:.2f}{change}</td>"
        f"<td>{outcome.rtl.stats['time_s'] / images * 1e6:.1f}</td>"
        f"{_bar(demo, energy, ARRAY_PARTS)}{_bar(demo, energy, tuple(PARTS))}</tr>"
    )


def _energy(demo: Demo) -> str:
    before, after = demo.nominal.rtl.energy_j(), demo.outcomes[-1].rtl.energy_j()
    total = sum(before.values())
    macs_per_output = demo.metrics["macs"] / sum(layer.rows * layer.n for layer in demo.nominal.rtl.layers)
    text = (
        f"Undervolted with rollback, the whole takes {_change(sum(after.values()), total)}: checksums, memory and "
        f"leakage in it. Of the array with its checksums alone that is "
        f"{_change(after['mac'] + after['check'], before['mac'])}. Memory stays at its voltage, and takes "
        f"{before['memory'] / total:.0%} of the energy at nominal voltage: this model is small, and writes 4 bytes of "
        f"sums for every {macs_per_output:.0f} multiply-accumulates."
    )
    head = "".join(f'<th><i class="{part}"></i>{name}</th>' for part, name in PARTS.items())
    body = "".join(_energy_row(demo, outcome) for outcome in demo.outcomes)
    table = (
        f'<div class="scroll"><table class="energy"><thead><tr><th>µJ per image</th>{head}<th>in all</th><th>µs</th>'
        f'<th class="bar">array, checksums</th><th class="bar">in all</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return section("Energy", text, table)


def _strip(demo: Demo) -> str:
    index, lines = demo.labels.index(STRIP_LABEL), []
    for outcome in demo.outcomes:
        lines.append(f"<span>{html.escape(outcome.scenario.name)}</span>")
        for step, latents in enumerate(outcome.rtl.trace.latents, start=1):
            picture = (latents[index] / 2 + 0.5).clamp(0, 1)
            lines.append(img(picture, f"{outcome.scenario.name}, after step {step}"))
    steps = len(demo.nominal.rtl.trace.latents)
    content = f'<div class="scroll"><div class="strip" style="--steps:{steps}">{"".join(lines)}</div></div>'
    title = f"From noise to picture: {demo.class_names[index]}"
    return section(title, "Latents on RTL after each DDIM step.", content)


def _fleet(demo: Demo) -> str:
    return fleet_section(demo.shared)


def _layer_row(name: str, shape: str, calls: int, macs: int, cycles: int, utilisation: float) -> str:
    return (
        f"<tr><td>{html.escape(name)}</td><td>{shape}</td><td>{calls:,}</td><td>{macs / 1e6:,.2f}</td>"
        f"<td>{cycles:,}</td>"
        f'<td class="meter" style="--share:{utilisation:.1%}">{utilisation:.1%}</td></tr>'
    )


def _layer_shape(layer: LayerReport) -> str:
    return f"{layer.rows // layer.calls} &times; {layer.k} &times; {layer.n}"


def _layers(demo: Demo) -> str:
    layers = demo.nominal.rtl.layers
    body = "".join(
        _layer_row(
            layer.name, _layer_shape(layer), layer.calls, layer.macs, layer.cycles or 0, layer.utilisation or 0.0
        )
        for layer in layers
    )
    total = _layer_row(
        f"{len(layers)} layers",
        "",
        sum(layer.calls for layer in layers),
        sum(layer.macs for layer in layers),
        int(demo.metrics["sim_cycles"]),
        demo.metrics["utilisation"],
    )
    table = (
        '<div class="scroll"><table class="layers"><thead><tr><th>layer</th><th>M &times; K &times; N</th>'
        f"<th>calls</th><th>M MACs</th><th>cycles</th><th>utilisation</th></tr></thead><tbody>{body}</tbody>"
        f"<tfoot>{total}</tfoot></table></div>"
    )
    hint = (
        f"{demo.metrics['utilisation']:.1%} of the array's peak used, {demo.metrics['sim_cycles'] / 1e6:.2f} M cycles"
    )
    text = (
        "The nominal run. Utilisation is ideal cycles (M · ⌈K/rows⌉ · ⌈N/cols⌉) over all cycles of the layer's "
        "commands, from the fetch of the command to the last write."
    )
    return folded("Layers", hint, text, table)


def _float32(demo: Demo) -> str:
    pictures = "".join(
        f"<figure>{img(image, f'{name}, float32')}</figure>"
        for name, image in zip(demo.class_names, demo.float32, strict=True)
    )
    hint = f"int8 to float32: {demo.metrics['psnr_to_float32_db']:.1f} dB PSNR"
    content = f'<div class="scroll"><div class="pictures">{pictures}</div></div>'
    return folded("Without quantisation", hint, "The float32 model in PyTorch, from the same noise.", content)


def _settings(demo: Demo) -> str:
    fields = demo.config.to_dict()
    for group in ("memory", "checksum"):
        fields |= {f"{group}.{name}": value for name, value in fields.pop(group).items()}
    fields |= {"model": demo.spec.name, "seed": demo.seed}
    fields |= {name: demo.metrics[name] for name in ("num_inference_steps", "guidance_scale")}
    content = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in fields.items()
    )
    text = (
        f"One accelerator for all runs, simulated at {demo.metrics['sim_cycles_per_s'] / 1e3:,.0f} k cycles per second "
        f"of wall-clock time; {demo.metrics['wall_s']:.0f} s in all."
    )
    hint = f"{demo.config.rows} x {demo.config.cols} array"
    return folded("Configuration", hint, text, f"<dl>{content}</dl>")


def _verdict(demo: Demo) -> str:
    if demo.mismatch is not None:
        return f'<p class="verdict bad">RTL and twin differ: {html.escape(demo.mismatch)}</p>'
    calls = sum(len(outcome.rtl.trace.layers) for outcome in demo.outcomes)
    steps = sum(len(outcome.rtl.trace.latents) for outcome in demo.outcomes)
    return (
        f'<p class="verdict good">✓ Bit-identical on RTL and twin: {len(demo.outcomes)} runs, {calls:,} layer calls, '
        f"{steps} steps</p>"
    )


def write_page(demo: Demo, path: Path) -> Path:
    """Write the page.

    Parameters
    ----------
    demo : Demo
        What was measured.
    path : Path
        The HTML file.

    Returns
    -------
    Path
        `path`.
    """
    array = f"{demo.config.rows}&times;{demo.config.cols}"
    sections = (_pictures, _energy, _strip, _fleet, _layers, _float32, _settings)
    document = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Brownout: {html.escape(demo.spec.name)} on RTL</title><style>{STYLE}{GANTT_STYLE}</style></head><body><main>
<h1>Ten {html.escape(demo.spec.subject)}, drawn below the safe voltage</h1>
<p class="soft">A class-conditional diffusion transformer ({html.escape(demo.spec.name)},
{demo.spec.num_layers} layers) starts from noise and denoises it in {len(demo.nominal.rtl.trace.latents)} steps, every
layer of every step in int8 on a simulated {array} accelerator: at its nominal voltage, at
{demo.metrics["voltage_v"]:g} V where its sums err, and there once more with checksums that correct errors and roll back
what they cannot correct.</p>
{_verdict(demo)}
{"".join(part(demo) for part in sections)}
</main></body></html>
"""
    path.write_text(document, encoding="utf-8")
    return path

"""The demo's page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import torch
from PIL import Image

from ..offloading import LayerReport
from .run import Demo

STRIP_LABEL = 3
"""Class whose way from noise to picture is shown."""

_STYLE = """
:root { color-scheme: light dark;
  --ground: light-dark(#fbfaf8, #15161a); --panel: light-dark(#ffffff, #1d1f25); --ink: light-dark(#1c1d21, #e9e7e2);
  --soft: light-dark(#6a6c75, #9a9ca6); --rule: light-dark(#e4e1db, #2e3139); --accent: light-dark(#b4530a, #f2a35c);
  --good: light-dark(#14713d, #6fd39b); --bad: light-dark(#b3261e, #ff8a80); --bar: light-dark(#f0d9c4, #4a3726); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 10px; font-weight: 650; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 52px 0 6px; font-weight: 650; }
p { margin: 0 0 14px; max-width: 46em; } .soft { color: var(--soft); }
.verdict { display: inline-block; margin: 14px 0 26px; padding: 7px 14px; border-radius: 999px; font-weight: 600;
  font-size: 15px; border: 1.5px solid currentColor; } .good { color: var(--good); } .bad { color: var(--bad);
  border-radius: 10px; }
.figures { display: grid; grid-template-columns: repeat(6, 1fr); gap: 1px;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 12px; overflow: hidden; }
.figures div { background: var(--panel); padding: 16px 18px; } .figures b { display: block; font-size: 25px;
  letter-spacing: -0.02em; font-weight: 620; font-variant-numeric: tabular-nums; } .figures span { color: var(--soft);
  font-size: 13.5px; }
@media (max-width: 900px) { .figures { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 480px) { .figures { grid-template-columns: repeat(2, 1fr); } }
.scroll { overflow-x: auto; }
.pictures { border-spacing: 6px; margin-left: -6px; width: 100%; min-width: 600px; table-layout: fixed; }
.pictures tr > :first-child { width: 84px; } .pictures th { font-weight: 500; color: var(--soft);
  font-size: 14px; text-align: left; padding-right: 12px; white-space: nowrap; } .pictures thead th {
  text-align: center; padding: 0; font-variant-numeric: tabular-nums; }
.pictures td { padding: 0; } img { display: block; image-rendering: pixelated; border-radius: 6px; width: 100%;
  aspect-ratio: 1; background: #000; }
.strip { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0 0; } .strip figure { margin: 0; }
.strip img { width: 76px; height: 76px; }
figcaption { color: var(--soft); font-size: 12.5px; text-align: center; padding-top: 3px;
  font-variant-numeric: tabular-nums; }
table.layers { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
.layers th { text-align: right; font-weight: 600; padding: 8px 10px; border-bottom: 1.5px solid var(--ink);
  white-space: nowrap; } .layers td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--rule);
  white-space: nowrap; } .layers th:first-child, .layers td:first-child { text-align: left; padding-left: 0; }
.layers td:first-child { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 12.5px; }
.layers tfoot td { font-weight: 650; border-bottom: 0; border-top: 1.5px solid var(--ink); }
.meter { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 2px 28px; margin: 12px 0 0;
  font-size: 14px; } dl div { display: flex; justify-content: space-between; border-bottom: 1px solid var(--rule);
  padding: 4px 0; } dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; }
"""


def _data_uri(image: torch.Tensor) -> str:
    """PNG of a float (1, H, W) or (3, H, W) picture in [0, 1]; the browser enlarges it."""
    pixels = (image * 255).round().to(torch.uint8)
    picture = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _img(image: torch.Tensor, text: str) -> str:
    return f'<img src="{_data_uri(image)}" alt="{html.escape(text)}">'


def _figure(value: str, caption: str) -> str:
    return f"<div><b>{value}</b><span>{html.escape(caption)}</span></div>"


def _figures(demo: Demo) -> str:
    metrics = demo.metrics
    return "".join(
        (
            _figure(f"{metrics['sim_cycles'] / 1e6:.2f} M", "simulated cycles"),
            _figure(f"{metrics['macs'] / 1e6:,.0f} M", "multiply-accumulates"),
            _figure(f"{metrics['utilisation']:.1%}", "of the array's peak used"),
            _figure(f"{metrics['sim_cycles_per_s'] / 1e3:,.0f} k", "cycles simulated per second"),
            _figure(f"{metrics['class_agreement']:.0%}", "recognised by the classifier"),
            _figure(f"{metrics['wall_s']:.1f} s", "wall-clock time in all"),
        )
    )


def _pictures(demo: Demo) -> str:
    names = [demo.spec.class_names[label] for label in demo.labels]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    rows = (("float32", demo.float32), ("int8, RTL", demo.rtl.images), ("int8, twin", demo.twin.images))
    for run, images in rows:
        cells = "".join(f"<td>{_img(image, f'{name}, {run}')}</td>" for name, image in zip(names, images, strict=True))
        lines.append(f"<tr><th>{run}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="pictures"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _strip(demo: Demo) -> str:
    index = demo.labels.index(STRIP_LABEL)
    figures = []
    for step, latents in enumerate(demo.rtl.trace.latents, start=1):
        picture = (latents[index] / 2 + 0.5).clamp(0, 1)
        figures.append(f"<figure>{_img(picture, f'after step {step}')}<figcaption>{step}</figcaption></figure>")
    return f'<div class="strip">{"".join(figures)}</div>'


def _layer_row(name: str, shape: str, calls: int, macs: int, cycles: int, utilisation: float) -> str:
    return (
        f"<tr><td>{html.escape(name)}</td><td>{shape}</td><td>{calls:,}</td><td>{macs / 1e6:,.2f}</td>"
        f"<td>{cycles:,}</td>"
        f'<td class="meter" style="--share:{utilisation:.1%}">{utilisation:.1%}</td></tr>'
    )


def _layer_shape(layer: LayerReport) -> str:
    return f"{layer.rows // layer.calls} &times; {layer.k} &times; {layer.n}"


def _layers(demo: Demo) -> str:
    body = "".join(
        _layer_row(
            layer.name, _layer_shape(layer), layer.calls, layer.macs, layer.cycles or 0, layer.utilisation or 0.0
        )
        for layer in demo.rtl.layers
    )
    layers = demo.rtl.layers
    total = _layer_row(
        f"{len(layers)} layers",
        "",
        sum(layer.calls for layer in layers),
        sum(layer.macs for layer in layers),
        int(demo.metrics["sim_cycles"]),
        demo.metrics["utilisation"],
    )
    return (
        '<div class="scroll"><table class="layers"><thead><tr><th>layer</th><th>M &times; K &times; N</th>'
        f"<th>calls</th><th>M MACs</th><th>cycles</th><th>utilisation</th></tr></thead><tbody>{body}</tbody>"
        f"<tfoot>{total}</tfoot></table></div>"
    )


def _settings(demo: Demo) -> str:
    fields = demo.config.to_dict()
    memory = fields.pop("memory")
    fields |= {f"memory.{name}": value for name, value in memory.items()}
    fields |= {"model": demo.spec.name, "seed": demo.seed}
    fields |= {name: demo.metrics[name] for name in ("num_inference_steps", "guidance_scale")}
    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in fields.items()
    )


def _verdict(demo: Demo) -> str:
    if demo.mismatch is not None:
        return f'<p class="verdict bad">RTL and twin differ: {html.escape(demo.mismatch)}</p>'
    return (
        f'<p class="verdict good">✓ Bit-identical on RTL and twin: {len(demo.rtl.trace.layers):,} layer calls, '
        f"{len(demo.rtl.trace.latents)} steps</p>"
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
    document = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Brownout: {html.escape(demo.spec.name)} on RTL</title><style>{_STYLE}</style></head><body><main>
<h1>Ten {html.escape(demo.spec.subject)}, drawn by a systolic array</h1>
<p class="soft">A class-conditional diffusion transformer ({html.escape(demo.spec.name)},
{demo.spec.num_layers} layers) starts from noise and denoises it in {len(demo.rtl.trace.latents)} steps. Every layer
of every step, attention included, ran in int8 on a simulated {array} accelerator, and once more on its functional
twin.</p>
{_verdict(demo)}
<div class="figures">{_figures(demo)}</div>
<h2>Pictures</h2>
<p class="soft">Same noise in each column. The float32 row is the unquantised model; the other two must be the same
bits. int8 to float32: {demo.metrics["psnr_to_float32_db"]:.1f} dB PSNR.</p>
{_pictures(demo)}
<h2>From noise to picture: {html.escape(demo.spec.class_names[STRIP_LABEL])}</h2>
<p class="soft">Latents on RTL after each DDIM step.</p>
{_strip(demo)}
<h2>Layers</h2>
<p class="soft">Utilisation is ideal cycles (M · ⌈K/rows⌉ · ⌈N/cols⌉) over all cycles of the layer's commands, from the
fetch of the command to the last write.</p>
{_layers(demo)}
<h2>Configuration</h2>
<dl>{_settings(demo)}</dl>
</main></body></html>
"""
    path.write_text(document, encoding="utf-8")
    return path

"""Pieces of HTML that all parts of the demo's page are made of."""

from __future__ import annotations

import base64
import html
import io

import torch
from PIL import Image


def data_uri(image: torch.Tensor) -> str:
    """PNG of a float (1, H, W) or (3, H, W) picture in [0, 1]; the browser enlarges it."""
    pixels = (image * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy()).save(
        buffer, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def img(image: torch.Tensor, text: str) -> str:
    """A picture (1, H, W) or (3, H, W) with a text for those who do not see it."""
    return f'<img src="{data_uri(image)}" alt="{html.escape(text)}">'


def section(title: str, text: str, content: str) -> str:
    """Part of the page; `text` and `content` are HTML."""
    return f'<section><h2>{html.escape(title)}</h2>\n<p class="soft">{text}</p>\n{content}</section>'


def folded(title: str, hint: str, text: str, content: str) -> str:
    """Part of the page that is closed at first."""
    return (
        f"<details><summary>{html.escape(title)} <span>{html.escape(hint)}</span></summary>"
        f'<p class="soft">{text}</p>\n{content}</details>'
    )

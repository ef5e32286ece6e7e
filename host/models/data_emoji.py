"""Pictures of emoji in ten classes, rendered from Google's Noto Color Emoji font."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's package ``fonts-noto-color-emoji`` puts the font."""

FONT_VARIABLE = "BROWNOUT_EMOJI_FONT"
"""Environment variable that names another file."""

ORIGINAL_SIZE = 96
"""Height and width of a picture in pixels: three times the model's, so that it can be turned and scaled."""

# The font holds bitmaps of one size only, up to 136 x 128 pixels. The margin keeps corners inside when they are turned.
_FONT_SIZE = 109
_CANVAS = 144

_SKIN_TONES = ("", *(chr(code) for code in range(0x1F3FB, 0x1F400)))


def _each(*codes: int | tuple[int, int]) -> tuple[str, ...]:
    """Characters of code points, and of ranges of them with both ends."""
    spans = ((code, code) if isinstance(code, int) else code for code in codes)
    return tuple(chr(code) for first, last in spans for code in range(first, last + 1))


def _in_skin_tones(characters: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(character + tone for character in characters for tone in _SKIN_TONES)


# fmt: off
MEMBERS: Mapping[str, tuple[str, ...]] = {
    "face": _each(
        (0x1F600, 0x1F607), (0x1F609, 0x1F620), (0x1F622, 0x1F62B), (0x1F62C, 0x1F634), (0x1F636, 0x1F637),
        (0x1F641, 0x1F644), (0x1F910, 0x1F915), 0x1F917, (0x1F923, 0x1F925), (0x1F927, 0x1F92B), (0x1F92D, 0x1F92E),
        (0x1F970, 0x1F974), (0x1F978, 0x1F97A), 0x1F9D0, (0x1FAE0, 0x1FAE4), 0x1FAE8,
    ),
    "person": _in_skin_tones(_each(
        (0x1F466, 0x1F469), (0x1F471, 0x1F476), (0x1F9D1, 0x1F9D5),
    )),
    "hand": _in_skin_tones(_each(
        0x261D, (0x270A, 0x270C), (0x1F446, 0x1F44F), 0x1F590, 0x1F596, 0x1F64C, 0x1F90C, 0x1F90F, (0x1F918, 0x1F91C),
        (0x1F91E, 0x1F91F), (0x1FAF0, 0x1FAF8),
    )),
    "animal": _each(
        0x1F414, 0x1F417, 0x1F428, (0x1F42D, 0x1F431), (0x1F434, 0x1F43C), (0x1F638, 0x1F640), (0x1F648, 0x1F64A),
        0x1F981, 0x1F984, 0x1F98A, 0x1F993, 0x1F99D, 0x1FACE, 0x1FACF,
    ),
    "heart": ("\u2764\ufe0f", *_each(
        (0x1F493, 0x1F49E), 0x1F5A4, 0x1F90D, 0x1F90E, 0x1F9E1, (0x1FA75, 0x1FA77),
    )),
    "flower": _each((0x1F337, 0x1F33C), 0x1F3F5, 0x1F490, 0x1F4AE, 0x1F940, 0x1FAB7, 0x1FABB),
    "fruit": _each((0x1F345, 0x1F353), 0x1F951, 0x1F95D, 0x1F965, 0x1F96D, 0x1FAD0),
    "car": _each((0x1F68C, 0x1F68E), (0x1F690, 0x1F69C), 0x1F6FA, 0x1F6FB),
    "clock": _each((0x1F550, 0x1F567)),
    "moon": _each((0x1F311, 0x1F318), (0x1F31A, 0x1F31D)),
}
# fmt: on
"""Emoji of each class, in the order of the labels."""

NOT_MIRRORED = frozenset({"clock", "moon"})
"""Classes in which a mirrored picture would show something else."""


def find_font() -> ImageFont.FreeTypeFont:
    """Open the font.

    Raises
    ------
    FileNotFoundError
        The font is not there; the message names the package.
    RuntimeError
        Pillow lacks libraqm, which joins a hand and its skin tone.
    """
    named = os.environ.get(FONT_VARIABLE)
    path = Path(named) if named else FONT
    if not path.is_file():
        raise FileNotFoundError(
            f"the emoji font is not there ({path}); install Debian's package fonts-noto-color-emoji, "
            f"or name the file NotoColorEmoji.ttf in the environment variable {FONT_VARIABLE}"
        )
    if not features.check("raqm"):
        raise RuntimeError(
            "Pillow has no libraqm, without which skin tones are drawn as separate squares; "
            "install Debian's packages libraqm0 and libfribidi0"
        )
    return ImageFont.truetype(path, size=_FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)


def render(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Draw one emoji in the middle of a white square.

    Returns
    -------
    numpy.ndarray
        uint8 (3, 96, 96).

    Raises
    ------
    ValueError
        The font draws nothing, or more than one picture.
    """
    drawn = Image.new("RGBA", (3 * _CANVAS, _CANVAS), (255, 255, 255, 0))
    ImageDraw.Draw(drawn).text((0, 0), text, font=font, embedded_color=True)
    box = drawn.getchannel("A").getbbox()
    codes = " ".join(f"U+{ord(character):04X}" for character in text)
    if box is None:
        raise ValueError(f"the emoji font has no picture of {codes}; take the font of Debian 12 or later")
    width, height = box[2] - box[0], box[3] - box[1]
    if width > _CANVAS or height > _CANVAS:
        raise ValueError(f"the emoji font draws {codes} as more than one picture, {width} pixels wide")
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), "white")
    glyph = drawn.crop(box)
    canvas.paste(glyph, ((_CANVAS - width) // 2, (_CANVAS - height) // 2), glyph)
    small = canvas.resize((ORIGINAL_SIZE, ORIGINAL_SIZE), Image.Resampling.BOX)
    return np.asarray(small).transpose(2, 0, 1)


def render_emoji() -> tuple[np.ndarray, np.ndarray]:
    """Draw all members of all classes.

    Returns
    -------
    images, labels : numpy.ndarray
        float32 (N, 3, 96, 96) in [0, 1] and int64 (N,).

    Raises
    ------
    FileNotFoundError
        The font is not there; the message names the package.
    RuntimeError
        Pillow lacks libraqm.
    ValueError
        The font lacks a member.
    """
    font = find_font()
    pictures = [render(text, font) for members in MEMBERS.values() for text in members]
    labels = [label for label, members in enumerate(MEMBERS.values()) for _ in members]
    return np.stack(pictures).astype(np.float32) / 255, np.array(labels, dtype=np.int64)

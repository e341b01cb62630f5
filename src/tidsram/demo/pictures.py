"""Draw what was answered onto what was asked: boxes, masks, defects."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tidsram.client.answer import Box, Boxes, Label, Mask, Reading

# Okabe and Ito's colours: told apart by colour-blind eyes, and by their lightness in print.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_INK, _PAPER = "#1a1a1a", "#ffffff"
_MASK_COLOUR = np.array([213, 94, 0], np.float32)
_TINT = 0.35
_VEIL = 0.6
_CAPTION = 28  # pixels under the picture

Flags = NDArray[np.bool_]


def draw(image: Image.Image, reading: Reading, caption: str = "") -> Image.Image:
    """Return a copy of `image` with its answer drawn on it."""
    picture = image.convert("RGB")
    if isinstance(reading, Boxes):
        draw_boxes(picture, reading.boxes)
    elif isinstance(reading, Mask):
        picture = draw_mask(picture, stretched(reading, picture.size))
    elif isinstance(reading, Label):
        caption = f"{reading.label} {reading.score:.2f}" + (f" · {caption}" if caption else "")
    return captioned(picture, caption) if caption else picture


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> None:
    """Draw every box with its label and score, the surest on top."""
    colours: dict[str, str] = {}
    for box in boxes:
        colours.setdefault(box.label, _COLOURS[len(colours) % len(_COLOURS)])
    canvas = ImageDraw.Draw(picture)
    for box in reversed(boxes):
        _draw_box(canvas, box, colours[box.label], f"{box.label} {box.score:.2f}", picture.width)


def draw_missed(picture: Image.Image, boxes: Iterable[Box]) -> None:
    """Draw what was not found, dashed, with the word for it."""
    canvas = ImageDraw.Draw(picture)
    for box in boxes:
        for x1, y1, x2, y2 in _dashes(box):
            canvas.line((x1, y1, x2, y2), fill=_PAPER, width=4)
            canvas.line((x1, y1, x2, y2), fill=_INK, width=2)
        _write(canvas, (box.x1, box.y2 + 3), f"missed: {box.label}", _PAPER, _INK)


def draw_mask(picture: Image.Image, mask: Flags) -> Image.Image:
    """Return the picture with the masked pixels tinted and their outline drawn."""
    pixels = np.asarray(picture, np.float32).copy()
    pixels[mask] = (1 - _TINT) * pixels[mask] + _TINT * _MASK_COLOUR
    pixels[_outline(mask)] = _MASK_COLOUR
    return Image.fromarray(pixels.astype(np.uint8))


def veiled(picture: Image.Image, corners: Iterable[tuple[int, int]], side: int) -> Image.Image:
    """Return the picture with the squares nobody answered for made pale."""
    veil = Image.new("L", picture.size)
    canvas = ImageDraw.Draw(veil)
    for left, top in corners:
        canvas.rectangle((left, top, left + side - 1, top + side - 1), fill=round(255 * _VEIL))
    return Image.composite(Image.new("RGB", picture.size, _PAPER), picture, veil)


def stretched(mask: Mask, size: tuple[int, int]) -> Flags:
    """Return the mask as one flag for each pixel of an image of that size."""
    x1, y1, x2, y2 = (round(edge) for edge in mask.inside)
    part = Image.fromarray(mask.pixels).resize((x2 - x1, y2 - y1), Image.Resampling.NEAREST)
    whole = Image.new("1", size)
    whole.paste(part, (x1, y1))
    return flags(whole)


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """Return the picture with a line of words under it."""
    longer = Image.new("RGB", (picture.width, picture.height + _CAPTION), _PAPER)
    longer.paste(picture)
    size = 15
    while size > 9 and _font(size).getlength(caption) > picture.width - 16:
        size -= 1
    ImageDraw.Draw(longer).text((8, picture.height + 5), caption, _INK, _font(size))
    return longer


def flags(image: Image.Image) -> Flags:
    """Return a black-and-white image as one flag for each pixel."""
    return np.asarray(image.convert("1")).astype(np.bool_)


def _outline(mask: Flags) -> Flags:
    """Return the pixels of the mask within two pixels of its edge."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _draw_box(
    canvas: ImageDraw.ImageDraw, box: Box, colour: str, words: str, picture_width: int
) -> None:
    corners = (box.x1, box.y1, box.x2, box.y2)
    canvas.rectangle(
        (corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), None, _INK, 4
    )
    canvas.rectangle(corners, None, colour, 2)
    left, top, right, bottom = canvas.textbbox((0, 0), words, _font(13))
    x = max(0.0, min(box.x1, picture_width - (right - left) - 8))
    y = box.y1 - (bottom - top) - 9
    _write(canvas, (x, y if y >= 0 else box.y2 + 3), words, colour, _ink_on(colour))


def _ink_on(colour: str) -> str:
    """Return the ink that is read on this colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else _PAPER


def _write(
    canvas: ImageDraw.ImageDraw, at: tuple[float, float], words: str, paper: str, ink: str
) -> None:
    left, top, right, bottom = canvas.textbbox((at[0] + 4, at[1] + 2), words, _font(13))
    canvas.rectangle((left - 4, top - 3, right + 4, bottom + 3), paper, _INK)
    canvas.text((at[0] + 4, at[1] + 2), words, ink, _font(13))


def _dashes(box: Box) -> list[tuple[float, float, float, float]]:
    dash = 8
    across = np.arange(box.x1, box.x2, 2 * dash)
    down = np.arange(box.y1, box.y2, 2 * dash)
    return [
        *((x, y, min(x + dash, box.x2), y) for x in across for y in (box.y1, box.y2)),
        *((x, y, x, min(y + dash, box.y2)) for y in down for x in (box.x1, box.x2)),
    ]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

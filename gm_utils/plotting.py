"""Figures without pyplot: one palette, one look, and pictures that carry their alternative text.

The palette is that of Okabe and Ito (2008), which survives colour-blindness. A colour keeps its role through the
course: ``TARGET`` is what is true, ``MODEL`` what stands in for it (a proposal, a fitted model), ``ESTIMATE`` what was
measured. These three differ in lightness as well, so that they survive a grey print.

>>> fig, ax = figure(size=(4, 3))
>>> _ = ax.plot([0, 1], [1, 0], color=TARGET)
>>> show(fig, "A falling line.").alt
'A falling line.'
"""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gm_utils.validation import refuse

BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#E69F00", "#009E73"
RED, SKY, PINK, GREY = "#D55E00", "#56B4E9", "#CC79A7", "#777777"
TARGET, MODEL, ESTIMATE = BLACK, BLUE, ORANGE


def figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8.0, 3.5), **options: Any) -> Any:
    """Return (figure, axes) as ``matplotlib.pyplot.subplots`` does, but known to no global state.

    Args:
        rows: number of rows of axes.
        columns: number of columns of axes.
        size: width and height in inches, at 100 pixels an inch.
        options: passed on to ``Figure.subplots``, for example ``width_ratios``.
    """
    made = Figure(figsize=size, dpi=100, layout="constrained")
    axes = made.subplots(rows, columns, **options)
    for one in np.ravel(axes):
        one.set_prop_cycle(color=[BLACK, BLUE, ORANGE, GREEN, RED, SKY, PINK])
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def tiles(rows: Any, columns: int) -> np.ndarray:
    """Return pictures of 8x8 pixels as one, row by row, each with a frame of zeros one pixel wide.

    Args:
        rows: (pictures, 64), in any unit; their number fills whole rows of tiles.
        columns: tiles in a row.

    Returns:
        (10 * pictures / columns, 10 * columns).

    Raises:
        ValueError: for rows of another length, or too few for whole rows of tiles.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] != 64 or len(rows) % columns:
        raise refuse("rows", f"of shape (a multiple of {columns}, 64)", rows.shape)
    framed = np.pad(rows.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    return framed.reshape(-1, columns, 10, 10).swapaxes(1, 2).reshape(-1, 10 * columns)


def png(pixels: np.ndarray, *, compress_level: int = 9) -> bytes:
    """Return ``pixels``, (height, width, 4) uint8, as the bytes of a PNG file without metadata.

    A picture without transparent pixels is stored without its alpha channel, which saves a third of the time.
    """
    opaque = bool((pixels[..., 3] == 255).all())
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., :3] if opaque else pixels).save(buffer, "png", compress_level=compress_level)
    return buffer.getvalue()


def live_png(pixels: np.ndarray) -> bytes:
    """Return ``pixels``, (height, width, 4) uint8, as a PNG in half the time of ``png``, for pictures that move.

    Pillow tries several filters on each row of a picture. Plots are flat and compress as well without: this writes the
    four parts of the file itself (PNG specification, third edition, sections 5 and 11), filter 0 and zlib level 1.
    """
    height, width = pixels.shape[:2]
    if not (pixels[..., 3] == 255).all():
        return png(pixels, compress_level=1)
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = pixels[..., :3].reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")]
    file = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in parts:
        file += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(file)


def picture_bundle(pixels: np.ndarray, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what Jupyter wants to know of a picture: (data, metadata), with the alternative text in both."""
    height, width = pixels.shape[:2]
    data = {"text/plain": alt, "image/png": base64.b64encode(png(pixels)).decode("ascii")}
    return data, {"image/png": {"alt": alt, "width": width, "height": height}}


def require_alt(alt: str) -> str:
    """Return ``alt`` after checking that it says something to a reader who cannot see the picture."""
    if not isinstance(alt, str) or not alt.strip():
        raise refuse("alt", "to be a sentence that says what the picture shows", repr(alt))
    return alt


class Picture:
    """A still figure, in notebooks called ``show``: end a cell with it.

    Args:
        figure: a Matplotlib figure, made by ``figure`` above or otherwise.
        alt: one sentence for those who cannot see it.

    Raises:
        ValueError: for an empty ``alt``.
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure, self.alt = figure, require_alt(alt)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return picture_bundle(np.array(canvas.buffer_rgba()), self.alt)


show = Picture

"""Pictures: exact pixels, words for those who cannot see them, colours that survive a grey print."""

import base64
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from gm_utils import plotting


def made():
    fig, axes = plotting.figure(1, 2, size=(4, 2), width_ratios=[2, 1])
    axes[0].plot([0, 1], [1, 0])
    return fig


def test_show_gives_a_png_with_alternative_text():
    data, metadata = plotting.show(made(), "A falling line.")._repr_mimebundle_()
    assert data["text/plain"] == "A falling line."
    assert metadata["image/png"] == {"alt": "A falling line.", "width": 400, "height": 200}
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size == (400, 200)


def test_same_figure_same_bytes():
    first, second = (plotting.show(made(), "A line.")._repr_mimebundle_()[0] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_a_picture_without_words_is_refused(alt):
    with pytest.raises(ValueError, match="expected alt to be a sentence"):
        plotting.show(made(), alt)


@pytest.mark.parametrize("encode", [plotting.png, plotting.live_png])
def test_png_keeps_every_pixel(encode):
    rng = np.random.default_rng(0)
    opaque = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    clear = opaque.copy()
    opaque[..., 3] = 255
    back = [np.asarray(Image.open(io.BytesIO(encode(p)))) for p in (opaque, clear)]
    np.testing.assert_array_equal(back[0], opaque[..., :3])
    np.testing.assert_array_equal(back[1], clear)


def test_figures_are_known_to_no_global_state():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    made()
    assert pyplot.get_fignums() == []


def test_roles_differ_in_grey_print():
    """The contrast ratio of WCAG 2.1 between any two of the three roles is at least two."""

    def luminance(colour):
        channels = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    shades = np.sort([luminance(c) + 0.05 for c in (plotting.TARGET, plotting.MODEL, plotting.ESTIMATE)])
    assert (shades[1:] / shades[:-1]).min() > 2


def test_tiles_lie_row_by_row_with_a_frame_each():
    rows = np.arange(1, 6 * 64 + 1).reshape(6, 64)
    sheet = plotting.tiles(rows, 3)
    assert sheet.shape == (20, 30)
    np.testing.assert_array_equal(sheet[11:19, 21:29], rows[5].reshape(8, 8))
    np.testing.assert_array_equal(sheet[1:9, 11:19], rows[1].reshape(8, 8))
    assert not sheet[::10].any()
    assert not sheet[:, 9::10].any()


@pytest.mark.parametrize("shape", [(5, 64), (6, 63), (6, 8, 8)])
def test_tiles_refuse_what_fills_no_sheet(shape):
    with pytest.raises(ValueError, match=r"expected rows of shape \(a multiple of 3, 64\)"):
        plotting.tiles(np.zeros(shape), 3)

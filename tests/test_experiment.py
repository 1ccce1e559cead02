"""Live figures: driven from Python they draw at once; changes from the browser come together; errors heal."""

import asyncio
import base64
import gc
import io
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from gm_utils.experiment import experiment
from gm_utils.plotting import figure

GRID = np.linspace(0, 6, 50)


class Parts:
    """An experiment whose update counts its calls, may be slow, and fails for rate = 2."""

    def __init__(self, delay=0.0, **controls):
        fig, axes = figure(size=(3, 2))
        (line,) = axes.plot(GRID, np.sin(GRID))
        axes.set(xlabel="x", ylabel="y", ylim=(-1.1, 1.1))
        self.calls = []

        def update(rate, kind="sin"):
            self.calls.append(rate)
            time.sleep(delay)
            if rate == 2.0:
                raise ArithmeticError("two <is> too much")
            line.set_ydata((np.sin if kind == "sin" else np.cos)(rate * GRID))
            return {"mean": np.float32(rate / 2)}

        self.update, self.figure = update, fig
        controls = controls or {"rate": (0.5, 2.0, 0.1, 1.0)}
        self.experiment = experiment(fig, update, alt="A wave.", **controls)

    def widget(self, name="rate"):
        return self.experiment._controls[name].widget

    @property
    def error(self):
        return self.experiment._error.value


def test_set_draws_before_it_returns():
    parts = Parts()
    before = parts.experiment.pixels()
    parts.experiment.set(rate=1.5)
    assert parts.experiment.readout == {"mean": 0.75}
    assert (parts.experiment.pixels() != before).any()
    np.testing.assert_array_equal(parts.experiment.pixels(), parts.experiment.full_draw())
    assert parts.calls == [1.0, 1.5]


def test_several_controls_move_together_in_one_draw():
    parts = Parts(rate=(0.5, 1.5, 0.1, 1.0), kind=["sin", "cos"])
    parts.experiment.set(rate=0.5, kind="cos")
    assert parts.calls == [1.0, 0.5]
    assert parts.experiment.controls["kind"] == ["sin", "cos"]


def test_the_shown_image_is_the_picture():
    parts = Parts()
    parts.experiment.set(rate=0.7)
    shown = np.asarray(Image.open(io.BytesIO(parts.experiment._image.value)))
    np.testing.assert_array_equal(shown, parts.experiment.pixels()[..., :3])


def test_slider_values_are_those_printed():
    parts = Parts()
    assert parts.experiment.controls["rate"][:3] == [0.5, 0.6, 0.7]
    parts.widget().value = 0.1 + 0.7
    assert parts.calls[-1] == 0.8


def test_whole_numbers_stay_whole():
    parts = Parts(rate=(1, 9, 4, 5))
    assert parts.experiment.controls["rate"] == [1, 5, 9]
    assert isinstance(parts.calls[0], int)
    for wrong in (1.5, 2, np.inf):
        with pytest.raises(ValueError, match=r"expected rate to lie in \[1, 9\], on a step of 4"):
            parts.experiment.set(rate=wrong)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 2.1}, r"expected rate to lie in \[0.5, 2.0\], on a step of 0.1, got 2.1"),
        ({"rate": 0.85}, "expected rate to lie in .*, on a step of 0.1, got 0.85"),
        ({"rate": float("inf")}, "expected rate to lie in"),
        ({"rate": "fast"}, "expected rate to lie in"),
        ({"rate": float("nan")}, "expected rate to lie in"),
        ({"speed": 1.0}, "expected a control among rate, got speed"),
    ],
)
def test_set_refuses_and_moves_nothing(values, message):
    parts = Parts()
    with pytest.raises(ValueError, match=message):
        parts.experiment.set(**values)
    assert parts.calls == [1.0]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({}, "expected controls to be one or more"),
        ({"rate": (0, 1)}, "expected control rate as"),
        ({"rate": (2.0, 1.0, 0.1, 1.5)}, "low <= start <= high"),
        ({"rate": (0.0, 1.0, 0.0, 0.5)}, "step > 0"),
        ({"rate": (0.0, 1.0, 0.3, 0.3)}, "whole number of steps"),
        ({"rate": (0.0, 1.0, 0.1, 7.0)}, "low <= start <= high"),
        ({"rate": (0.0, 1.0, 0.25, 0.3)}, "with start - low a whole number of steps"),
        ({"rate": ["one"]}, "two or more choices"),
        ({"speed": (0.0, 1.0, 0.1, 0.5)}, "expected update to take the controls speed"),
    ],
)
def test_bad_controls_are_refused(controls, message):
    parts = Parts()
    with pytest.raises(ValueError, match=message):
        experiment(parts.figure, parts.update, alt="A wave.", **controls)


@pytest.mark.parametrize("returned", [None, 3.0, {"mean": "high"}, [1.0]])
def test_a_readout_that_is_not_numbers_is_refused(returned):
    fig, _ = figure()
    with pytest.raises(ValueError, match="expected update to return a dict of numbers"):
        experiment(fig, lambda rate: returned, alt="Nothing.", rate=(0, 3, 1, 1))


def test_empty_alternative_text_is_refused():
    parts = Parts()
    with pytest.raises(ValueError, match="expected alt"):
        experiment(parts.figure, parts.update, alt=" ", rate=(0.5, 2.0, 0.1, 1.0))


def test_an_error_raises_in_a_cell_and_the_next_good_value_clears_it():
    parts = Parts()
    with pytest.raises(ArithmeticError):
        parts.experiment.set(rate=2.0)
    assert "two &lt;is&gt; too much" in parts.error
    parts.experiment.set(rate=1.2)
    assert parts.error == ""


def test_an_error_from_the_browser_is_shown_and_not_thrown():
    parts = Parts()
    parts.widget().value = 2.0
    assert "ArithmeticError" in parts.error
    parts.widget().value = 1.1
    assert parts.error == ""
    assert parts.experiment.readout == {"mean": np.float32(0.55)}


def test_a_rush_from_the_browser_is_drawn_once_and_ends_on_the_newest():
    """Fifty moves of 100 ms waiting in a queue: without coalescing they would take 5 s."""
    parts = Parts(delay=0.1, rate=(0.0, 50.0, 0.5, 1.0))

    async def drag():
        for k in range(50):
            parts.widget().value = 0.5 * k
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)

    asyncio.run(drag())
    assert parts.calls[-1] == 24.5
    assert len(parts.calls) <= 4
    assert parts.experiment.readout == {"mean": 12.25}


def test_an_idle_experiment_answers_within_the_handler():
    parts = Parts()

    async def one_move():
        await asyncio.sleep(0.02)
        parts.widget().value = 1.7
        return list(parts.calls)

    assert asyncio.run(one_move())[-1] == 1.7


def test_a_plan_whose_event_loop_ended_is_given_up(monkeypatch):
    monkeypatch.setattr("gm_utils.experiment._LOST", 0.0)
    parts = Parts()

    async def two_moves():
        parts.widget().value = 1.3
        parts.widget().value = 1.4

    asyncio.run(two_moves())
    time.sleep(0.1)
    parts.widget().value = 1.5
    assert parts.calls[-1] == 1.5


def test_two_threads_end_on_a_picture_that_is_whole():
    parts = Parts(rate=(0.5, 1.9, 0.1, 1.0))

    def drag(values):
        for value in values:
            parts.widget().value = value

    values = parts.experiment.controls["rate"]
    threads = [threading.Thread(target=drag, args=(values[k::2] * 3,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    parts.experiment.set(rate=parts.widget().value)
    np.testing.assert_array_equal(parts.experiment.pixels(), parts.experiment.full_draw())


def test_bundle_has_picture_words_and_live_view():
    parts = Parts()
    data, metadata = parts.experiment._repr_mimebundle_()
    assert data["text/plain"] == "A wave.\nExperiment at rate = 1.0: mean = 0.5"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))
    np.testing.assert_array_equal(picture, parts.experiment.pixels()[..., :3])
    assert metadata["image/png"]["alt"] == "A wave."
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == parts.experiment._box.model_id
    assert not hasattr(parts.experiment, "comm")


def test_many_moves_leak_no_memory():
    parts = Parts(rate=(0.5, 1.9, 0.1, 1.0))
    values = parts.experiment.controls["rate"]

    def drive(moves):
        for k in range(moves):
            parts.experiment.set(rate=values[k % len(values)])
        gc.collect()
        return psutil.Process().memory_info().rss

    before = drive(100)
    assert drive(500) - before < 20e6

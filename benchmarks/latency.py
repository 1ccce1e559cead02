"""How long a slider's move takes: ``interact`` with the inline backend, and a live experiment of gm_utils.

Run by hand, with JupyterLab's environment: ``python benchmarks/latency.py [moves]``. One ipykernel holds three cells
that show the same figure (three lines of 200 points; a 100x100 image under 500 points) and share their arithmetic.
Moves go to the kernel as a browser sends them, one cell after the other in turn. A move's time runs from the message
to the kernel's word that it is idle again, and so leaves out only what the browser itself does.
"""

import hashlib
import io
import platform
import statistics
import sys
import time
from typing import Any

import numpy as np
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from PIL import Image

ARITHMETIC = """
import hashlib
import ipywidgets, numpy as np
import matplotlib.pyplot as plt
from gm_utils.experiment import experiment
from gm_utils.plotting import figure
%matplotlib inline

x = np.linspace(0, 6, 200)
rows, columns = np.mgrid[-2:2:100j, -2:2:100j]
normals = np.random.default_rng(0).normal(size=(2, 500))

def curves(rate):                                # (3, 200)
    return np.sin(rate * x + np.arange(3)[:, None])

def surface(rate):                               # (100, 100)
    return np.exp(-rate * (rows**2 + columns**2 + rows * columns))

def points(rate):                                # (2, 500)
    return 0.4 * rate * normals

def frame(left, right):
    left.set(xlabel="x", ylabel="signal", title="three waves", ylim=(-1.1, 1.1))
    right.set(xlabel="x1", ylabel="x2", title="density and draws", xlim=(-2, 2), ylim=(-2, 2))

def slider():
    return ipywidgets.FloatSlider(min=0.5, max=2.0, step=0.001, value=1.0)
"""

CELLS = {
    "interact, a figure a move": """
def picture(rate):
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5), dpi=100)
    for curve in curves(rate):
        left.plot(x, curve)
    right.imshow(surface(rate), extent=(-2, 2, -2, 2), origin="lower", aspect="auto", vmin=0, vmax=1)
    right.scatter(*points(rate), s=4, color="white")
    frame(left, right)
    plt.show()
    print(f"peak {curves(rate).max():.3f}, mass {surface(rate).mean():.3f}")

moved = ipywidgets.interact(picture, rate=slider()).widget.children[0]
""",
    "interact, one figure kept": """
kept_fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5), dpi=100)
kept_lines = left.plot(x, curves(1.0).T)
kept_image = right.imshow(surface(1.0), extent=(-2, 2, -2, 2), origin="lower", aspect="auto", vmin=0, vmax=1)
kept_points = right.scatter(*points(1.0), s=4, color="white")
frame(left, right)
plt.close(kept_fig)

def move_kept(rate):
    for line, curve in zip(kept_lines, curves(rate)):
        line.set_ydata(curve)
    kept_image.set_data(surface(rate))
    kept_points.set_offsets(points(rate).T)
    display(kept_fig)
    print(f"peak {curves(rate).max():.3f}, mass {surface(rate).mean():.3f}")

moved = ipywidgets.interact(move_kept, rate=slider()).widget.children[0]
""",
    "gm_utils.experiment": """
fig, (left, right) = figure(1, 2)
lines = left.plot(x, curves(1.0).T)
image = right.imshow(surface(1.0), extent=(-2, 2, -2, 2), origin="lower", aspect="auto", vmin=0, vmax=1)
scattered = right.scatter(*points(1.0), s=4, color="white")
frame(left, right)

def move(rate):
    for line, curve in zip(lines, curves(rate)):
        line.set_ydata(curve)
    image.set_data(surface(rate))
    scattered.set_offsets(points(rate).T)
    return {"peak": curves(rate).max(), "mass": surface(rate).mean()}

live = experiment(fig, move, alt="Waves, and a density with draws.", rate=(0.5, 2.0, 0.001, 1.0))
display(live)
moved = live._controls["rate"].widget
""",
}

FULL_DRAW = """
live.set(rate={rate})
full = live.full_draw()
print(hashlib.sha256(full[..., :3].tobytes()).hexdigest(), (full[..., 3] == 255).all())
"""


def say(client: BlockingKernelClient, code: str) -> str:
    """Run a cell and return what it printed last; an error in it ends the benchmark."""
    printed: list[str] = []

    def keep(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=keep, timeout=120)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    return "".join(printed).strip().splitlines()[-1] if printed else ""


def move(client: BlockingKernelClient, model: str, value: float) -> tuple[float, list[bytes], int]:
    """Move one slider as a browser does: (milliseconds, PNG files set on an Image widget, inline pictures)."""
    state = {"method": "update", "state": {"value": value}, "buffer_paths": []}
    message = client.session.msg("comm_msg", {"comm_id": model, "data": state})
    pictures, inline = [], 0
    started = time.perf_counter()
    client.shell_channel.send(message)
    while True:
        answer = client.get_iopub_msg(timeout=60)
        if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        content = answer["content"]
        if answer["msg_type"] == "comm_msg" and ["value"] in content["data"].get("buffer_paths", []):
            pictures.append(bytes(answer["buffers"][0]))
        inline += answer["msg_type"] == "display_data" and "image/png" in content["data"]
        if answer["msg_type"] == "status" and content["execution_state"] == "idle":
            return 1000 * (time.perf_counter() - started), pictures, inline


def main(moves: int) -> None:
    """Measure and print the table."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(extra_arguments=["--log-level=40"])
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        say(client, ARITHMETIC)
        models = {name: say(client, cell + "\nprint(moved.model_id)") for name, cell in CELLS.items()}
        ours = list(CELLS)[-1]
        values = [round(float(v), 3) for v in np.random.default_rng(1).permutation(np.linspace(0.5, 1.999, moves + 3))]
        milliseconds: dict[str, list[float]] = {name: [] for name in CELLS}
        shown = []
        for k, value in enumerate(values):
            order = [*CELLS] if k % 2 else [*CELLS][::-1]
            for name in order:
                time.sleep(0.02)
                took, pictures, inline = move(client, models[name], value)
                if (len(pictures), inline) != ((1, 0) if name == ours else (0, 1)):
                    raise RuntimeError(f"{name} sent {len(pictures)} and {inline} pictures at {value}")
                milliseconds[name].append(took)
                shown += pictures
        same = 0
        for value, picture in zip(values, shown, strict=True):
            decoded = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            same += say(client, FULL_DRAW.format(rate=value)) == f"{hashlib.sha256(decoded.tobytes()).hexdigest()} True"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {moves} moves each")
    print(f"{'milliseconds a move':<28}{'median':>8}{'95 %':>8}{'ratio':>8}")
    timed = {name: times[3:] for name, times in milliseconds.items()}  # the first three warm up
    best = statistics.median(timed[ours])
    for name, times in timed.items():
        middle, high = statistics.median(times), float(np.percentile(times, 95))
        print(f"{name:<28}{middle:>8.1f}{high:>8.1f}{middle / best:>8.1f}")
    print(f"pictures of {ours} equal to a full draw in every pixel: {same} of {len(values)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)

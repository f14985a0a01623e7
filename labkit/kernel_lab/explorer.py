"""Two pictures to play with: what one program of a kernel touches, and where mechanisms land under a roofline."""

import numpy as np

from labkit.course.show import rounded
from labkit.explorer import Explorer, choice, slider, steps
from labkit.theme import BLUE, FAINT, INK, ORANGE, PINK, SIGNED, TEAL, Figure, grid

from .mechanisms import chunkwise, delta, recurrent, softmax
from .roofline import GPUS
from .visits import ABOUT, BLOCK, PROGRAMS, STORED, visits

CELL = 13  # px: a tile
SIZES = [("float16, bfloat16", 2), ("float32", 4)]
COLOURS = {"softmax attention": PINK, "linear, a token a launch": INK, "linear, chunkwise": TEAL, "delta rule": BLUE}
LOW, HIGH = 0.1, 1e5  # FLOPs a byte


def explore() -> Explorer:
    """Step through the programs of a kernel: which tiles of each tensor it loads, how often, and which it stores."""
    controls = dict(
        kernel=choice("kernel", "sinks_forward", list(ABOUT)),
        program=slider("program", 5, 0, PROGRAMS - 1),
    )
    return Explorer(visits_figure, controls)


def explore_roofline() -> Explorer:
    """Four mechanisms under the roofline of a GPU, as tokens, head size, chunk and dtype change."""
    controls = dict(
        gpu=choice("GPU", "H100", list(GPUS)),
        t=steps("tokens", 4096, [256, 1024, 4096, 16384, 65536]),
        d=steps("head size", 64, [32, 64, 128]),
        chunk=steps("chunk", 64, [16, 32, 64, 128]),
        size=choice("dtype", 2, SIZES),
    )
    return Explorer(roofline_figure, controls)


def visits_figure(*, kernel: str, program: int) -> Figure:
    """Every tensor of a launch as a grid of tiles of 32 × 32 elements; a number a token stands as a column."""
    found = visits()[kernel]
    one = found["programs"][program]
    widths = [max(columns, 0.55 * len(name)) + 1.2 for name, _, columns in found["tensors"]]
    height = max(rows for _, rows, _ in found["tensors"])
    z = np.full((height, int(sum(widths)) + 1), np.nan)
    shapes, names, said, left = [], [], [], 0.0
    for (name, rows, columns), width, tiles in zip(found["tensors"], widths, one["tiles"], strict=True):
        at = round(left)
        drawn = np.array([value(tile) for tile in tiles]).reshape(rows, columns)
        z[:rows, at : at + columns] = drawn
        box = dict(x0=at - 0.5, x1=at + columns - 0.5, y0=-0.5, y1=rows - 0.5)
        shapes.append(dict(type="rect", line=dict(color=FAINT, width=1), **box))
        names.append(dict(x=at - 0.5, y=1, yref="paper", text=name, xanchor="left", yanchor="bottom", showarrow=False))
        loads, stores = int((drawn > 0).sum()), int((drawn < 0).sum())
        verbs = [f"loads {loads}"] * bool(loads) + [f"stores {stores}"] * bool(stores)
        said.append(f"{name} {' and '.join(verbs) or 'leaves all'} of {rows * columns}")
        left += width
    bare = dict(showgrid=False, showticklabels=False, ticks="", linewidth=0)
    layout = dict(
        height=70 + CELL * height,
        margin=dict(l=10, r=10, t=56, b=10),
        title_pad_b=34,
        shapes=shapes,
        annotations=names,
        xaxis=dict(range=[-1, max(56, z.shape[1])], **bare),
        yaxis=dict(range=[height - 0.4, -0.6], **bare),
    )
    trace = dict(type="heatmap", z=grid(z), zmin=-1, zmax=1, colorscale=SIGNED, showscale=False, hoverinfo="skip")
    return Figure(
        [trace | dict(xgap=1, ygap=1)],
        layout,
        title="Which tiles of each tensor does this program load (blue) and store (red)?",
        alt=f"each tensor as a grid of tiles of {BLOCK} × {BLOCK} elements; darker blue is loaded more often",
        summary=f"{kernel}, {ABOUT[kernel]}; program {program} of {PROGRAMS}, tiles: {'; '.join(said)}",
        cards={"loads": f"{one['loaded'] / 1024:,.1f} KiB", "stores": f"{one['stored'] / 1024:,.1f} KiB"},
    )


def value(tile: str) -> float:
    """The colour of a tile: 0 untouched, up to 1 the more often it is loaded, −1 stored."""
    return -1.0 if tile == STORED else 0.0 if tile == "0" else min(1.0, 0.3 + 0.1 * int(tile))


def roofline_figure(*, gpu: str, t: int, d: int, chunk: int, size: int) -> Figure:
    """Attainable FLOP/s over FLOPs a byte: the roofs of tensor cores and of other arithmetic, and a dot a mechanism."""
    about = GPUS[gpu]
    each = softmax(t, d, size), recurrent(t, d, size), chunkwise(t, d, size, chunk), delta(t, d, size, chunk)
    costs = dict(zip(COLOURS, each, strict=True))
    landed = {name: cost.land(about) for name, cost in costs.items()}
    traces = []
    product = about.half if size == 2 else about.tf32 / 3  # a float32 product takes three of tf32
    for name, peak, dash in (("tensor cores", product, "solid"), ("other arithmetic", about.float32, "dot")):
        x = [LOW, peak / about.bandwidth, HIGH]
        y = [min(peak, i * about.bandwidth) for i in x]
        traces.append(dict(type="scatter", mode="lines", x=x, y=y, name=name, line=dict(color=ORANGE, dash=dash)))
    traces += [
        dict(
            type="scatter",
            mode="markers",
            x=[one.intensity],
            y=[one.attainable],
            name=name,
            marker=dict(size=12, color=COLOURS[name], symbol="circle" if one.bound == "memory" else "square"),
            hovertemplate=f"{name}: %{{x:.3g}} FLOP/byte, at most %{{y:.3s}}FLOP/s<extra></extra>",
        )
        for name, one in landed.items()
    ]
    power = dict(type="log", exponentformat="power", dtick=1)
    layout = dict(
        height=380,
        showlegend=True,
        legend=dict(x=1, y=0.02, xanchor="right", yanchor="bottom", orientation="v"),
        margin=dict(l=64, r=10, t=34, b=44),
        xaxis=dict(title_text="FLOPs a byte", range=[np.log10(LOW), np.log10(HIGH)], **power),
        yaxis=dict(title_text="FLOP/s, at most", range=[11, 15.3], **power),
    )
    said = "; ".join(
        f"{name} {rounded(one.intensity)} FLOP/byte, {one.bound}-bound, at least {rounded(one.seconds * 1e6)} µs a head"
        for name, one in landed.items()
    )
    return Figure(
        traces,
        layout,
        title="Does memory or arithmetic keep each mechanism from being faster, on paper?",
        alt="a roofline on logarithmic axes with four dots, round where memory is the bound and square where it is not",
        summary=f"{about.name}, {t} tokens, heads of {d}, chunk {chunk}, {size} bytes an element; {said}",
        cards={name: f"{rounded(one.intensity)} FLOP/B, {one.bound}" for name, one in landed.items()},
    )

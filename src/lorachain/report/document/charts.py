"""Pictures as SVG without a plotting library. Colors are classes, so that the style sheet can change them at night.

Lengths are in units of a view box 340 wide, which is about the width of a phone: text stays readable when the picture
is as wide as the screen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lorachain.report.document.blocks import Text

WIDTH = 340
_LEFT, _RIGHT = 40, 8
_POINTS = 400
"""Of a curve; more steps are averaged, so that a long run does not make a large file."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, all of them shares of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a line, left to right."""

    xs: Sequence[float]
    ys: Sequence[float]
    style: str
    """A class of the style sheet: `raw`, `smooth` or `rate`."""


def bilingual(text: Text, attributes: str) -> Markup:
    """An SVG text in both languages, of which the style sheet shows one."""
    template = Markup('<text {0} lang="{1}">{2}</text>')
    given = Markup(attributes)
    return template.format(given, "en", text.en) + template.format(given, "ko", text.ko)


def interval_strip(before: Estimate | None, after: Estimate | None, chance: float | None = None) -> Markup:
    """Two intervals on an axis from 0 to 100 %: before (hollow) above after (filled), with a dashed line at chance."""
    parts = [Markup('<line class="axis" x1="6" x2="234" y1="34" y2="34"/>')]
    for share in (0.0, 0.5, 1.0):
        x = _strip_x(share)
        parts.append(Markup('<line class="axis" x1="{0}" x2="{0}" y1="31" y2="34"/>').format(x))
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        label = Markup('<text class="tick" x="{0}" y="45" text-anchor="{1}">{2}</text>')
        parts.append(label.format(x, anchor, f"{100 * share:.0f} %" if share == 1 else f"{100 * share:.0f}"))
    if chance is not None:
        parts.append(Markup('<line class="chance" x1="{0}" x2="{0}" y1="2" y2="34"/>').format(_strip_x(chance)))
    for y, name, estimate in ((10, "before", before), (23, "after", after)):
        if estimate is not None:
            parts.append(_whisker(estimate, y, name))
    return _svg("strip", 240, 48, parts)


def _whisker(estimate: Estimate, y: int, name: str) -> Markup:
    low, value, high = map(_strip_x, (estimate.low, estimate.value, estimate.high))
    return Markup(
        '<g class="{name}"><line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<line x1="{low}" x2="{low}" y1="{top}" y2="{bottom}"/><line x1="{high}" x2="{high}" y1="{top}" y2="{bottom}"/>'
        '<circle cx="{value}" cy="{y}" r="4.5"/></g>'
    ).format(name=name, low=low, high=high, value=value, y=y, top=y - 4, bottom=y + 4)


def _strip_x(share: float) -> str:
    return _short(6 + 228 * min(max(share, 0.0), 1.0))


def share_bar(share: float, style: str = "") -> Markup:
    """A horizontal bar as long as the share."""
    bar = Markup(
        '<rect class="track" width="120" height="10" rx="2"/><rect class="bar {0}" width="{1}" height="10" rx="2"/>'
    )
    return _svg("share", 120, 10, [bar.format(style, _short(120 * min(max(share, 0.0), 1.0)))])


def line_chart(curves: Sequence[Curve], y_label: Text, *, height: int = 180, steps: int) -> Markup:
    """Curves over the optimizer steps 0 to `steps`; the vertical axis begins at 0."""
    top, bottom = 20, height - 32
    highest = max((max(curve.ys) for curve in curves if len(curve.ys)), default=1.0)
    ticks = _ticks(highest)
    limit = max(ticks[-1], highest) or 1.0
    span = max(steps, 1)

    def x(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / span

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / limit

    parts = [bilingual(y_label, f'class="tick" x="{_LEFT - 34}" y="11"')]
    parts += [_grid_line(y(tick), tick) for tick in ticks]
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        label = Markup('<text class="tick" x="{0}" y="{1}" text-anchor="{2}">{3}</text>')
        step = round(share * span)
        parts.append(label.format(_short(x(step)), bottom + 14, anchor, f"{step:,}"))
    middle = _LEFT + (WIDTH - _LEFT - _RIGHT) // 2
    parts.append(
        bilingual(
            Text("optimizer step", "최적화 스텝"), f'class="tick" x="{middle}" y="{bottom + 28}" text-anchor="middle"'
        )
    )
    for curve in curves:
        points = " ".join(f"{_short(x(a))},{_short(y(b))}" for a, b in zip(curve.xs, curve.ys, strict=True))
        parts.append(Markup('<polyline class="curve {0}" points="{1}"/>').format(curve.style, points))
    return _svg("chart", WIDTH, height, parts)


def _grid_line(y: float, value: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{at}" y="{below}" text-anchor="end">{label}</text>'
    ).format(left=_LEFT, right=WIDTH - _RIGHT, y=_short(y), at=_LEFT - 5, below=_short(y + 4), label=_tick_label(value))


def _tick_label(value: float) -> str:
    """At most six characters, which is what the margin has: `1.5e-4` for a learning rate."""
    if value == 0 or value >= 0.01:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def loss_curves(steps: Sequence[int], losses: Sequence[float]) -> list[Curve]:
    """The losses as they are (averaged where there are more than the picture can show), and a moving average."""
    xs, ys = _averaged(steps, losses)
    window = max(len(ys) // 20, 1)
    smooth = [
        sum(ys[max(0, i - window) : i + window + 1]) / len(ys[max(0, i - window) : i + window + 1])
        for i in range(len(ys))
    ]
    return [Curve(xs, ys, "raw"), Curve(xs, smooth, "smooth")] if len(ys) > 20 else [Curve(xs, ys, "smooth")]


def _averaged(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = -(-len(values) // _POINTS)
    groups = [(steps[i : i + size], values[i : i + size]) for i in range(0, len(values), max(size, 1))]
    return [sum(a) / len(a) for a, _ in groups], [sum(b) / len(b) for _, b in groups]


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 to at least `highest`, at most six."""
    if highest <= 0:
        return [0.0, 1.0]
    magnitude = 10.0 ** math.floor(math.log10(highest))
    step = next(factor * magnitude for factor in (0.2, 0.5, 1.0, 2.0) if highest <= 5 * factor * magnitude)
    return [number * step for number in range(int(highest / step + 0.999999) + 1)]


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _svg(style: str, width: int, height: int, parts: Sequence[Markup]) -> Markup:
    """A picture that repeats what is written beside it: hidden from screen readers."""
    opening = Markup('<svg class="{0}" viewBox="0 0 {1} {2}" aria-hidden="true" focusable="false">')
    return opening.format(style, width, height) + Markup("").join(parts) + Markup("</svg>")

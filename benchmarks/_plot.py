"""Line plots as SVG, without a package for them."""

from __future__ import annotations

from html import escape

WIDTH, HEIGHT = 900, 460
LEFT, RIGHT, TOP, BOTTOM = 56, 300, 40, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")


def ratio_plot(title: str, lines: dict[str, dict[int, float]]) -> str:
    """Ratios over the rate, one line a name; above 1, ours is the faster one.

    lines: name -> {rate: ratio}.
    """
    rates = sorted({rate for points in lines.values() for rate in points})
    top = max([1.5, *(ratio for points in lines.values() for ratio in points.values())]) * 1.05
    last = max(rates, default=1)

    def x(rate: float) -> float:
        return LEFT + rate / last * (WIDTH - LEFT - RIGHT)

    def y(ratio: float) -> float:
        return HEIGHT - BOTTOM - ratio / top * (HEIGHT - TOP - BOTTOM)

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, TOP - 16, title, "start"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "rate in pixels"),
    ]
    step = 0.5 if top < 5 else 2
    for i in range(int(top / step) + 1):
        width, at = (1.5 if i * step == 1 else 0.3), y(i * step)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
            f'stroke="#444" stroke-width="{width}"/>'
        )
        parts.append(text(LEFT - 8, at + 4, f"{i * step:g}", "end"))
    parts += [text(x(rate), HEIGHT - BOTTOM + 16, str(rate)) for rate in rates]
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        dashes = "" if i < len(COLOURS) else ' stroke-dasharray="5 3"'
        places = [(x(rate), y(ratio)) for rate, ratio in sorted(points.items())]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        at = TOP + 16 * i
        end = WIDTH - RIGHT + 44
        parts.append(
            f'<line x1="{end - 28}" x2="{end - 4}" y1="{at}" y2="{at}" '
            f'stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        parts.append(text(end, at + 4, name, "start"))
    return "\n".join([*parts, "</svg>\n"])

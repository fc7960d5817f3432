"""The plot of ``bench.routing``: a bar a portfolio, and how far it could go."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 320, 56, 40, 36


def draw(saved: Sequence[float], most: Sequence[float]) -> str:
    """What routing by marginal value saved against list price, sorted; a line where no routing could save more."""
    pairs = sorted(zip(saved, most, strict=True))
    high = max(0.05, *most)
    low = min(0.0, *saved)
    step = (WIDTH - LEFT - 16) / len(pairs)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Saved in a year by marginal value, against list price</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{len(pairs)} random portfolios, sorted; '
        "bars: saved, marks: the most that any routing could save</text>",
    ]
    for value in (number / 10 for number in range(round(low * 10), int(high * 10) + 1)):
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    for number, (value, bound) in enumerate(pairs):
        x = LEFT + number * step
        top, height = min(y(value), y(0)), abs(y(value) - y(0))
        colour = "#2a6f97" if value >= 0 else "#c1121f"
        lines.append(
            f'<rect x="{x + 1:.1f}" y="{top:.1f}" width="{step - 2:.1f}" height="{height:.1f}" fill="{colour}"/>'
        )
        lines.append(
            f'<line x1="{x:.1f}" x2="{x + step:.1f}" y1="{y(bound):.1f}" y2="{y(bound):.1f}" '
            'stroke="#222" stroke-width="1.5"/>'
        )
    return "\n".join([*lines, "</svg>", ""])

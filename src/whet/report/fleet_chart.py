"""Charts of a fleet: P99 and utilization by the number of servers. Inline SVG, colours by CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.decide.fleet_plan import FleetPlan

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 70, 24, 14, 40
_LOGARITHMIC = 8  # times the least value, from where on the axis is logarithmic


def latencies(plan: FleetPlan, title: str, axis: str, unit: str, scale: float) -> str:
    """P99 (times `scale`, in `unit`) with whiskers over the number of servers, the objective dashed."""
    height = 300
    values = [v * scale for r in plan.runs for v in (r.p99_low, r.p99, r.p99_high) if v > 0] + [plan.objective * scale]
    logarithmic = max(values) > _LOGARITHMIC * min(values)
    low, high = (min(values) / 1.3, max(values) * 1.3) if logarithmic else (0.0, max(values) * 1.1)

    def y(value: float) -> float:
        at = math.log(max(value, low) / low) / math.log(high / low) if logarithmic else value / high
        return TOP + (1 - at) * (height - TOP - BOTTOM)

    x = _places([r.servers for r in plan.runs])
    marks = _decades(low, high) if logarithmic else _steps(high)
    out = [*_frame(height, title, x, [r.servers for r in plan.runs], axis),
           *(f'<path class="grid" d="M{LEFT} {y(m):.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{LEFT - 8}" '
             f'y="{y(m) + 4:.1f}" text-anchor="end">{m:g}</text>' for m in marks),
           f'<text class="tick" x="{LEFT - 8}" y="{height - 22}" text-anchor="end">{escape(unit)}</text>']
    at = y(plan.objective * scale)
    out.append(f'<path class="reference" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
    for r, place in zip(plan.runs, x):
        a, z, middle = (y(v * scale) for v in (r.p99_low, r.p99_high, r.p99))
        kind = "ours" if r.meets else "theirs"
        out.append(f'<path class="whisker" d="M{place:.1f} {a:.1f}V{z:.1f}M{place - 5:.1f} {a:.1f}h10M{place - 5:.1f} '
                   f'{z:.1f}h10"/><g class="bar {kind}"><circle cx="{place:.1f}" cy="{middle:.1f}" r="5">'
                   f'<title>{r.servers:,}: {r.p99 * scale:.4g} {escape(unit)}</title></circle></g>')
        if r.servers == plan.servers:
            out.append(f'<circle class="whisker" cx="{place:.1f}" cy="{middle:.1f}" r="10"/>')
    return "".join(out) + "</svg>"


def utilization(plan: FleetPlan, title: str, axis: str) -> str:
    """The share of the time that servers work, as bars from 0 to 100 %."""
    height = 190
    x = _places([r.servers for r in plan.runs])
    wide = min(40.0, 0.6 * (WIDTH - LEFT - RIGHT) / len(x))

    def y(value: float) -> float:
        return TOP + (1 - value) * (height - TOP - BOTTOM)

    out = [*_frame(height, title, x, [r.servers for r in plan.runs], axis),
           *(f'<path class="grid" d="M{LEFT} {y(m):.1f}H{WIDTH - RIGHT}"/><text class="tick" x="{LEFT - 8}" '
             f'y="{y(m) + 4:.1f}" text-anchor="end">{m:.0%}</text>' for m in (0, 0.25, 0.5, 0.75, 1))]
    for r, place in zip(plan.runs, x):
        kind = "ours" if r.servers == plan.servers else "theirs"
        top = y(r.utilization)
        out.append(f'<rect class="bar {kind}" x="{place - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" '
                   f'height="{y(0) - top:.1f}"><title>{r.servers:,}: {r.utilization:.1%}</title></rect>')
    return "".join(out) + "</svg>"


def _places(servers: Sequence[int]) -> list[float]:
    """Where each fleet stands, in equal steps: neighbours matter, not distances."""
    step = (WIDTH - LEFT - RIGHT) / len(servers)
    return [LEFT + step * (i + 0.5) for i in range(len(servers))]


def _frame(height: int, title: str, x: Sequence[float], servers: Sequence[int], axis: str) -> list[str]:
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
           'xmlns="http://www.w3.org/2000/svg">']
    out += [f'<text class="tick" x="{place:.1f}" y="{height - 22}" text-anchor="middle">{n:,}</text>'
            for place, n in zip(x, servers)]
    out.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{height - 4}" text-anchor="middle">'
               f'{escape(axis)}</text>')
    return out


def _steps(high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if high / (step * m) <= 6)
    return [step * i for i in range(int(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    found = [m * 10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for m in (1, 2, 5)]
    inside = [v for v in found if low <= v <= high]
    return inside if len(inside) <= 8 else [v for v in inside if f"{v:.0e}".startswith("1")]

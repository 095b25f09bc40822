"""The report in a terminal, by rich: the verdict first, then the evidence, then how to read it.

At most 100 columns wide, and complete at 80. Written to something that is no terminal, it has neither colours nor a
changing width.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..checks.combination import Alpha, Combination, Fit
from ..checks.ledger import Ledger
from ..checks.standing import Standing
from ..checks.update import Update
from ..report import Report

PLAIN_WIDTH = 80
WIDEST = 100
COLOURS = {"CONSISTENT": "green", "INCONSISTENT": "red", "INCONCLUSIVE": "yellow"}
Column = str | tuple[str, Literal["left", "right"]]
MARK: Column = ("", "left")
MARKS: dict[Standing, str] = {"within": "✓", "between": "?", "beyond": "✗"}


def plain(report: Report, width: int = PLAIN_WIDTH) -> str:
    """The report as text without colours, ``width`` columns wide."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    show(report, console)
    written = console.file
    assert isinstance(written, io.StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def show(report: Report, console: Console) -> None:
    """Print the report."""
    width = min(console.width, WIDEST)
    for part in _parts(report):
        console.print(part, width=width, highlight=False)


def _parts(report: Report) -> Iterable[RenderableType]:
    yield _verdict(report)
    yield _subject(report)
    if report.ledger is not None:
        yield from _section("Losses", _ledger(report.ledger, report.subject.framework))
    yield from _section(
        "Gradient at the shared layers: G = Σ α·∇loss, with α fitted",
        _combination(report.combination, report.subject.framework),
    )
    yield from _section(
        f"Update: which rule gives the weights that {report.subject.framework} ended with?", _update(report.update)
    )
    yield from _section("How to read this", _guide(report))
    yield from _section("Environment", _environment(report))


def _section(title: str, body: RenderableType) -> Iterable[RenderableType]:
    yield Text()
    yield Text(title, style="bold")
    yield Padding(body, (0, 0, 0, 2))


def _verdict(report: Report) -> RenderableType:
    colour = COLOURS[report.verdict]
    return Text.assemble((report.verdict, f"bold {colour}"), "  ", (report.answer, "bold"))


def _subject(report: Report) -> RenderableType:
    subject = report.subject
    grid = _pairs()
    grid.add_row("model", subject.model)
    if subject.data:
        grid.add_row("data", subject.data)
    grid.add_row("observed", f"{subject.call}, {subject.dtype}; G is {subject.gradient_source}")
    for note in subject.notes:
        grid.add_row("note", note)
    return Padding(grid, (1, 0, 0, 2))


def _ledger(ledger: Ledger, framework: str) -> RenderableType:
    table = _table(("loss", "left"), "", ("×", "right"), *_right(_short(framework), "engine", "off by", "spread"), MARK)
    for term in ledger.terms:
        table.add_row(
            term.name,
            term.objective,
            f"{term.weight:g}",
            f"{term.reported:.7f}",
            f"{term.recomputed:.7f}",
            _signed(term.difference),
            _size(term.spread),
            MARKS[term.standing],
        )
    off, spread = _signed(ledger.total - ledger.recomputed_total), _size(ledger.total_spread)
    table.add_row("total", "Σ weight·loss", "", f"{ledger.total:.7f}", f"{ledger.recomputed_total:.7f}", off, spread)
    mark = MARKS[ledger.standing]
    table.add_row("rest", "unexplained", "", _signed(ledger.rest), "", "", _size(ledger.rest_spread), mark)
    return table


def _combination(found: Combination, framework: str) -> RenderableType:
    names = list(found.alpha)
    numbers: list[Column] = [*_right(*(f"α {name}" for name in names), "residual", "engine", "spread"), MARK]
    renamed = any(fit.native != fit.name for fit in found.tensors)
    table = _table(_short(framework), "tensor", *numbers) if renamed else _table("tensor", *numbers)
    digits = {name: min(_decimals(fit.alpha[name]) for fit in (*found.tensors, found.trunk)) for name in names}
    for fit in found.tensors:
        label = (fit.native, fit.name) if renamed else (fit.name,)
        table.add_row(*label, *_fit_cells(fit, digits))
    empty = ("",) if renamed else ()
    table.add_row("all shared", *empty, *_fit_cells(found.trunk, digits), style="bold")
    table.add_row("configured", *empty, *(f"{found.alpha[name].configured:g}" for name in names))
    lines: list[RenderableType] = [table, Text()]
    lines += [
        Text(f"α {name} {_interval(alpha)}; configured: {alpha.configured:g}") for name, alpha in found.alpha.items()
    ]
    lines += [
        Text(f"cos(∇{first}, ∇{second}) = {found.cosine[i][j]:.3f}: {_angle(found.cosine[i][j])}")
        for (i, first), (j, second) in itertools.combinations(enumerate(names), 2)
    ]
    lines.append(_finding(found.standing, found.verdict, found.reason))
    return Group(*lines)


def _fit_cells(fit: Fit, digits: dict[str, int]) -> list[str]:
    size = fit.size or 1.0
    return [
        *(_coefficient(fit.alpha[name], places) for name, places in digits.items()),
        _size(fit.residual / size),
        _size(fit.engine_residual / size),
        _size(fit.spread / size),
        MARKS[fit.standing],
    ]


def _update(update: Update) -> RenderableType:
    table = _table("rule", *_right("misfit", "weights outside"), MARK)
    for h in update.hypotheses:
        style = "bold" if h.fits else ""
        table.add_row(
            h.name, _misfit(h.misfit), f"{h.outside:,} of {h.elements:,}", "✓ fits" if h.fits else "✗", style=style
        )
    seen, fits = update.applied, ", fits" if update.applied.fits else ""
    lines: list[RenderableType] = [Text(update.optimizer), table, Text()]
    lines.append(
        Text(f"Replayed on G itself: misfit {_misfit(seen.misfit)}{fits}. No step at all: {_misfit(update.unmoved)}.")
    )
    if update.uncertain:
        share = f"{update.uncertain:,} of {seen.elements:,} gradients are"
        lines.append(Text(f"{share} at rounding level: their sign is uncertain, and so is their step."))
    lines.append(_finding(update.standing, update.rule, update.reason))
    return Group(*lines)


def _guide(report: Report) -> RenderableType:
    n = report.subject.batch
    grid = _pairs()
    grid.add_row(
        "spread",
        "What rounding may do. Float32 minus float64 in the engine: every sample alone, the largest difference over "
        "the units of a layer, added up in magnitude; plus "
        f"{n}·2⁻²⁴·Σ|gradient| for summing {n} samples in float32.",
    )
    grid.add_row("α", "Least squares. Only the digits that the spread leaves certain are shown.")
    grid.add_row(
        "residual",
        "‖G - Σ α·∇loss‖ / ‖G‖, beside the same for the engine's own float32 gradient. The spread too is relative.",
    )
    grid.add_row(
        "misfit",
        "The largest distance between a weight and its prediction, in units of what the spread and the rule's own "
        "rounding allow there. It fits up to 1.",
    )
    grid.add_row(
        "✓  ?  ✗",
        "✓ within the spread. ✗ nearer, on a log scale, to the size of the thing itself (the gradient; for a rule, the "
        "misfit of no step) than to the spread. ? between the two: cannot tell. The spread is measured, not proved.",
    )
    if report.update.optimizer.startswith("Adam"):
        grid.add_row("sum, mean", "Adam almost ignores a gradient's scale; the two differ through epsilon alone.")
    grid.add_row("float64", f"The engine and the NumPy reference agree to {_size(report.agreement)} spreads.")
    return grid


def _environment(report: Report) -> RenderableType:
    values = [f"{name} {value}" for name, value in report.environment.items()]
    lines: list[RenderableType] = [Text(" · ".join(values), style="dim")]
    if report.reproduce is not None:
        lines.append(Text(f"reproduce: {report.reproduce}", style="dim"))
    return Group(*lines)


def _finding(found: Standing, verdict: str, reason: str) -> Text:
    colour = {"within": "green", "between": "yellow", "beyond": "red"}[found]
    return Text.assemble((f"{MARKS[found]} {verdict}", f"bold {colour}"), f": {reason}")


def _table(*columns: Column) -> Table:
    """A table without lines: columns given by name alone may fold in a narrow terminal, the others keep their width."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        if isinstance(column, str):
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column[0], justify=column[1], no_wrap=True)
    return table


def _right(*names: str) -> list[Column]:
    return [(name, "right") for name in names]


def _pairs() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    return grid


def _short(framework: str) -> str:
    return framework if len(framework) <= 10 else "reported"


def _coefficient(alpha: Alpha, places: int) -> str:
    return f"{alpha.value:.{places}f}" if math.isfinite(alpha.radius) else "unknown"


def _interval(alpha: Alpha) -> str:
    if not math.isfinite(alpha.radius):
        return "is unknown"
    places = _decimals(alpha) + 1
    return f"lies in [{alpha.low:.{places}f}, {alpha.high:.{places}f}]"


def _decimals(alpha: Alpha) -> int:
    """How many decimals of a coefficient its interval leaves certain; 12 where it leaves all, or none."""
    radius = alpha.radius
    if not 0.0 < radius < math.inf:
        return 12
    return max(0, min(12, -math.floor(math.log10(radius)) - 1))


def _size(value: float) -> str:
    return "0" if value == 0.0 else _short_exponent(f"{value:.1e}")


def _signed(value: float) -> str:
    return "0" if value == 0.0 else _short_exponent(f"{value:+.1e}")


def _misfit(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.2f}"


def _angle(cosine: float) -> str:
    if math.isnan(cosine):
        return "one loss has no gradient here"
    degrees = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    return f"{degrees:.0f}° apart"


def _short_exponent(number: str) -> str:
    """1.4e-07 -> 1.4e-7."""
    return re.sub(r"e([+-])0+(?=[0-9])", r"e\1", number).replace("e+0", "e0")

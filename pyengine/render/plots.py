"""Plots of a result, by matplotlib, without a window and without touching pyplot's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..verification import Verification


def figure(result: Verification) -> Any:
    """Observed beside predicted error of every tensor, and α with its interval, as far as they were judged.

    Raises ``ModuleNotFoundError`` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Plots need matplotlib; install it with: pip install 'pyengine-grad[report]'"
        ) from error
    drawing = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = drawing.subplots(1, 2)
    judged: list[tuple[str, Any]] = [(f.name, t) for f in result.findings for t in f.tensors]
    tensors = judged + [("summed", t) for t in result.tensors]
    rows = range(len(tensors))
    left.plot([t.actual_error for _, t in tensors], rows, "o", label="observed")
    left.plot([t.predicted_error for _, t in tensors], rows, "|", markersize=14, label="predicted from rounding")
    left.set_yticks(list(rows), [f"{t.name} ({name})" for name, t in tensors], fontsize="x-small")
    left.set_xlabel("relative error of the tensor")
    if tensors:
        left.set_xscale("log")
        left.legend(fontsize="x-small")
    if result.combination is not None:
        alpha = result.combination.alpha
        for row, a in enumerate(alpha.values()):
            right.errorbar(a.value - a.configured, row, xerr=a.radius, fmt="o", capsize=4)
        right.set_yticks(range(len(alpha)), list(alpha))
        right.axvline(0.0, linestyle=":")
        right.set_xlabel("α - configured weight, with its interval")
    drawing.suptitle(f"{result.verdict}: {result.answer}", fontsize="small", wrap=True)
    return drawing

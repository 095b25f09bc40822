"""The report: findings of all checks, one verdict, one sentence that answers the question; as text, and as JSON.

The verdict is ``"CONSISTENT"``, ``"INCONSISTENT"`` or ``"INCONCLUSIVE"``: these are the black-box words, because only
gradients, losses and weights were seen, not every stage that led to them. A step is consistent when the combination is
*summed*, the update is *one step on the sum*, the ledger, if there is one, is balanced, and the engine's two float64
routes agree within the rounding spread. It is inconsistent when any of the first three is refuted. Everything else is
inconclusive.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .checks.combination import Combination, Fit
from .checks.ledger import Ledger
from .checks.standing import Standing, worst
from .checks.update import NONE, OTHER, Hypothesis, Update
from .errors import GradientMismatch

SCHEMA_VERSION = 1
Verdict = Literal["CONSISTENT", "INCONSISTENT", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Subject:
    """What was judged: who took the step, on which model and batch, and how its gradient was seen."""

    framework: str
    call: str
    model: str
    data: str
    batch: int
    dtype: str
    heads: dict[str, float]
    gradient_source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The result of judging one training step. True if it is consistent; prints as the whole report."""

    subject: Subject
    ledger: Ledger | None
    combination: Combination
    update: Update
    agreement: float
    environment: dict[str, str] = field(default_factory=dict)
    reproduce: str | None = None

    @property
    def standing(self) -> Standing:
        """The gravest of the checks' standings; never better than "between" if the two float64 routes disagree."""
        found = [self.combination.standing, self.update.standing]
        if self.ledger is not None:
            found.append(self.ledger.standing)
        if not self.agreement <= 1.0:
            return "between"
        return worst(found)

    @property
    def verdict(self) -> Verdict:
        words: dict[Standing, Verdict] = {"within": "CONSISTENT", "between": "INCONCLUSIVE", "beyond": "INCONSISTENT"}
        return words[self.standing]

    @property
    def ok(self) -> bool:
        return self.verdict == "CONSISTENT"

    def __bool__(self) -> bool:
        return self.ok

    @property
    def formula(self) -> str:
        """The configured sum, such as ``1·∇digit + 0.5·∇ink``."""
        return formula(self.subject.heads)

    @property
    def answer(self) -> str:
        """The verdict in words: does the optimizer get the weighted sum, and is its step one step on that sum?"""
        who, update = self.subject.framework, self.update
        if self.ok:
            return (
                f"Yes. At the shared layers {who} applied the weighted sum of the per-loss gradients, {self.formula}, "
                f"in one {update.optimizer.split('(')[0]} step."
            )
        if self.verdict == "INCONCLUSIVE":
            return (
                f"Cannot tell whether {who} applied {self.formula} at the shared layers: {'; '.join(self._doubts())}."
            )
        return f"No. At the shared layers {who} did not apply {self.formula} in one step: {'; '.join(self._faults())}."

    def _faults(self) -> list[str]:
        found = []
        if self.combination.standing == "beyond":
            found.append(f"the gradient is {_phrase(self.combination.verdict)} ({self.combination.reason})")
        if self.update.standing == "beyond":
            found.append(_moved(self.update))
        if self.ledger is not None and self.ledger.standing == "beyond":
            found.append(f"the loss ledger shows {_phrase(self.ledger.verdict)}")
        return found

    def _doubts(self) -> list[str]:
        if not self.agreement <= 1.0:
            return ["the engine and the NumPy reference disagree by more than the rounding spread"]
        found = []
        if self.combination.standing == "between":
            found.append(self.combination.reason)
        if self.update.standing == "between":
            found.append(self.update.reason)
        if self.ledger is not None and self.ledger.standing == "between":
            found.append("a reported loss differs by more than the rounding spread, yet by little")
        return found

    def raise_for_failure(self) -> None:
        """Raise :class:`GradientMismatch` unless the report is consistent; an inconclusive report is no pass."""
        if not self.ok:
            raise GradientMismatch(f"{self.verdict}: {self.answer}")

    def summary(self) -> str:
        """The verdict, the coefficients and the update in plain lines, without tables."""
        lines = [f"{self.verdict}: {self.answer}"]
        for name, a in self.combination.alpha.items():
            lines.append(f"alpha {name} = {a.value:.8g} in [{a.low:.8g}, {a.high:.8g}], configured {a.configured:g}")
        lines += [f"{h.name}: {'fits' if h.fits else 'misses'}, misfit {h.misfit:.3g}" for h in self.update.hypotheses]
        return "\n".join(lines)

    def __str__(self) -> str:
        try:
            from .render.terminal import plain
        except ImportError:
            return self.summary()
        return plain(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data: the content of :meth:`to_json`."""
        subject = self.subject
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "ok": self.ok,
            "answer": self.answer,
            "subject": {
                "framework": subject.framework,
                "call": subject.call,
                "model": subject.model,
                "data": subject.data,
                "batch": subject.batch,
                "dtype": subject.dtype,
                "loss_weights": subject.heads,
                "gradient_source": subject.gradient_source,
                "notes": list(subject.notes),
            },
            "ledger": None if self.ledger is None else ledger_data(self.ledger),
            "combination": combination_data(self.combination),
            "update": update_data(self.update),
            "reach": {},
            "stages": [],
            "not_judged": {
                "reach": "a step shows the sum of the losses' gradients, not each of them",
                "stages": "a step shows no numbers between the layers",
                **({} if self.ledger else {"ledger": "the framework reported no losses"}),
            },
            "parameters": [
                {"name": f.name, "native": f.native, "shape": list(f.shape), "residual": f.residual, "spread": f.spread}
                for f in self.combination.tensors
            ],
            "float64_routes_agreement": self.agreement,
            "environment": self.environment,
            "reproduce": self.reproduce,
        }

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained HTML file; an old one is replaced only when the new one is complete.

        Raises ``ModuleNotFoundError`` without jinja2 and ``FileNotFoundError`` without the folder.
        """
        from .render.html import write

        write(self, path)

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON. Numbers that JSON lacks (infinities, NaN) become null."""
        return json.dumps(finite(self.to_dict()), indent=indent, ensure_ascii=False, allow_nan=False)


def combination_data(found: Combination) -> dict[str, Any]:
    """The combination as plain data."""
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        **_fit(found.trunk),
        "factor": found.factor,
        "cosine": [list(row) for row in found.cosine],
        "heads": list(found.alpha),
        "tensors": [{"name": f.name, "native": f.native, "shape": list(f.shape), **_fit(f)} for f in found.tensors],
    }


def update_data(found: Update) -> dict[str, Any]:
    """The update as plain data."""
    return {
        "verdict": found.verdict,
        "rule": found.rule,
        "reason": found.reason,
        "optimizer": found.optimizer,
        "coincide": list(found.coincide),
        "hypotheses": [_hypothesis(h) for h in found.hypotheses],
        "applied": _hypothesis(found.applied),
        "unmoved_misfit": found.unmoved,
        "uncertain_elements": found.uncertain,
    }


def formula(weights: dict[str, float]) -> str:
    """Write a weighted sum of per-loss gradients.

    >>> formula({"digit": 1.0, "ink": 0.5})
    '1·∇digit + 0.5·∇ink'
    """
    return " + ".join(f"{weight:g}·∇{name}" for name, weight in weights.items()).replace("+ -", "- ")


def _phrase(verdict: str) -> str:
    """Put a verdict into a sentence."""
    nouns = {
        "missing loss": "missing a loss",
        "weights exchanged": "a sum with the weights exchanged",
        "not a combination": "not a combination of the per-loss gradients",
        "other weights": "a sum with other weights",
        "scaled": "the configured sum scaled",
        "unexplained rest": "a rest that no term explains",
        "another loss": "a term that is another loss than configured",
    }
    return nouns.get(verdict, verdict)


def _moved(update: Update) -> str:
    if update.rule == OTHER:
        return f"the weights are one {update.optimizer.split('(')[0]} step on that gradient"
    if update.rule == NONE:
        return f"no listed rule explains the weights ({update.reason})"
    return f"the weights moved by {update.rule}"


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "alpha": {
            name: {"value": a.value, "low": a.low, "high": a.high, "configured": a.configured}
            for name, a in fit.alpha.items()
        },
        "residual": fit.residual,
        "spread": fit.spread,
        "engine_float32_residual": fit.engine_residual,
        "norm": fit.size,
    }


def _hypothesis(h: Hypothesis) -> dict[str, Any]:
    return {
        "name": h.name,
        "misfit": h.misfit,
        "by": "its own copy" if h.own else "the float64 rule",
        "misfit_of_rule": h.ruled,
        "fits": h.fits,
        "outside": h.outside,
        "elements": h.elements,
    }


def ledger_data(ledger: Ledger) -> dict[str, Any]:
    """The ledger as plain data."""
    return {
        "verdict": ledger.verdict,
        "terms": [
            {
                "name": t.name,
                "objective": t.objective,
                "weight": t.weight,
                "reported": t.reported,
                "recomputed": t.recomputed,
                "difference": t.difference,
                "spread": t.spread,
            }
            for t in ledger.terms
        ],
        "total": ledger.total,
        "recomputed_total": ledger.recomputed_total,
        "rest": ledger.rest,
        "rest_bound": ledger.rest_spread,
    }


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value

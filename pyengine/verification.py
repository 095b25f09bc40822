"""The result of judging numbers alone: gradients from anywhere, or the parameters before and after a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .checks.reach import faults, unused
from .errors import GradientMismatch, listing
from .report import SCHEMA_VERSION, combination_data, finite, ledger_data, update_data

if TYPE_CHECKING:
    from .checks.blackbox import Finding
    from .checks.combination import Combination
    from .checks.diagnosis import Diagnosis
    from .checks.differences import Slope
    from .checks.ledger import Ledger
    from .checks.routes import Routes
    from .checks.staged.gradients import CertifiedTensor
    from .checks.update import Update
    from .verify_staged import StagedReport

Verdict = Literal["CONSISTENT", "INCONSISTENT", "INCONCLUSIVE", "CERTIFIED", "REFUTED", "REFUTED_STATISTICAL"]


@dataclass(frozen=True)
class Verification:
    """True if consistent; prints as a summary; ``combination`` and ``update`` are None where they were not judged.

    ``findings`` holds one black-box finding per gradient that was judged; where every operation is certified none
    needs to be, and ``tensors`` has a row per parameter. ``reach`` maps each loss to its parameters and these to a word
    of :mod:`pyengine.checks.reach`. ``staged`` is the staged report where witnesses were at hand; ``native`` maps
    canonical parameter names to the framework's. For a model that the engine does not know, ``refusal`` says why,
    ``routes`` compares the gradient of the total with the sum of the losses' gradients, ``slopes`` holds directional
    finite differences, and parameters have the framework's names. ``not_judged`` says of every check that did not run
    why it did not. ``warnings`` tells where a verdict means less, ``assumptions`` what it rests on. ``diagnoses`` names
    what goes wrong in a training loop that was watched, each with a remedy.
    ``notes`` are findings that make no verdict but that one should know.
    """

    verdict: Verdict
    answer: str
    findings: tuple[Finding, ...] = ()
    combination: Combination | None = None
    update: Update | None = None
    reach: dict[str, dict[str, str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    staged: StagedReport | None = None
    native: dict[str, str] = field(default_factory=dict)
    ledger: Ledger | None = None
    routes: Routes | None = None
    slopes: tuple[Slope, ...] = ()
    not_judged: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    notes: tuple[str, ...] = ()
    tensors: tuple[CertifiedTensor, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict in ("CONSISTENT", "CERTIFIED")

    def __bool__(self) -> bool:
        return self.ok

    def raise_for_failure(self) -> None:
        """Raise :class:`GradientMismatch` unless consistent; inconclusive is no pass."""
        if not self.ok:
            raise GradientMismatch(f"{self.verdict}: {self.answer}")

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data: the content of :meth:`to_json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "ok": self.ok,
            "answer": self.answer,
            "gradients": [_finding(f) for f in self.findings],
            "parameters": [
                {"gradient": f.name, "native": self.native.get(tensor.name), **tensor.data()}
                for f in self.findings
                for tensor in f.tensors
            ]
            + [
                {"gradient": "summed", "native": self.native.get(tensor.name), **_plain(vars(tensor))}
                for tensor in self.tensors
            ]
            + [_plain(vars(tensor)) for tensor in (self.routes.tensors if self.routes else ())],
            "combination": None if self.combination is None else combination_data(self.combination),
            "update": None if self.update is None else update_data(self.update),
            "ledger": None if self.ledger is None else ledger_data(self.ledger),
            "reach": self.reach,
            "differences": [{**vars(slope), "bound": slope.bound, "outcome": slope.outcome} for slope in self.slopes],
            "refusal": self.refusal or None,
            "diagnoses": [vars(d) for d in self.diagnoses],
            "notes": list(self.notes),
            "stages": [] if self.staged is None else self.staged.to_dict()["stages"],
            "not_judged": self.unjudged,
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
            "environment": self.environment,
        }

    @property
    def unjudged(self) -> dict[str, str]:
        """Check -> why it did not run."""
        reasons = {
            "ledger": (self.ledger, "no reported losses were given"),
            "stages": (self.staged, "no witnesses were given, only final numbers"),
            "combination": (self.combination, "no summed gradient was given"),
            "update": (self.update, "no parameters before and after a step were given"),
            "reach": (self.reach or None, "no gradients of single losses were given"),
            "parameters": (self.findings or self.tensors or self.routes or None, "no gradient was given"),
        }
        return {name: why for name, (found, why) in reasons.items() if found is None} | self.not_judged

    def to_json(self, indent: int | None = 2) -> str:
        """The result as JSON. Numbers that JSON lacks (infinities, NaN) become null."""
        return json.dumps(finite(self.to_dict()), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained HTML file; an old one is replaced only when the new one is complete.

        Raises ``ModuleNotFoundError`` without jinja2 and ``FileNotFoundError`` without the folder.
        """
        from .render.html import write

        write(self, path)

    def plot(self) -> Any:
        """A matplotlib ``Figure``: the errors of the tensors beside the predicted ones, and the intervals of α.

        Raises ``ModuleNotFoundError`` without matplotlib.
        """
        from .render.plots import figure

        return figure(self)

    def named(self, name: str) -> str:
        """A canonical parameter name with the framework's own beside it, where it has another."""
        own = self.native.get(name, name)
        return name if own == name else f"{name} ({own})"

    def __str__(self) -> str:
        lines = [f"{self.verdict}  {self.answer}", *(f"  Warning: {text}" for text in self.warnings)]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [line for d in self.diagnoses for line in ("", d.name, f"  {d.sentence}", f"  → {d.remedy}")]
        for finding in self.findings:
            lines += ["", *_table(finding, self.named)]
        lines += _certified(self.tensors, self.named)
        if self.combination is not None:
            lines += ["", "Gradient at the shared layers: G = Σ α·∇loss"]
            for name, a in self.combination.alpha.items():
                lines.append(f"  α {name} = {a.value:.9g} in [{a.low:.9g}, {a.high:.9g}], configured {a.configured:g}")
            lines.append(f"  {self.combination.verdict}: {self.combination.reason}")
        if self.ledger is not None and not self.routes:
            lines += ["", *_ledger(self.ledger)]
        if self.update is not None:
            lines += ["", *_update(self.update)]
        if self.staged is not None:
            count, failed = len(self.staged.stages), self.staged.staged.failures
            lines += ["", f"Stages: {count - len(failed)} of {count} hold; print(report.staged) shows them all"]
            lines += [f"  {stage.name} ({stage.kind}): {stage.reason}" for stage in failed[:5]]
        if self.routes is not None:
            lines += ["", *_routes(self.routes)]
        if self.slopes:
            lines += ["", "Finite differences in float64"]
            lines += [
                f"  {s.loss} along {s.along}: gradient {s.claimed:.9g}, measured {s.measured:.9g} ± {s.bound:.1e}, "
                f"step {s.step:.1e}: {s.outcome}"
                for s in self.slopes
            ]
        for loss, touched in faults(self.reach).items():
            lines += [f"  {loss} {how}: {self.named(name)}" for name, how in touched.items()]
        if self.reach and (idle := unused(self.reach)):
            lines += [f"  no loss reaches {listing(map(self.named, idle))}"]
        if self.refusal:
            lines += ["", "Not judged:"]
            for why in dict.fromkeys(self.unjudged.values()):
                lines.append(f"  {listing(name for name, other in self.unjudged.items() if other == why)}: {why}")
        if self.environment:
            lines += ["", " · ".join(f"{name} {value}" for name, value in self.environment.items())]
        return "\n".join(lines)


def _ledger(ledger: Ledger) -> list[str]:
    width = max(len(term.name) for term in ledger.terms)
    return [
        "Losses as they were reported, and recomputed",
        *(f"  {t.name:<{width}}  {t.weight:8g} × {t.reported:.9g}, {t.recomputed:.9g}  {t.objective}"
          for t in ledger.terms),
        f"  total {ledger.total:.9g}, rest {ledger.rest:+.2g}: {ledger.verdict}",
    ]  # fmt: skip


def _update(update: Update) -> list[str]:
    width = max(len(h.name) for h in update.hypotheses)
    return [
        f"Update: {update.optimizer}",
        *(f"  {h.name:<{width}}  misfit {h.misfit:10.3g}  {h.outside:,} of {h.elements:,} outside"
          f"{'  fits' if h.fits else ''}" for h in update.hypotheses),
        f"  {update.rule}: {update.reason}",
    ]  # fmt: skip


def _routes(routes: Routes) -> list[str]:
    width = max([9, *(len(t.name) for t in routes.tensors)])
    lines = ["Gradient of the total beside the weighted sum of the losses' gradients",
             f"  {'parameter':<{width}}  {'norm':>8}  {'of limit':>8}  worst"]  # fmt: skip
    return lines + [f"  {t.name:<{width}}  {t.size:8.1e}  {t.ratio:8.1e}  {t.where}" for t in routes.tensors]


def _table(finding: Finding, named: Callable[[str], str]) -> list[str]:
    width = max([9, *(len(named(t.name)) for t in finding.tensors)])
    lines = [
        f"{finding.name}: {finding.verdict}, {finding.reason}",
        f"  {'tensor':<{width}}  {'error':>8}  {'expected':>8}  {'scale':>9}  {'smallest seen':>13}  worst element",
    ]
    for t in finding.tensors:
        where = ", ".join(map(str, t.worst_index))
        lines.append(
            f"  {named(t.name):<{width}}  {t.actual_error:8.1e}  {t.predicted_error:8.1e}  {t.scale_error:+9.1e}  "
            f"{t.detectable_scale:13.1e}  [{where}] {t.worst_actual:.7g} for {t.worst_expected:.7g}, "
            f"{t.worst_deviation:.2g} σ"
        )
    lines += [
        f"  kink: {flip.layer}, sample {flip.sample}, unit {flip.unit} took the other side at {flip.distance:.2g} σ"
        for flip in finding.flips[:5]
    ]
    lines += [f"  {alarm}" for alarm in finding.alarms[:5]]
    return lines


def _certified(tensors: tuple[CertifiedTensor, ...], named: Callable[[str], str]) -> list[str]:
    if not tensors:
        return []
    width = max([9, *(len(named(t.name)) for t in tensors)])
    lines = [
        "",
        "summed: every operation is certified; of the last one of each tensor",
        f"  {'tensor':<{width}}  {'error':>8}  {'expected':>8}  {'scale':>9}  {'smallest seen':>13}  of its bound",
    ]
    return lines + [
        f"  {named(t.name):<{width}}  {t.actual_error:8.1e}  {t.predicted_error:8.1e}  {t.scale_error:+9.1e}  "
        f"{t.detectable_scale:13.1e}  {t.ratio:.2g}"
        for t in tensors
    ]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "replayed": finding.replayed,
        "alarms": [_plain(vars(a)) for a in finding.alarms],
        "flips": [_plain(vars(f)) for f in finding.flips],
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

"""``verify_witnesses``: the staged check as one call, with its report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .batch import checked_batch
from .checks.assumptions import STAGED
from .checks.staged.check import Staged, Verdict, check_staged
from .checks.staged.finding import Finding
from .checks.staged.statistics import ALPHA, PROJECTED, REPLAYED, limit
from .checks.staged.witnesses import Witnesses, checked_witnesses
from .errors import GradientMismatch, sentence
from .progress import progress_line
from .rounding.storage import roundoff_of
from .runtime import info
from .stored import read_storage

if TYPE_CHECKING:
    from .engine import Network

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StagedReport:
    """The result of :func:`verify_witnesses`. True if every stage is certified; prints as a table."""

    staged: Staged
    dtype: str
    flush_to_zero: bool
    seed: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """``"CERTIFIED"``, ``"REFUTED"`` (beyond a rigorous bound), ``"REFUTED_STATISTICAL"`` or ``"INCONCLUSIVE"``."""
        return self.staged.verdict

    @property
    def ok(self) -> bool:
        return self.verdict == "CERTIFIED"

    def __bool__(self) -> bool:
        return self.ok

    @property
    def stages(self) -> tuple[Finding, ...]:
        """Every stage that was judged, in the order of the data."""
        return self.staged.stages

    @property
    def first_failure(self) -> Finding | None:
        """The first stage, in the order of the data, that fails."""
        return self.staged.failures[0] if self.staged.failures else None

    @property
    def answer(self) -> str:
        """The verdict in one sentence."""
        first = self.first_failure
        if first is not None:
            others = len(self.staged.failures) - 1
            more = f" {others} more of {len(self.stages)} stages fail." if others else ""
            return f"{first.name} ({first.kind}) is wrong, and its inputs are not to blame: {first.reason}.{more}"
        if self.ok:
            text = f"All {len(self.stages)} stages follow from their inputs, up to rounding"
            return text + ("; some of it coherent, as replays show." if self.staged.coherent_rounding else ".")
        return f"Nothing is refuted, but {len(self.staged.unjudged)} stages could not be judged for want of witnesses."

    def raise_for_failure(self) -> None:
        """Raise :class:`GradientMismatch` unless every stage is certified; an inconclusive report is no pass."""
        if not self.ok:
            raise GradientMismatch(f"{self.verdict}: {self.answer}")

    def __str__(self) -> str:
        shown = sorted(self.stages, key=lambda stage: stage.holds)
        heading = ("stage", "kind", "terms", "entries", "R", "entry σ", "sums σ", "scale", "")
        lines = [f"{self.verdict}: {self.answer}", "", *_aligned([heading, *map(_row, shown)])]
        if self.staged.unjudged:
            lines += ["", "not judged: " + ", ".join(self.staged.unjudged)]
        lines += [
            "",
            "R: largest error over its rigorous bound. entry σ, sums σ: largest error and largest projection of errors",
            f"in standard deviations (limits: about 12 and {PROJECTED:g}). scale: fitted relative error of the whole.",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data: the content of :meth:`to_json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "ok": self.ok,
            "answer": self.answer,
            "first_failure": None if self.first_failure is None else self.first_failure.name,
            "coherent_rounding": self.staged.coherent_rounding,
            "dtype": self.dtype,
            "flush_to_zero": self.flush_to_zero,
            "seed": self.seed,
            "limits": {"alpha": ALPHA, "projection": PROJECTED, "replay": REPLAYED},
            "assumptions": list(STAGED),
            "stages": [_stage(stage, self.flush_to_zero, roundoff_of(self.dtype)) for stage in self.stages],
            "unjudged": list(self.staged.unjudged),
            "combination": None,
            "update": None,
            "ledger": None,
            "reach": {},
            "parameters": [],
            "not_judged": dict.fromkeys(
                ("combination", "update", "ledger", "reach", "parameters"),
                "witnesses are judged operation by operation; verify and verify_gradients judge the whole",
            ),
            "environment": self.environment,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON. Numbers that JSON lacks (infinities, NaN) become null."""
        return json.dumps(_finite(self.to_dict()), indent=indent, ensure_ascii=False, allow_nan=False)


def verify_witnesses(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    witnesses: Witnesses,
    sample_weight: Any = None,
    *,
    flush_to_zero: bool = False,
    seed: int = 0,
    tf32: bool = False,
    loss_dtype: str | None = None,
    narrow_steps: bool = False,
    narrow_sums: bool = False,
    loss_scale: float = 1.0,
) -> StagedReport:
    """Judge a gradient computation operation by operation, from the numbers that it produced on its way.

    The first four arguments and ``sample_weight`` are those of :meth:`Network.gradients`; ``witnesses`` is a
    :class:`Witnesses` in the dtype of the parameters: float32, float64, bfloat16 or float16. Each witness is held
    against the exact result of its operation *on the witnesses that entered it*, so a fault shows where it was
    committed and nowhere else, and no tolerance grows with depth. ``flush_to_zero`` allows subnormal numbers to vanish,
    as JAX and TensorFlow let them on the CPU. ``seed`` chooses the random projections and replays.

    bfloat16 and float16 (of ``ml_dtypes``, PyTorch or JAX) are judged as products and sums in float32 whose results are
    rounded when they are stored; steps of a loss are rounded too, unless ``loss_dtype="float32"``. Witnesses so narrow
    beside float32 parameters are those of autocast: parameters and x are read rounded. ``tf32`` says that float32
    operands of products are read as TF32, without which such products are refuted. ``narrow_steps`` allows what lies
    in bfloat16 or float16 that every elementary step of an activation is stored too, as TensorFlow and JAX do, and
    ``narrow_sums`` that the partial sums of bias gradients are, as there; over n samples these have n roundings.
    ``loss_scale``, a power of two, is what every loss was multiplied by before it was differentiated.

    ``"REFUTED"``: some number is beyond a rigorous bound, or not finite. ``"REFUTED_STATISTICAL"``: errors add up as
    independent roundings do not, nor those of correct recomputations. ``"INCONCLUSIVE"``: neither, but stages lack
    witnesses. docs/tolerances.md derives bounds and variances. Raises ``ValueError`` and ``TypeError`` before any work.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=1, trunk=[], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> params = net.parameters({"heads.a.0.weight": np.array([[3.0]]), "heads.a.0.bias": np.array([1.0])})
    >>> weight, bias = np.array([[8.0]]), np.array([4.0])  # z = 7, ∂L/∂z = 2·(7 - 5)
    >>> one = pe.Backward(dh={"heads.a.0": np.array([[4.0]])},
    ...                   gradient={"heads.a.0.weight": weight, "heads.a.0.bias": bias})
    >>> seen = pe.Witnesses(h={"heads.a.0": np.array([[7.0]])}, per_loss={"a": one})
    >>> batch = np.array([[2.0]]), {"a": np.array([[5.0]])}
    >>> pe.verify_witnesses(net, params, *batch, seen).verdict
    'CERTIFIED'
    >>> weight[0, 0] = 8.1
    >>> pe.verify_witnesses(net, params, *batch, seen).first_failure.name
    "per_loss['a'].gradient['heads.a.0.weight']"
    """
    stored = read_storage(
        net, params, x, targets, witnesses, loss_dtype, tf32=tf32, flush_to_zero=flush_to_zero,
        narrow_steps=narrow_steps, narrow_sums=narrow_sums,
    )  # fmt: skip
    own = stored.params
    batch = checked_batch(stored.x, stored.targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    if not (0.0 < loss_scale < math.inf and math.frexp(loss_scale)[0] == 0.5):
        raise ValueError(
            sentence("loss_scale", got=f"is {loss_scale!r}", expected="a power of two, as 1024.0",
                     remedy="Other scales round the losses; pass the one that the losses were multiplied by.")
        )  # fmt: skip
    checked = checked_witnesses(net, witnesses, batch.size, stored.kept.format.name, stored.parameters)
    with progress_line():
        staged = check_staged(
            net, own, batch, checked, flush_to_zero=flush_to_zero, seed=seed, kept=stored.kept, loss_scale=loss_scale
        )  # fmt: skip
    here = info()
    environment = {"pyengine": f"{here['version']}", "isa": f"{here['isa']}", "threads": f"{here['threads']}"}
    dtype = "tf32" if tf32 else stored.kept.format.name
    return StagedReport(staged, dtype, flush_to_zero, seed, environment)


def _row(stage: Finding) -> tuple[str, ...]:
    numbers = [f"{stage.ratio:.2g}", "", "", ""]
    if stage.statistics is not None:
        sums = max(value for name, value in stage.statistics.items().items() if name != "entry")
        numbers[1:3] = [f"{stage.statistics.entry:.2g}", f"{sums:.2g}"]
    if stage.scale is not None:
        numbers[3] = f"{stage.scale.value:+.0e} ± {stage.scale.deviation:.0e}"
    mark = "✓ replayed" if stage.holds and stage.replays else "✓" if stage.holds else "✗"
    return (stage.name, stage.kind, str(stage.terms), str(stage.entries), *numbers, f"{mark} {stage.note}".rstrip())


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 1, len(widths) - 1}
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _stage(stage: Finding, flush_to_zero: bool, u: float) -> dict[str, Any]:
    """The fields of one stage; ``kappa`` is the error that V expects relative to the result, in units of u."""
    statistics = None if stage.statistics is None else stage.statistics.items()
    return {
        "name": stage.name,
        "kind": stage.kind,
        "standing": stage.standing,
        "reason": stage.reason,
        "terms": stage.terms,
        "entries": stage.entries,
        "ratio": stage.ratio,
        "argmax": None if stage.worst is None else list(stage.worst.index),
        "statistics": statistics,
        "limit": None if statistics is None else limit("entry", stage.entries),
        "scale": None if stage.scale is None else {"value": stage.scale.value, "deviation": stage.scale.deviation},
        "detectable_scale": None if stage.scale is None else PROJECTED * stage.scale.deviation,
        "replays": stage.replays,
        "replay_ratios": {
            name: stage.statistics.items()[name] / largest if largest else math.inf
            for name, largest in stage.replays.items()
            if stage.statistics is not None
        },
        "actual_error": stage.actual_error,
        "expected_error": stage.expected_error,
        "kappa": None if stage.expected_error is None else stage.expected_error / u,
        "flush_to_zero": flush_to_zero,
        "unexplained": list(stage.unexplained),
        "note": stage.note,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value

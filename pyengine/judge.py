"""From a recorded step to a report: gather the evidence once, run every check on it."""

from __future__ import annotations

from .checks.combination import check_combination
from .checks.evidence import Truth, gather_evidence
from .checks.ledger import check_ledger
from .checks.update import check_update
from .report import Report, Subject
from .runtime import environment
from .spec import Layer
from .witnesses import Step


def judge(step: Step, *, data: str = "", reproduce: str | None = None, truth: Truth = "engine") -> Report:
    """Judge one training step.

    ``truth`` names the route whose per-loss gradients count (``"reference"`` where the engine took the step itself).
    """
    evidence = gather_evidence(step.network, step.before, step.x, step.targets, truth=truth)
    return Report(
        subject=Subject(
            framework=step.framework,
            call=step.call,
            model=describe(step),
            data=data,
            batch=step.batch,
            dtype=str(step.before.dtype),
            heads={name: head.weight for name, head in step.network.heads.items()},
            gradient_source=step.gradient_source,
            notes=step.notes,
        ),
        ledger=check_ledger(step, evidence),
        combination=check_combination(step, evidence),
        update=check_update(step, evidence),
        agreement=evidence.agreement,
        environment={**environment(), **step.versions},
        reproduce=reproduce,
    )


def describe(step: Step) -> str:
    """The model in one line, such as ``64 → 64 relu → 32 tanh → digit: 10 | ink: 2``."""
    net = step.network
    trunk = "".join(f" → {_layer(layer)}" for layer in net.trunk_layers)
    heads = " | ".join(
        f"{name}: {' → '.join(_layer(layer) for layer in layers)}" for name, layers in net.head_layers.items()
    )
    return f"{net.n_in}{trunk} → {heads}"


def _layer(layer: Layer) -> str:
    return str(layer.n_out) if layer.activation.name == "linear" else f"{layer.n_out} {layer.activation.name}"

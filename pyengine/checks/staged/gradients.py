"""Of each parameter what the operation that formed its gradient was found to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan

from .finding import Finding
from .statistics import PROJECTED


@dataclass(frozen=True)
class CertifiedTensor:
    """One tensor of a gradient whose operations are certified. Errors are those of the last operation, from its inputs.

    ``ratio`` is the largest error over its rigorous bound; ``actual_error`` and ``predicted_error`` are relative norms,
    as observed and as rounding lets one expect; ``scale_error`` is the fitted relative error of the whole, and
    ``detectable_scale`` the smallest that would not have passed. NaN stands for what a tensor of zeros does not have.
    """

    name: str
    shape: tuple[int, ...]
    ratio: float
    actual_error: float
    predicted_error: float
    scale_error: float
    detectable_scale: float


def certified_tensors(stages: Iterable[Finding], shapes: Mapping[str, tuple[int, ...]]) -> tuple[CertifiedTensor, ...]:
    """The tensors of the summed gradient, in the order of ``shapes``, as the stages of their last operations are."""
    found = {stage.name: stage for stage in stages}
    return tuple(
        _tensor(name, shape, stage)
        for name, shape in shapes.items()
        if (stage := found.get(f"summed.gradient[{name!r}]")) is not None
    )


def _tensor(name: str, shape: tuple[int, ...], stage: Finding) -> CertifiedTensor:
    scale = stage.scale
    return CertifiedTensor(
        name=name,
        shape=shape,
        ratio=stage.ratio,
        actual_error=nan if stage.actual_error is None else stage.actual_error,
        predicted_error=nan if stage.expected_error is None else stage.expected_error,
        scale_error=nan if scale is None else scale.value,
        detectable_scale=nan if scale is None else PROJECTED * scale.deviation,
    )

"""The black-box check: only final gradients are known. docs/tolerances.md, section 7, derives it.

A gradient ĝ is compared with the float64 gradient g by projections ⟨R, ĝ - g⟩. To first order such a projection is
Σ (∂⟨R, g⟩/∂e)·e over all rounding errors e of the gradient program, so its variance is Σ (∂⟨R, g⟩/∂e)²·V(e). One
adjoint pass through the float64 program gives all those derivatives at once.
"""

from .check import Finding, judge_gradient
from .program import Program
from .statistics import Alarm, GradientTests, TensorFinding

__all__ = ["Alarm", "Finding", "GradientTests", "Program", "TensorFinding", "judge_gradient"]

"""PyTorch: parametrizations that estimate something of a weight in every training pass, and differentiate around it.

Spectral norm takes a step of the power iteration for the singular vectors and holds them for constants. A loss along a
line of weights, or at other weights, is meant with the vectors of the pass that was differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def estimated(torch: Any, model: Any) -> Iterator[tuple[Any, str, Any]]:
    """(module, name of its weight, parametrization) for every estimate that a pass in training mode moves."""
    kind = torch.nn.utils.parametrizations._SpectralNorm
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            for name, chain in module.parametrizations.items():
                yield from ((module, name, one) for one in chain if isinstance(one, kind) and one.training)


def hold_estimates(torch: Any, model: Any, *, after_a_pass: bool) -> None:
    """Keep the estimates as they are, or ``after_a_pass`` more; the rest of the model stays in its mode."""
    found = list(estimated(torch, model))
    with torch.no_grad():
        for module, name in dict.fromkeys((module, name) for module, name, _ in found):
            if after_a_pass:
                getattr(module, name)  # being computed moves it
    for _, _, one in found:
        one.eval()

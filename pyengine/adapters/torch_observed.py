"""PyTorch modules that the engine does not know: losses and gradients by autograd, and the same module in float64.

One forward pass serves all gradients, so every route sees the same dropout masks and batch statistics. The forward pass
writes to copies of the buffers, and the state of the random generator is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import sentence
from ..observation import Gradient, Observation, Twin
from ..rounding.formats import FORMATS
from .from_torch import load
from .narrow_inside import watched
from .torch_estimates import hold_estimates
from .torch_graph import outputs_by_name
from .torch_wrappers import unwrapped

EAGER = "The module is judged as it is written, not as torch.compile runs it."


def observe(
    model: Any,
    x: Any,
    targets: Mapping[str, Any],
    losses: Mapping[str, Any],
    loss_weights: Mapping[str, float],
    refusal: str,
    seed: int,
) -> Observation:
    """Record the losses of one batch, and how to get their gradients. See :func:`pyengine.verify`."""
    torch = load()
    inside = unwrapped(torch, model)
    model = inside.module
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(
            sentence("model", got="has no trainable parameter", expected="at least one", remedy="There is no gradient.")
        )
    device = next(iter(parameters.values())).device
    weights = {name: float(loss_weights.get(name, 1.0)) for name in losses}
    inputs = _placed(torch, x, device)
    wanted = {name: torch.as_tensor(targets[name], device=device) for name in losses}
    with torch.enable_grad():
        values = _losses(torch, model, {}, inputs, wanted, losses, seed)
        total = sum(weights[name] * value for name, value in values.items())

    def gradient(value: Any, factor: float) -> Gradient:
        if not value.requires_grad:
            return dict.fromkeys(parameters)
        found = torch.autograd.grad(factor * value, list(parameters.values()), retain_graph=True, allow_unused=True)
        return {name: None if g is None else _numpy(torch, g) for name, g in zip(parameters, found, strict=True)}

    dtypes = {str(t.dtype).removeprefix("torch.") for t in [*parameters.values(), *values.values()]}
    missing, twin = {}, None
    try:
        twin = _twin(torch, model, inputs, wanted, losses, list(parameters), seed)
    except Exception as error:  # whatever a module does that cannot be copied or does not bear float64
        missing["differences"] = f"the model does not run in float64: {first_line(error)}"
    return Observation(
        framework="PyTorch",
        refusal=refusal,
        batch=int(next(iter(wanted.values())).shape[0]) if next(iter(wanted.values())).ndim else 1,
        dtype=max(dtypes & set(FORMATS), key=lambda name: FORMATS[name].u),
        weights=weights,
        losses={name: float(value.detach()) for name, value in values.items()},
        total=float(total.detach()),
        shapes={name: tuple(p.shape) for name, p in parameters.items()},
        per_loss=lambda name, factor: gradient(values[name], factor),
        summed=lambda factor: gradient(total, factor),
        twin=twin,
        missing=missing,
        versions={"torch": str(torch.__version__)},
        notes=inside.notes
        if inside.compiled is None
        else (*inside.notes, "The module is judged as it is written, not compiled."),
    )


def _losses(
    torch: Any,
    model: Any,
    parameters: Mapping[str, Any],
    inputs: Any,
    wanted: Mapping[str, Any],
    losses: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """The losses, at the model's own parameters where none are given; the same draws in every call."""
    # In training mode a forward pass writes to buffers: it gets copies.
    given = {name: buffer.clone() for name, buffer in model.named_buffers()} | dict(parameters)
    args, kwargs = (inputs if isinstance(inputs, tuple) else (inputs,)), None
    if isinstance(inputs, Mapping):
        args, kwargs = (), dict(inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = outputs_by_name(torch.func.functional_call(model, given, args, kwargs), list(losses))
        return {name: reduced(torch, name, losses[name](outputs[name], wanted[name])) for name in losses}


def reduced(torch: Any, name: str, value: Any) -> Any:
    """The loss, which must be one number. Raises ``ValueError`` for several, ``TypeError`` for no tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            sentence(f"losses[{name!r}]", got=f"returns {type(value).__name__}", expected="a tensor of one number",
                     remedy="Return the loss itself, without .item().")
        )  # fmt: skip
    if value.numel() != 1:
        raise ValueError(
            sentence(f"losses[{name!r}]", got=f"returns shape {tuple(value.shape)}", expected="one number",
                     remedy='Use reduction="mean" or "sum".')
        )  # fmt: skip
    return value.reshape(())


def _twin(
    torch: Any,
    model: Any,
    inputs: Any,
    wanted: Mapping[str, Any],
    losses: Mapping[str, Any],
    names: list[str],
    seed: int,
) -> Twin:
    double = copy.deepcopy(model).double()
    hold_estimates(torch, double, after_a_pass=True)
    own_losses = {
        name: copy.deepcopy(loss).double() if isinstance(loss, torch.nn.Module) else loss
        for name, loss in losses.items()
    }
    wide_inputs = _mapped(inputs, _widened)
    wide_wanted = {name: _widened(target) for name, target in wanted.items()}
    own = dict(double.named_parameters())
    device = next(iter(own.values())).device

    def run(parameters: Mapping[str, Any]) -> dict[str, Any]:
        return _losses(torch, double, parameters, wide_inputs, wide_wanted, own_losses, seed)

    def evaluate(parameters: Mapping[str, Any]) -> dict[str, float]:
        with torch.no_grad():
            placed = {name: torch.as_tensor(value, device=device) for name, value in parameters.items()}
            return {name: float(value) for name, value in run(placed).items()}

    with torch.enable_grad():
        with watched(torch):
            values = run({})
        gradients: dict[str, Gradient] = {}
        for loss, value in values.items():
            found: Any = [None] * len(names)
            if value.requires_grad:
                found = torch.autograd.grad(value, [own[n] for n in names], retain_graph=True, allow_unused=True)
            gradients[loss] = {n: None if g is None else _numpy(torch, g) for n, g in zip(names, found, strict=True)}
    return Twin({name: _numpy(torch, own[name]) for name in names}, evaluate, gradients)


def _mapped(inputs: Any, change: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def _placed(torch: Any, x: Any, device: Any) -> Any:
    return _mapped(x, lambda value: torch.as_tensor(value, device=device))


def _widened(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor


def _numpy(torch: Any, tensor: Any) -> Any:
    plain = tensor.detach().cpu()
    # NumPy has no bfloat16; every number of it is a float32.
    return np.array((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

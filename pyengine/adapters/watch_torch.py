"""PyTorch: record every optimizer step through the optimizers' own step hooks; the model and the loop stay as they are.

``register_step_pre_hook`` sees parameters, gradients and state just before the step, ``register_step_post_hook`` the
parameters just after it. A copy of the optimizer is made before every step (``copy.deepcopy`` over copies of its
parameters, hooks left out), so that hypotheses can be replayed with the state that it really had.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import sentence
from ..observation import Observation
from ..optimizers import SGD, Adam, AdamW, RMSprop, Rule
from ..parameters import Array
from ..watching import Arrays, Event, Twin
from .computation import Computation, at_random, refuse_end, require_no_weights
from .from_torch import load
from .torch_estimates import estimated, hold_estimates
from .torch_model import compute
from .torch_observed import first_line, observe
from .torch_wrappers import unwrapped


class Recorder:
    """Hooks on optimizers; ``events`` grows with every step. ``start`` and ``stop`` add and remove them."""

    framework = "PyTorch"
    plus = 1e-6  # clip_grad_norm_ divides by the norm plus this

    def __init__(
        self, model: Any, losses: Mapping[str, Any], loss_weights: Mapping[str, float], optimizers: Sequence[Any]
    ) -> None:
        inside = unwrapped(load(), model)
        self.model, self.notes = inside.module, inside.notes
        self.losses, self.loss_weights, self.optimizers = losses, loss_weights, optimizers
        self.events: list[Event] = []
        self._handles: list[Any] = []
        self._pending: dict[int, Event] = {}
        self._estimates: list[tuple[Arrays, list[Any]]] = []

    def read(self, x: Any, targets: Mapping[str, Any], sample_weight: Any = None) -> tuple[Twin, Computation]:
        """The engine's twin of the module, and the batch as the engine takes it; refuses what :func:`verify` does."""
        require_no_weights(sample_weight)
        done = compute(self.model, x, targets, self.losses, self.loss_weights)
        return Twin(done.network, done.native), done

    def observe(self, at: Arrays, x: Any, targets: Mapping[str, Any], sample_weight: Any, refusal: str) -> Observation:
        """The module at other parameters, by autograd alone; the module itself is left alone."""
        require_no_weights(sample_weight)
        torch, model = load(), _copy_of(self.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.as_tensor(np.array(at[name])))
            # As the pass before the step left them: what its gradients took for constants.
            if self._estimates:
                for (_, _, one), state in zip(estimated(torch, model), self._estimates_at(at), strict=True):
                    one.load_state_dict(state)
        hold_estimates(torch, model, after_a_pass=False)
        seen, again = (observe(model, x, targets, self.losses, self.loss_weights, refusal, seed) for seed in (0, 1))
        if seen.losses != again.losses:
            raise at_random(refusal)
        return seen

    def _estimates_at(self, at: Arrays) -> list[Any]:
        """The estimates of the step that began at these parameters, or of the first."""
        for before, states in self._estimates:
            if all(np.array_equal(before[name], at[name]) for name in before):
                return states
        return self._estimates[0][1]

    def start(self) -> None:
        for i, optimizer in enumerate(self.optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._before(i)))
            self._handles.append(optimizer.register_step_post_hook(self._after(i)))

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def values(self) -> Arrays:
        """All parameters now, by native name."""
        return {name: _numpy(parameter) for name, parameter in self.model.named_parameters()}

    def trainable(self) -> frozenset[str]:
        """The parameters that are not frozen."""
        return frozenset(name for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def end_with(self, after: Any) -> None:
        refuse_end(after)

    def finish(self) -> None:
        """Wait until every step has been recorded; PyTorch's hooks run at once."""

    def buffers(self) -> Arrays:
        """The gradients that lie in the buffers now."""
        return {
            name: _numpy(parameter.grad)
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def _before(self, index: int) -> Callable[..., None]:
        def hook(optimizer: Any, *_: Any) -> None:
            held = _held(self.model, optimizer)
            states = [copy.deepcopy(one.state_dict()) for _, _, one in estimated(load(), self.model)]
            self._estimates += [(self.values(), states)] if states else []
            rule, steps, slots = _rule(optimizer, held)
            copied = _copied(optimizer, held)
            self._pending[index] = Event(
                optimizer=index,
                name=type(optimizer).__name__,
                before=self.values(),
                after={},
                gradient=_gradients(optimizer, held),
                held=frozenset(held),
                rule=rule,
                steps=steps,
                slots=slots,
                own=None if copied is None else lambda: Own(*copied),
            )

        return hook

    def _after(self, index: int) -> Callable[..., None]:
        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            event = self._pending.pop(index)
            # A closure computes the gradients inside the step.
            closure = (args[0] if args else None) or kwargs.get("closure")
            gradient = _gradients(optimizer, _held(self.model, optimizer)) if closure else event.gradient
            self.events.append(replace(event, after=self.values(), gradient=gradient))

        return hook


def _copy_of(model: Any) -> Any:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # tensors that were computed stand among its attributes
        raise ValueError(
            sentence("model", got=f"cannot be copied by copy.deepcopy ({first_line(error)})", expected="one that can",
                     remedy="For torch.nn.utils.weight_norm, use torch.nn.utils.parametrizations.weight_norm.")
        ) from error  # fmt: skip


class Own:
    """A fresh copy of a copied optimizer."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, Any]) -> None:
        memo: dict[int, Any] = {}
        self.parameters = {}
        for name, parameter in parameters.items():
            self.parameters[name] = memo[id(parameter)] = parameter.detach().clone().requires_grad_(True)
        self.optimizer = copy.deepcopy(optimizer, memo)

    def step(self, gradients: Mapping[str, Array]) -> Arrays:
        torch = load()
        for name, parameter in self.parameters.items():
            given = gradients.get(name)
            parameter.grad = None if given is None else torch.as_tensor(np.array(given), dtype=parameter.dtype)
        self.optimizer.step()
        return {name: _numpy(parameter) for name, parameter in self.parameters.items()}


def _copied(optimizer: Any, held: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The optimizer with its state over copies of its parameters; None for one that cannot be copied."""
    memo: dict[int, Any] = {}
    parameters = {}
    for name, parameter in held.items():
        parameters[name] = memo[id(parameter)] = parameter.detach().clone().requires_grad_(True)
    try:
        return copy.deepcopy(optimizer, memo), parameters
    except (TypeError, RuntimeError, NotImplementedError):
        return None


def _held(model: Any, optimizer: Any) -> dict[str, Any]:
    paths = {id(parameter): name for name, parameter in model.named_parameters()}
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {paths[id(parameter)]: parameter for parameter in own if id(parameter) in paths}


def _gradients(optimizer: Any, held: Mapping[str, Any]) -> Arrays:
    scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides by it itself
    found = {}
    for name, parameter in held.items():
        if parameter.grad is not None:
            gradient = parameter.grad if scale is None else parameter.grad / scale
            found[name] = _numpy(gradient)
    return found


def _rule(optimizer: Any, held: Mapping[str, Any]) -> tuple[Rule | None, int, dict[str, Arrays]]:
    """The float64 rule of a plain optimizer, its step count and its slots; no rule where the options go beyond it."""
    torch = load()
    unknown: tuple[None, int, dict[str, Arrays]] = (None, 0, {})
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    group, kind = options[0], type(optimizer)
    odd = any(group.get(key) for key in ("amsgrad", "maximize", "dampening", "centered"))
    if odd or any(other != group for other in options[1:]):
        return unknown
    rate, decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    beta_1, beta_2 = map(float, group.get("betas", (0.0, 0.0)))
    names = {"momentum": "exp_avg", "velocity": "exp_avg_sq"}
    rule: Rule
    if kind is torch.optim.AdamW:
        rule = AdamW(rate, beta_1, beta_2, group["eps"], decay, style="torch")
    elif decay:
        return unknown
    elif kind is torch.optim.Adam:
        rule = Adam(rate, beta_1, beta_2, group["eps"], style="torch")
    elif kind is torch.optim.SGD:
        rule, names = SGD(rate, float(group["momentum"]), bool(group["nesterov"])), {"momentum": "momentum_buffer"}
    elif kind is torch.optim.RMSprop and not group["momentum"]:
        rule = RMSprop(rate, float(group["alpha"]), group["eps"], style="torch")
        names = {"velocity": "square_avg"}
    else:
        return unknown
    slots: dict[str, Arrays] = {slot: {} for slot in names}
    counts = set()
    for native, parameter in held.items():
        state = optimizer.state.get(parameter, {})
        counts.add(int(state["step"]) if "step" in state else int(bool(state)))
        for slot, key in names.items():
            if state.get(key) is not None:
                slots[slot][native] = _numpy(state[key])
    return (rule, max(counts), slots) if len(counts) == 1 else unknown


def _numpy(tensor: Any) -> Array:
    return np.array(tensor.detach().cpu().numpy())

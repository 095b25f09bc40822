"""The step rules follow the real optimizers step by step, within the bound that each step carries with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine.witnesses import UNIT

STEPS = 5
SIZE = 64
Path = list[np.ndarray[Any, Any]]


def gradients(seed: int = 0) -> Path:
    """Gradients from 1e-9 to 1: below, at and above every epsilon in use; some zero."""
    rng = np.random.default_rng(seed)
    scale = np.logspace(-9, 0, SIZE)
    drawn = [(rng.standard_normal(SIZE) * scale).astype(np.float32) for _ in range(STEPS)]
    for gradient in drawn:
        gradient[::16] = 0.0
    return drawn


def start() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)


def replay(rule: pe.Adam | pe.SGD) -> list[tuple[Any, Any]]:
    """(parameters, bound) after each step, for an optimizer that computes in float32."""
    parameters = start().astype(np.float64)
    state, path = rule.start(parameters), []
    for gradient in gradients():
        parameters, state = rule.step(parameters, gradient, state, unit=UNIT["float32"])
        path.append((parameters, state.error))
    return path


def by_torch(make: Callable[[Any, Any], Any]) -> Path:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = make(torch.optim, [parameter])
    path = []
    for gradient in gradients():
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        path.append(parameter.detach().numpy().astype(np.float64))
    return path


def by_keras(make: Callable[[Any], Any]) -> Path:
    keras = pytest.importorskip("keras")
    variable = keras.Variable(start())
    optimizer = make(keras.optimizers)
    path = []
    for gradient in gradients():
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        path.append(np.array(variable.numpy(), dtype=np.float64))
    return path


CASES = [
    pytest.param(pe.Adam(), lambda: by_keras(lambda o: o.Adam()), id="keras Adam"),
    pytest.param(
        pe.Adam(0.01, 0.8, 0.99, 1e-5),
        lambda: by_keras(lambda o: o.Adam(0.01, 0.8, 0.99, 1e-5)),
        id="keras Adam, options",
    ),
    pytest.param(
        pe.Adam(epsilon=1e-8, style="torch"), lambda: by_torch(lambda o, p: o.Adam(p, lr=1e-3)), id="torch Adam"
    ),
    pytest.param(
        pe.Adam(0.01, 0.8, 0.99, 1e-5, style="torch"),
        lambda: by_torch(lambda o, p: o.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-5)),
        id="torch Adam, options",
    ),
    pytest.param(pe.SGD(0.1), lambda: by_keras(lambda o: o.SGD(0.1)), id="keras SGD"),
    pytest.param(pe.SGD(0.1, 0.9), lambda: by_keras(lambda o: o.SGD(0.1, 0.9)), id="keras momentum"),
    pytest.param(pe.SGD(0.1, 0.9, True), lambda: by_keras(lambda o: o.SGD(0.1, 0.9, True)), id="keras Nesterov"),
    pytest.param(pe.SGD(0.1), lambda: by_torch(lambda o, p: o.SGD(p, lr=0.1)), id="torch SGD"),
    pytest.param(pe.SGD(0.1, 0.9), lambda: by_torch(lambda o, p: o.SGD(p, lr=0.1, momentum=0.9)), id="torch momentum"),
    pytest.param(
        pe.SGD(0.1, 0.9, True),
        lambda: by_torch(lambda o, p: o.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
        id="torch Nesterov",
    ),
    pytest.param(pe.AdamW(), lambda: by_keras(lambda o: o.AdamW()), id="keras AdamW"),
    pytest.param(
        pe.AdamW(0.01, 0.8, 0.99, 1e-5, 0.1, "torch"),
        lambda: by_torch(lambda o, p: o.AdamW(p, lr=0.01, betas=(0.8, 0.99), eps=1e-5, weight_decay=0.1)),
        id="torch AdamW",
    ),
    pytest.param(pe.RMSprop(), lambda: by_keras(lambda o: o.RMSprop()), id="keras RMSprop"),
    pytest.param(
        pe.RMSprop(0.01, 0.99, 1e-8, "torch"),
        lambda: by_torch(lambda o, p: o.RMSprop(p, lr=0.01, alpha=0.99, eps=1e-8)),
        id="torch RMSprop",
    ),
]


@pytest.mark.parametrize(("rule", "real"), CASES)
def test_rule_follows_the_real_optimizer_within_its_bound(rule: pe.Adam | pe.SGD, real: Callable[[], Path]) -> None:
    for (predicted, bound), observed in zip(replay(rule), real(), strict=True):
        assert np.all(np.abs(observed - predicted) <= bound)


@pytest.mark.parametrize(
    ("wrong", "real"),
    [
        (pe.Adam(epsilon=1e-8), CASES[0].values[1]),
        (pe.Adam(style="torch"), CASES[0].values[1]),
        (pe.Adam(beta_2=0.99), CASES[0].values[1]),
        (pe.Adam(1.001e-3), CASES[0].values[1]),
        (pe.Adam(epsilon=1e-8, style="keras"), CASES[2].values[1]),
        (pe.SGD(0.1001), CASES[4].values[1]),
        (pe.SGD(0.1, 0.9), CASES[5 + 1].values[1]),
        (pe.AdamW(weight_decay=0.01), CASES[-4].values[1]),
        (pe.Adam(0.01, 0.8, 0.99, 1e-5, style="torch"), CASES[-3].values[1]),
        (pe.RMSprop(style="torch"), CASES[-2].values[1]),
        (pe.RMSprop(0.01, 0.9, 1e-8, "torch"), CASES[-1].values[1]),
    ],
    ids=[
        "epsilon",
        "style",
        "beta_2",
        "rate",
        "torch style",
        "SGD rate",
        "not Nesterov",
        "decay",
        "no decay",
        "root",
        "rho",
    ],
)
def test_wrong_rule_leaves_its_bound(wrong: pe.Adam | pe.SGD, real: Callable[[], Path]) -> None:
    inside = [
        np.all(np.abs(seen - predicted) <= bound)
        for (predicted, bound), seen in zip(replay(wrong), real(), strict=True)
    ]
    assert not all(inside)


def test_bound_is_small_beside_the_steps() -> None:
    before = start().astype(np.float64)
    for rule in (pe.Adam(), pe.SGD(0.1, 0.9)):
        for parameters, bound in replay(rule):
            moved = np.abs(parameters - before)
            assert np.linalg.norm(bound) < np.linalg.norm(moved) / 1000.0


def test_bound_covers_the_uncertainty_of_the_gradient() -> None:
    rule, parameters = pe.Adam(), start().astype(np.float64)
    rng = np.random.default_rng(2)
    gradient = gradients()[0].astype(np.float64)
    error = np.abs(gradient) * UNIT["float32"] * 64 + np.finfo(np.float32).tiny
    here, state = rule.step(parameters, gradient, rule.start(parameters), gradient_error=error)
    for _ in range(20):
        there, _ = rule.step(parameters, gradient + error * rng.uniform(-1, 1, SIZE), rule.start(parameters))
        # First order in the uncertainty; the evaluation itself is float64.
        slack = 8 * UNIT["float64"] * np.abs(parameters)
        assert np.all(np.abs(there - here) <= state.error + slack)


def test_exact_arithmetic_has_no_error() -> None:
    _, state = pe.Adam().step(start(), gradients()[0], pe.Adam().start(start()))
    assert not state.error.any()


def test_step_modifies_nothing() -> None:
    parameters, gradient = start(), gradients()[0]
    rule = pe.Adam()
    state = rule.start(parameters)
    kept = parameters.copy(), gradient.copy()
    rule.step(parameters, gradient, state)
    assert np.array_equal(parameters, kept[0])
    assert np.array_equal(gradient, kept[1])
    assert not state.slots["momentum"].any()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: pe.Adam(-1.0), "learning_rate"),
        (lambda: pe.Adam(beta_1=1.0), "beta_1"),
        (lambda: pe.Adam(beta_2=-0.1), "beta_2"),
        (lambda: pe.Adam(epsilon=float("nan")), "epsilon"),
        (lambda: pe.Adam(style="jax"), "style"),  # type: ignore[arg-type]
        (lambda: pe.SGD(float("inf")), "learning_rate"),
        (lambda: pe.SGD(momentum=1.0), "momentum"),
        (lambda: pe.AdamW(weight_decay=-0.1), "weight_decay"),
        (lambda: pe.AdamW(beta_1=1.0), "beta_1"),
        (lambda: pe.RMSprop(rho=1.0), "rho"),
        (lambda: pe.RMSprop(style="jax"), "style"),  # type: ignore[arg-type]
    ],
)
def test_hyperparameter_out_of_range_fails(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"`{named}`"):
        make()


@pytest.mark.parametrize("rule", [pe.SGD(0.1, momentum=0.9, nesterov=True), pe.Adam(), pe.AdamW(), pe.RMSprop()])
def test_many_parameters_are_stepped_as_each_of_them_alone(rule: Any) -> None:
    size = 1000
    rng = np.random.default_rng(3)
    p, g, dg = rng.normal(size=(3, size))
    at, state = p, rule.start(p)
    parts = [slice(0, 1), slice(1, 400), slice(400, size)]
    alone = [(p[part], rule.start(p[part])) for part in parts]
    for _ in range(2):
        at, state = rule.step(at, g, state, unit=2.0**-24, gradient_error=dg)
        alone = [
            rule.step(own, g[part], held, unit=2.0**-24, gradient_error=dg[part])
            for (own, held), part in zip(alone, parts, strict=True)
        ]
    assert np.array_equal(at, np.concatenate([own for own, _ in alone]))
    assert np.array_equal(state.error, np.concatenate([held.error for _, held in alone]))
    assert state.steps == 2
    for name, slot in state.slots.items():
        assert np.array_equal(slot, np.concatenate([held.slots[name] for _, held in alone]))
        assert np.array_equal(state.slot_errors[name], np.concatenate([held.slot_errors[name] for _, held in alone]))


@pytest.mark.parametrize("rule", [pe.SGD(), pe.Adam(), pe.AdamW(), pe.RMSprop()], ids=repr)
def test_vectors_of_another_shape_fail(rule: Any) -> None:
    p = np.zeros((2, 3))
    at, state = rule.step(p, np.ones((2, 3)), rule.start(p))
    assert at.shape == state.error.shape == (2, 3)
    for argument, gradient, held, error in (
        ("gradient", np.ones((3, 2)), state, 0.0),
        ("gradient_error", np.ones((2, 3)), state, np.ones(6)),
        ("state", np.ones((2, 3)), rule.start(np.zeros(6)), 0.0),
    ):
        with pytest.raises(ValueError, match=rf"^`{argument}` has shape \(.*; expected that of parameters, \(2, 3\)"):
            rule.step(p, gradient, held, gradient_error=error)
    assert rule.step(np.zeros(0), np.zeros(0), rule.start(np.zeros(0)))[0].size == 0

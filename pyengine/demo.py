"""The demo: Cross Validated question 602221, answered on real data by a step that a framework really took.

One input, shared layers, two branches, categorical cross-entropy and mean squared error, Adam. Is the gradient at the
shared layers the weighted sum of the per-loss gradients, and did the optimizer apply that sum?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from . import digits
from .adapters import builtin, from_keras, from_torch
from .engine import Network
from .errors import sentence
from .judge import judge
from .report import Report
from .spec import Dense, Head
from .witnesses import Step

Framework = Literal["auto", "keras", "torch", "builtin"]
QUESTION = (
    "One input, shared layers, two losses: is the gradient at the shared layers the sum? (Cross Validated 602221)"
)
WIDTHS = (64, 32)
WEIGHTS = {"digit": 1.0, "ink": 0.5}


def run(framework: Framework = "auto", *, seed: int = 0, batch: int = 64) -> Report:
    """Take one training step on ``batch`` of the 1,797 digits and judge it.

    ``framework="auto"`` takes the first of Keras, PyTorch and the built-in engine that is installed. Raises
    ``ModuleNotFoundError`` if a framework asked for by name is not installed, ``ValueError`` for a batch or seed out of
    range.
    """
    if framework not in get_args(Framework):
        raise ValueError(
            sentence(
                "framework",
                got=f"is {framework!r}",
                expected=f"one of {', '.join(get_args(Framework))}",
                remedy="Use one of these.",
            )
        )
    x, targets = draw(seed, batch)
    step = _auto(x, targets, seed) if framework == "auto" else ROUTES[framework](x, targets, seed)
    route = {"Keras": "keras", "PyTorch": "torch"}.get(step.framework, "builtin")
    return judge(
        step,
        data=f"{batch} of 1,797 handwritten digits, 8×8 pixels (UCI, Alpaydin & Kaynak 1998), seed {seed}",
        reproduce=f"pyengine demo --framework {route} --seed {seed} --batch {batch}",
        truth="reference" if route == "builtin" else "engine",
    )


def draw(seed: int, batch: int) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
    """A seeded batch without repetition: x (batch, 64) float32; targets digit (batch,) int64 and ink (batch, 2)
    float32."""
    data = digits.load()
    if not 1 <= batch <= len(data.x):
        raise ValueError(
            sentence(
                "batch",
                got=f"is {batch}",
                expected=f"a number from 1 to {len(data.x)}",
                remedy="There are no more digits.",
            )
        )
    if seed < 0:
        raise ValueError(
            sentence("seed", got=f"is {seed}", expected="a number of at least 0", remedy="Choose another.")
        )
    chosen = np.random.default_rng(seed).permutation(len(data.x))[:batch]
    return data.x[chosen], {"digit": data.digit[chosen], "ink": data.ink[chosen]}


def keras_model(seed: int = 0) -> Any:
    """The question's model, as a Keras user writes it."""
    keras = from_keras.load()
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(shape=(64,), name="pixels")
    shared = keras.layers.Dense(WIDTHS[0], activation="relu", name="shared_1")(pixels)
    shared = keras.layers.Dense(WIDTHS[1], activation="tanh", name="shared_2")(shared)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(shared)
    ink = keras.layers.Dense(2, name="ink")(shared)
    model = keras.Model(pixels, [digit, ink])
    model.compile(optimizer="adam", loss=["categorical_crossentropy", "mean_squared_error"], loss_weights=[1.0, 0.5])
    return model


def torch_model(seed: int = 0) -> Any:
    """The same model in PyTorch: ``trunk`` and ``heads``."""
    torch = from_torch.load()
    torch.manual_seed(seed)
    nn = torch.nn
    model = nn.Module()
    model.trunk = nn.Sequential(nn.Linear(64, WIDTHS[0]), nn.ReLU(), nn.Linear(WIDTHS[0], WIDTHS[1]), nn.Tanh())
    model.heads = nn.ModuleDict({"digit": nn.Linear(WIDTHS[1], 10), "ink": nn.Linear(WIDTHS[1], 2)})
    return model


def _auto(x: Any, targets: Any, seed: int) -> Step:
    missing: list[str] = []
    for name, route in ROUTES.items():
        try:
            step = route(x, targets, seed)
        except ImportError as error:
            missing.append(f"{name} could not be used: {error}.")
            continue
        return _noted(step, missing)
    raise AssertionError("the built-in route needs no module")


def _noted(step: Step, missing: list[str]) -> Step:
    return replace(step, notes=(*(note[0].upper() + note[1:] for note in missing), *step.notes))


def _by_keras(x: Any, targets: Any, seed: int) -> Step:
    return from_keras.observe_step(keras_model(seed), x, targets)


def _by_torch(x: Any, targets: Any, seed: int) -> Step:
    torch = from_torch.load()
    model = torch_model(seed)
    losses = {"digit": torch.nn.CrossEntropyLoss(), "ink": torch.nn.MSELoss()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.from_numpy(x)
    wanted = {name: torch.from_numpy(target) for name, target in targets.items()}

    def step() -> dict[str, float]:
        optimizer.zero_grad()
        shared = model.trunk(inputs)
        terms = {name: losses[name](model.heads[name](shared), wanted[name]) for name in losses}
        total = sum(WEIGHTS[name] * term for name, term in terms.items())
        total.backward()
        optimizer.step()
        return {"loss": total.item(), **{name: term.item() for name, term in terms.items()}}

    return from_torch.observe_step(
        model,
        x,
        targets,
        losses=losses,
        loss_weights=WEIGHTS,
        optimizer=optimizer,
        step=step,
        call="one backward() and step()",
    )


def _by_engine(x: Any, targets: Any, seed: int) -> Step:
    network = Network(
        64,
        [Dense(WIDTHS[0], "relu"), Dense(WIDTHS[1], "tanh")],
        {
            "digit": Head([Dense(10)], "softmax_cross_entropy", WEIGHTS["digit"]),
            "ink": Head([Dense(2)], "mse", WEIGHTS["ink"]),
        },
    )
    return builtin.observe_step(network, network.init(seed), x, targets)


ROUTES: dict[str, Callable[[Any, Any, int], Step]] = {"keras": _by_keras, "torch": _by_torch, "builtin": _by_engine}

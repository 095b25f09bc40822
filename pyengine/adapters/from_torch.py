"""PyTorch: read a trunk with heads built from ``Linear`` layers, and watch one step of a training loop.

The applied gradient is ``p.grad`` as it stands after the step: what ``backward`` left and the optimizer used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine import Network
from ..errors import sentence
from ..losses import MSE, Loss, SoftmaxCrossEntropy
from ..optimizers import SGD, Adam, Rule
from ..parameters import Array, Parameters, empty
from ..spec import Dense, Head
from ..witnesses import Log, Step

OLDEST = (2, 0)


def load() -> Any:
    """Import PyTorch. Raises ``ModuleNotFoundError`` where it is absent, ``ImportError`` where it is broken or old."""
    try:
        import torch
        import torch.func
        import torch.fx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            sentence("model", got=f"needs {error.name}, which is not installed", expected="torch>=2.0",
                     remedy="pip install 'pyengine-grad[torch]'."), name=error.name
        ) from error  # fmt: skip
    except Exception as error:
        raise ImportError(
            sentence("model", got=f"needs PyTorch, whose import fails ({error})", expected="torch>=2.0 that works",
                     remedy="Does `python -c 'import torch'` work?")
        ) from error  # fmt: skip
    if tuple(int(part) for part in str(torch.__version__).split(".")[:2]) < OLDEST:
        raise ImportError(
            sentence("model", got=f"comes with PyTorch {torch.__version__}", expected="torch>=2.0",
                     remedy="pip install --upgrade torch.")
        )  # fmt: skip
    return torch


def network_of(
    trunk: Any, heads: Mapping[str, Any], losses: Mapping[str, Any], loss_weights: Mapping[str, float]
) -> tuple[Network, dict[str, Any]]:
    """The engine's twin of a trunk with heads (``nn.Sequential`` or ``nn.Linear``), and its layers by canonical name.

    Raises ``ValueError`` for a module or a loss that the engine does not know; the message names it.
    """
    torch = load()
    shared = _dense(torch, "trunk", trunk)
    branches = {name: _dense(torch, f"heads.{name}", module) for name, module in heads.items()}
    network = Network(
        int((shared or next(iter(branches.values())))[0][0].in_features),
        [dense for _, dense in shared],
        {
            name: Head(
                [dense for _, dense in branch],
                _loss(torch, name, losses[name]),
                weight=float(loss_weights.get(name, 1.0)),
            )
            for name, branch in branches.items()
        },
    )
    modules = {f"trunk.{i}": module for i, (module, _) in enumerate(shared)}
    for name, branch in branches.items():
        modules.update({f"heads.{name}.{i}": module for i, (module, _) in enumerate(branch)})
    return network, modules


def observe_step(
    model: Any,
    x: Array,
    targets: Mapping[str, Array],
    *,
    losses: Mapping[str, Any],
    loss_weights: Mapping[str, float],
    optimizer: Any,
    step: Callable[[], Any],
    call: str = "backward(); step()",
) -> Step:
    """Let ``step()`` take one training step of ``model``, whose parts are ``model.trunk`` and ``model.heads``, and
    record it.

    ``step`` returns None, or a mapping with the total under ``"loss"`` and each head's unweighted loss under its name.
    The optimizer must be a fresh ``torch.optim.Adam`` or ``SGD``.
    """
    torch = load()
    network, modules = network_of(model.trunk, model.heads, losses, loss_weights)
    rule = _rule(torch, optimizer)
    before = _parameters(network, modules)
    reported = step()
    gradient = empty(network.layout, np.dtype(np.float64))
    for name in network.layout.names:
        grad = _tensor(modules, name).grad
        gradient[name][...] = 0.0 if grad is None else grad.detach().numpy()
    log = None
    if isinstance(reported, Mapping):
        log = Log(float(reported["loss"]), {name: float(reported[name]) for name in network.heads})
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    return Step(
        framework="PyTorch",
        call=call,
        network=network,
        x=x,
        targets=dict(targets),
        before=before,
        after=_parameters(network, modules),
        gradient=gradient,
        gradient_source="the .grad of every parameter after the step",
        gradient_roundings=0,
        optimizer=rule,
        native={name: paths[id(_tensor(modules, name))] for name in network.layout.names},
        objective={name: type(losses[name]).__name__ for name in network.heads},
        log=log,
        versions={"torch": str(torch.__version__)},
    )


def _dense(torch: Any, where: str, module: Any) -> list[tuple[Any, Dense]]:
    nn = torch.nn
    activations = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu", nn.Identity: "linear"}
    found: list[tuple[Any, Dense]] = []
    for part in module if isinstance(module, nn.Sequential) else [module]:
        if type(part) is nn.Linear:
            found.append((part, Dense(int(part.out_features), bias=part.bias is not None)))
        elif type(part) in activations and found and found[-1][1].activation.name == "linear":
            linear, dense = found[-1]
            found[-1] = (linear, Dense(dense.n_out, activations[type(part)], dense.bias))
        else:
            raise ValueError(
                sentence(
                    where,
                    got=f"has a {type(part).__name__}",
                    expected="Linear layers, each with at most one activation",
                    remedy="The engine knows no other module.",
                )
            )
    return found


def _loss(torch: Any, name: str, loss: Any) -> Loss:
    nn = torch.nn
    if type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction in ("mean", "sum"):
        return SoftmaxCrossEntropy(reduction=loss.reduction, label_smoothing=float(loss.label_smoothing))
    if type(loss) is nn.MSELoss and loss.reduction in ("mean", "sum"):
        return MSE(reduction=loss.reduction)
    raise ValueError(
        sentence(
            f"losses[{name!r}]",
            got=f"is {type(loss).__name__}",
            expected="CrossEntropyLoss without class weights, or MSELoss, reduced",
            remedy="The engine knows these.",
        )
    )


def _rule(torch: Any, optimizer: Any) -> Rule:
    (group,) = optimizer.param_groups
    odd = [key for key in ("weight_decay", "amsgrad", "maximize", "dampening") if group.get(key)]
    if not odd and not optimizer.state:
        if type(optimizer) is torch.optim.Adam:
            beta_1, beta_2 = group["betas"]
            return Adam(float(group["lr"]), beta_1, beta_2, group["eps"], style="torch")
        if type(optimizer) is torch.optim.SGD:
            return SGD(float(group["lr"]), group["momentum"], group["nesterov"])
    got = f"is {type(optimizer).__name__}" + (f" with {', '.join(odd)}" if odd else "")
    if optimizer.state:
        got += ", and has already stepped"
    raise ValueError(
        sentence(
            "optimizer", got=got, expected="a fresh, plain torch.optim.Adam or SGD", remedy="Observe its first step."
        )
    )


def _tensor(modules: Mapping[str, Any], name: str) -> Any:
    layer, _, kind = name.rpartition(".")
    return getattr(modules[layer], kind)


def _parameters(network: Network, modules: Mapping[str, Any]) -> Parameters:
    return network.parameters({name: _tensor(modules, name).detach().numpy() for name in network.layout.names})

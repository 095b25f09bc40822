"""PyTorch modules by their traced graph: dense layers and known activations between one input and named outputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..activations import ELU, Activation, LeakyReLU
from ..activations import activation as activation_of
from ..errors import Unsupported, listing, sentence
from ..losses import MAE, MSE, BinaryCrossEntropy, Huber, Loss, SoftmaxCrossEntropy
from ..spec import Dense


@dataclass(frozen=True, eq=False)
class Place:
    """One dense layer in the graph: its ``Linear``, the node of z, the node of h (the same without activation)."""

    path: str
    module: Any
    z: Any
    h: Any
    dense: Dense


def chains(torch: Any, traced: Any, names: list[str]) -> dict[str, list[Place]]:
    """The layers from the input to each output, by the names of the losses.

    Raises ``ValueError`` for what the engine does not know; the message names it.
    """
    (node,) = (n for n in traced.graph.nodes if n.op == "output")
    return {name: _chain(torch, traced, out) for name, out in outputs_by_name(node.args[0], names).items()}


def outputs_by_name(given: Any, names: list[str]) -> dict[str, Any]:
    """Outputs, or their nodes, by the names of the losses: from a mapping, or in order from a tuple or a single one."""
    if hasattr(given, "_asdict") and set(names) <= set(given._asdict()):
        given = given._asdict()
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(
                sentence("losses", got=f"names {listing(missing)}", expected=f"outputs among {listing(given)}",
                         remedy="Name the losses as the model's outputs.")
            )  # fmt: skip
        return {name: given[name] for name in names}
    outputs = list(given) if isinstance(given, (tuple, list)) else [given]
    if len(outputs) != len(names):
        raise ValueError(
            sentence("losses", got=f"has {len(names)} entries", expected=f"one per output, {len(outputs)}",
                     remedy="Give them in the order of the outputs.")
        )  # fmt: skip
    return dict(zip(names, outputs, strict=True))


def _chain(torch: Any, traced: Any, node: Any) -> list[Place]:
    places: list[Place] = []
    pending: tuple[Activation, Any] | None = None
    while node.op != "placeholder":
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        if module is not None and type(module) is torch.nn.Linear:
            kind, h = pending if pending is not None else (activation_of("linear"), node)
            dense = Dense(int(module.out_features), kind, bias=module.bias is not None)
            places.append(Place(str(node.target), module, node, h, dense))
            pending = None
        elif not _passes(torch, node, module):
            kind = _activation(torch, node, module)
            if pending is not None:
                raise _unknown(node, module, "at most one activation after each Linear")
            pending = (kind, node)
        if not node.args:
            raise _unknown(node, module, "operations with their input in the first place")
        node = node.args[0]
    if pending is not None or not places:
        raise _unknown(node, None, "a Linear layer before every activation")
    return places[::-1]


def _passes(torch: Any, node: Any, module: Any) -> bool:
    """Whether the node hands on what it gets. Dropout does where it is off; ``detach`` does, to numbers."""
    nn = torch.nn
    if isinstance(module, nn.Identity):
        return True
    if isinstance(module, nn.Dropout):
        return not module.training or module.p == 0.0
    return node.op == "call_method" and node.target in {"detach", "contiguous", "clone"}


def _activation(torch: Any, node: Any, module: Any) -> Activation:
    nn, f = torch.nn, torch.nn.functional
    plain = {
        "relu": (nn.ReLU, torch.relu, f.relu, "relu"),
        "tanh": (nn.Tanh, torch.tanh, f.tanh, "tanh"),
        "sigmoid": (nn.Sigmoid, torch.sigmoid, f.sigmoid, "sigmoid"),
        "silu": (nn.SiLU, f.silu),
    }
    target = type(module) if module is not None else node.target
    for name, known in plain.items():
        if target in known:
            return activation_of(name)

    def option(name: str, default: Any) -> Any:
        return getattr(module, name) if module is not None else node.kwargs.get(name, default)

    if target in (nn.LeakyReLU, f.leaky_relu):
        return LeakyReLU(float(option("negative_slope", 0.01)))
    if target in (nn.ELU, f.elu):
        return ELU(float(option("alpha", 1.0)))
    if target in (nn.GELU, f.gelu):
        return activation_of("gelu_tanh" if option("approximate", "none") == "tanh" else "gelu")
    if target in (nn.Softplus, f.softplus) and option("beta", 1.0) == 1.0:
        return activation_of("softplus")
    raise _unknown(node, module, "Linear layers with known activations")


def _unknown(node: Any, module: Any, expected: str) -> Unsupported:
    kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return Unsupported(
        sentence(
            "model",
            got=f"has {kind} at {node.target if module is not None else node.name!r}",
            expected=expected,
            remedy="The engine knows no other operation.",
        )
    )


def loss_of(torch: Any, name: str, given: Any) -> Loss:
    """The engine's twin of a PyTorch loss object. Raises ``ValueError`` for one that it does not know."""
    nn, kind = torch.nn, type(given)
    weighted = getattr(given, "weight", None) is not None or getattr(given, "pos_weight", None) is not None
    reduction = getattr(given, "reduction", None)
    if not weighted and reduction in ("mean", "sum"):
        makers: dict[Any, Callable[[], Loss]] = {
            nn.CrossEntropyLoss: lambda: SoftmaxCrossEntropy(reduction, float(given.label_smoothing)),
            nn.MSELoss: lambda: MSE(reduction),
            nn.L1Loss: lambda: MAE(reduction),
            nn.HuberLoss: lambda: Huber(reduction, delta=float(given.delta)),
            nn.BCEWithLogitsLoss: lambda: BinaryCrossEntropy(reduction),
        }
        if kind is nn.SmoothL1Loss and given.beta == 1.0:
            return Huber(reduction, delta=1.0)
        if kind in makers:
            return makers[kind]()
    called = getattr(given, "__name__", kind.__name__)
    raise Unsupported(
        sentence(
            f"losses[{name!r}]",
            got=f"is {called}{' with weights' if weighted else ''}, reduction {reduction!r}",
            expected="CrossEntropyLoss, MSELoss, L1Loss, HuberLoss, SmoothL1Loss(beta=1) or BCEWithLogitsLoss, reduced",
            remedy="The engine knows these, without weights of classes.",
        )
    )


def shared_depth(found: Mapping[str, list[Place]]) -> int:
    """How many layers all outputs have in common, leaving each head at least one.

    Raises ``ValueError`` where a layer is used at two places.
    """
    first = next(iter(found.values()))
    depth = 0
    while all(len(chain) > depth + 1 and chain[depth].h is first[depth].h for chain in found.values()):
        depth += 1
    used = [place.path for place in first[:depth]]
    used += [place.path for chain in found.values() for place in chain[depth:]]
    twice = sorted({path for path in used if operator.countOf(used, path) > 1})
    if twice:
        raise Unsupported(
            sentence("model", got=f"uses {listing(twice)} at two places", expected="each layer at one",
                     remedy="The engine shares layers in the trunk only.")
        )  # fmt: skip
    return depth

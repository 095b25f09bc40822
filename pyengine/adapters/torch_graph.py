"""PyTorch modules by their traced graph: dense layers and known activations between one input and named outputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..activations import ELU, Activation, LeakyReLU
from ..activations import activation as activation_of
from ..errors import Unsupported, listing, sentence
from ..spec import Dense


@dataclass(frozen=True, eq=False)
class Place:
    """One dense layer in the graph: its parameters; the nodes of its input, of z, and of h (z's without activation)."""

    path: str
    weight: Any
    bias: Any
    x: Any
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
    reshaped: Any = None
    while node.op != "placeholder":
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        if not node.args:
            raise _unknown(node, module, "operations with their input in the first place")
        if (linear := _linear(torch, traced, node, module)) is not None:
            if reshaped is not None:
                raise _unknown(reshaped, None, "reshaping before the first Linear only")
            path, weight, bias = linear
            kind, h = pending if pending is not None else (activation_of("linear"), node)
            dense = Dense(int(weight.shape[0]), kind, bias=bias is not None)
            places.append(Place(path, weight, bias, node.args[0], node, h, dense))
            pending = None
        elif _reshapes(torch, node, module) and pending is None:
            reshaped = node
        elif not _passes(torch, node, module):
            kind = _activation(torch, node, module)
            if pending is not None or reshaped is not None:
                raise _unknown(node, module, "at most one activation after each Linear")
            pending = (kind, node)
        node = node.args[0]
    if pending is not None or not places:
        raise _unknown(node, None, "a Linear layer before every activation")
    return places[::-1]


def _linear(torch: Any, traced: Any, node: Any, module: Any) -> tuple[str, Any, Any] | None:
    """The path, the weight and the bias of a ``Linear``, or of ``functional.linear`` on parameters of the module."""
    if module is not None:
        if type(module) is not torch.nn.Linear:
            return None
        own = dict(module.named_parameters(recurse=False))
        for name in ("weight", "bias"):
            if getattr(module, name) is not None and name not in own:
                raise _unknown(node, module, f"Linear layers whose {name} is a parameter, not computed from others")
        return str(node.target), module.weight, module.bias
    if node.target is not torch.nn.functional.linear:
        return None
    given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
    found = {}
    for name in ("weight", "bias"):
        source = given.get(name)
        if source is not None and getattr(source, "op", "") != "get_attr":
            raise _unknown(node, None, "functional.linear on parameters as they are")
        found[name] = None if source is None else operator.attrgetter(source.target)(traced)
    return str(given["weight"].target).rpartition(".")[0] or str(node.name), found["weight"], found["bias"]


def _passes(torch: Any, node: Any, module: Any) -> bool:
    """Whether the node hands on what it gets. Dropout does where it is off; ``detach`` does, to numbers."""
    nn = torch.nn
    if isinstance(module, nn.Identity):
        return True
    if isinstance(module, nn.Dropout):
        return not module.training or module.p == 0.0
    if node.target is nn.functional.dropout:
        return node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True) is False
    return node.op == "call_method" and node.target in {"detach", "contiguous", "clone"}


def _reshapes(torch: Any, node: Any, module: Any) -> bool:
    """Flattening and the like, which may stand before the first layer: the layer's input is read behind it."""
    if module is not None:
        return isinstance(module, torch.nn.Flatten)
    return node.target in {"flatten", "reshape", "view", torch.flatten, torch.reshape}


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

    def option(name: str, default: Any, place: int = 1) -> Any:
        if module is not None:
            return getattr(module, name)
        return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    if target in (nn.LeakyReLU, f.leaky_relu):
        return LeakyReLU(float(option("negative_slope", 0.01)))
    if target in (nn.ELU, f.elu):
        return ELU(float(option("alpha", 1.0)))
    if target in (nn.GELU, f.gelu):
        return activation_of("gelu_tanh" if option("approximate", "none") == "tanh" else "gelu")
    # Above its threshold PyTorch's softplus is linear; from 20 on, float32 cannot tell.
    if target in (nn.Softplus, f.softplus) and option("beta", 1.0) == 1.0 and option("threshold", 20.0, 2) >= 20.0:
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


def shared_depth(found: Mapping[str, list[Place]]) -> int:
    """How many layers all outputs have in common, leaving each head at least one.

    Raises ``ValueError`` where a layer is used at two places.
    """
    first = next(iter(found.values()))
    if len({id(chain[0].x) for chain in found.values()}) > 1:
        raise Unsupported(
            sentence("model", got="has outputs that start from different inputs", expected="one input",
                     remedy="The engine takes one array.")
        )  # fmt: skip
    depth = 0
    while all(len(chain) > depth + 1 and chain[depth].h is first[depth].h for chain in found.values()):
        depth += 1
    used = [*first[:depth], *(place for chain in found.values() for place in chain[depth:])]
    # Tied weights are one tensor under two names: its gradient is the sum of both.
    tensors = [id(tensor) for place in used for tensor in (place.weight, place.bias) if tensor is not None]
    twice = sorted(
        {p.path for p in used if any(operator.countOf(tensors, id(t)) > 1 for t in (p.weight, p.bias) if t is not None)}
    )
    if twice:
        raise Unsupported(
            sentence("model", got=f"uses the parameters of {listing(twice)} at two places", expected="each at one",
                     remedy="The engine shares layers in the trunk only.")
        )  # fmt: skip
    return depth

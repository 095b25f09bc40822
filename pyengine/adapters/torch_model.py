"""PyTorch: run a user's module once, keep every number between the layers, and differentiate each loss by autograd.

Nothing in the model changes: no ``.grad`` is written and no optimizer steps. Frozen layers are thawed for the while,
so that every gradient can be judged. A compiled module shows no numbers between its layers: its final gradients are
taken instead, each from a forward pass of its own, as a compiled backward pass runs once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..checks.staged.witnesses import Backward, Witnesses
from ..engine import Network
from ..errors import Unsupported, listing, sentence
from ..parameters import Array, Layout
from ..rounding.storage import NARROW
from ..spec import Head
from .computation import Computation, as_batch
from .from_torch import load
from .torch_graph import Place, chains, outputs_by_name, shared_depth
from .torch_losses import before_sigmoid, require_unsaturated, twin_of
from .torch_observed import reduced
from .torch_wrappers import unwrapped


def compute(
    model: Any, x: Any, targets: Mapping[str, Any], losses: Mapping[str, Any], loss_weights: Mapping[str, float]
) -> Computation:
    """Gradients of every loss and of their weighted sum, with witnesses. See :func:`pyengine.verify`."""
    torch = load()
    names = list(losses)
    inside = unwrapped(torch, model)
    model = inside.module
    traced = _traced(torch, model)
    found = chains(torch, traced, names)
    twins = {name: twin_of(torch, name, losses[name], targets[name]) for name in names}
    ends = {name: chain[-1].h for name, chain in found.items()}
    found = {
        name: [*chain[:-1], before_sigmoid(name, chain[-1])] if twins[name].probabilities else chain
        for name, chain in found.items()
    }
    depth = shared_depth(found)
    places = {f"trunk.{i}": place for i, place in enumerate(next(iter(found.values()))[:depth])}
    for name, chain in found.items():
        places |= {f"heads.{name}.{i}": place for i, place in enumerate(chain[depth:])}
    weights = {name: float(loss_weights.get(name, 1.0)) for name in names}
    heads = {
        name: Head([place.dense for place in chain[depth:]], twins[name].loss, weights[name])
        for name, chain in found.items()
    }
    first = next(iter(found.values()))
    network = Network(int(first[0].weight.shape[1]), [place.dense for place in first[:depth]], heads)
    tensors = _tensors(network, places)
    params = network.parameters({name: as_batch(_widened(torch, tensor)) for name, tensor in tensors.items()})

    example = next(iter(tensors.values()))
    inputs = torch.as_tensor(x, device=example.device)
    wanted = {name: torch.as_tensor(targets[name], device=example.device) for name in names}
    frozen = [name for name, tensor in tensors.items() if not tensor.requires_grad]
    with _thawed([tensors[name] for name in frozen]):
        seen = _run(torch, traced, inputs)
        kept_in = str(seen[first[0].z].dtype).removeprefix("torch.")
        if kept_in in NARROW and (own := [name for name in names if twins[name].probabilities]):
            # A probability has lost there what the loss needs, before the loss sees it.
            raise Unsupported(
                sentence("losses", got=f"takes probabilities in {kept_in} at {listing(own)}", expected="logits",
                         remedy="Use BCEWithLogitsLoss on the layer without its sigmoid.")
            )  # fmt: skip
        outputs = {name: seen[ends[name]] for name in names}
        for name in names:
            if twins[name].probabilities:
                require_unsaturated(name, as_batch(_widened(torch, outputs[name])), twins[name].target)
        values = {name: reduced(torch, name, losses[name](outputs[name], wanted[name])) for name in names}
        total = sum(weights[name] * value for name, value in values.items())
        routes: list[tuple[str | None, Any, Layout]] = [(None, total, network.layout)]
        routes += [(name, values[name], network.loss_layouts[name]) for name in names]
        finals: dict[str | None, dict[str, Array]] = {}
        backwards: dict[str | None, Backward] = {}
        if inside.compiled is not None and kept_in not in NARROW:
            run = _whole(torch, inside.compiled, inputs, wanted, losses, weights)
            finals = {route: _final(torch, run(route), layout.names, tensors) for route, _, layout in routes}
        else:
            for route, value, layout in routes:
                backwards[route] = _backward(torch, value, layout.names, tensors, places, seen)
                finals[route] = _arrays(backwards[route].gradient)
    kept = {name: place for name, place in places.items() if seen[place.z] is not seen[place.h]}
    native = _native(model, tensors)
    notes = list(inside.notes)
    if frozen:
        notes.append(f"Frozen, and judged as if they were trained: {listing(native[name] for name in frozen)}.")
    return Computation(
        framework="PyTorch" if backwards else "PyTorch, compiled",
        network=network,
        params=params,
        x=as_batch(_widened(torch, seen[first[0].x])),
        targets={name: twin.target for name, twin in twins.items()},
        sample_weight={name: twin.weight for name, twin in twins.items() if twin.weight is not None} or None,
        per_loss={name: finals[name] for name in names},
        summed=finals[None],
        losses={name: float(value.detach()) for name, value in values.items()},
        native=native,
        witnesses=Witnesses(
            z={name: _numpy(seen[place.z]) for name, place in kept.items()},
            h={name: _numpy(seen[place.h]) for name, place in places.items()},
            per_loss={name: backwards[name] for name in names},
            summed=backwards[None],
        )
        if backwards
        else None,
        versions={"torch": str(torch.__version__)},
        kept=None if kept_in not in NARROW else kept_in,
        loss_dtype="float32" if all(value.dtype == torch.float32 for value in values.values()) else None,
        notes=tuple(notes),
    )


@contextlib.contextmanager
def _thawed(frozen: list[Any]) -> Iterator[None]:
    for tensor in frozen:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)


def _whole(
    torch: Any, whole: Any, x: Any, wanted: Mapping[str, Any], losses: Mapping[str, Any], weights: Mapping[str, float]
) -> Callable[[str | None], Any]:
    """One loss by a forward pass of its own, or their weighted sum for None."""

    def run(name: str | None) -> Any:
        with torch.enable_grad():
            outputs = outputs_by_name(whole(x), list(losses))
            values = {n: loss(outputs[n], wanted[n]).reshape(()) for n, loss in losses.items()}
            return sum(weights[n] * value for n, value in values.items()) if name is None else values[name]

    return run


def _final(torch: Any, value: Any, names: Any, tensors: Mapping[str, Any]) -> dict[str, Array]:
    asked = [tensors[name] for name in names]
    found = torch.autograd.grad(value, asked, allow_unused=True)
    zeros = (torch.zeros_like(t) if g is None else g for t, g in zip(asked, found, strict=True))
    return dict(zip(names, map(as_batch, zeros), strict=True))


def _traced(torch: Any, model: Any) -> Any:
    try:
        return torch.fx.symbolic_trace(model)
    except Exception as error:  # a forward pass may do anything, and tracing may fail in as many ways
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unsupported(
            sentence("model", got=f"cannot be traced by torch.fx ({said})", expected="a forward pass without branches",
                     remedy="The engine reads the layers from the trace.")
        ) from error  # fmt: skip


def _run(torch: Any, traced: Any, x: Any) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}

    class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: Any) -> Any:
            seen[node] = super().run_node(node)
            return seen[node]

        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            # An activation in place would overwrite z, which is a witness; on a copy it gives the same numbers.
            if getattr(self.fetch_attr(target), "inplace", False):
                args = (args[0].clone(), *args[1:])
            return super().call_module(target, args, kwargs)

    with torch.enable_grad():
        Recorder(traced).run(x)
    return seen


def _backward(
    torch: Any, value: Any, names: Any, tensors: Mapping[str, Any], places: Mapping[str, Place], seen: Mapping[Any, Any]
) -> Backward:
    """∂value/∂h, ∂value/∂z where they are two tensors, and the gradients; zeros for what the value does not reach."""
    layers = [name for name in places if f"{name}.weight" in names]
    separate = [name for name in layers if seen[places[name].z] is not seen[places[name].h]]
    asked = [seen[places[name].h] for name in layers] + [seen[places[name].z] for name in separate]
    asked += [tensors[name] for name in names]
    found = torch.autograd.grad(value, asked, retain_graph=True, allow_unused=True)
    arrays = [_numpy(torch.zeros_like(t) if g is None else g) for t, g in zip(asked, found, strict=True)]
    middle = len(layers) + len(separate)
    return Backward(
        dict(zip(layers, arrays[: len(layers)], strict=True)),
        dict(zip(separate, arrays[len(layers) : middle], strict=True)),
        dict(zip(names, arrays[middle:], strict=True)),
    )


def _tensors(network: Network, places: Mapping[str, Place]) -> dict[str, Any]:
    found = {}
    for name in network.layout.names:
        layer, _, kind = name.rpartition(".")
        found[name] = getattr(places[layer], kind)
    return found


def _native(model: Any, tensors: Mapping[str, Any]) -> dict[str, str]:
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    return {name: paths[id(tensor)] for name, tensor in tensors.items()}


def _numpy(tensor: Any) -> Any:
    """The numbers as they are: a NumPy array, or for bfloat16, which NumPy lacks, a tensor that needs no gradient."""
    plain = tensor.detach().cpu()
    return plain if str(plain.dtype) == "torch.bfloat16" else np.asarray(plain.numpy())


def _widened(torch: Any, tensor: Any) -> Any:
    """Narrow numbers in float32, which holds them all."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _arrays(gradient: Mapping[str, Any]) -> dict[str, Array]:
    return {name: as_batch(one) for name, one in gradient.items()}

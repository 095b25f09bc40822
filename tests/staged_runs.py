"""Witnesses for the staged check from PyTorch's and JAX's autograd, and the networks of its tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import frameworks
import numpy as np
from problems import Problem, head_and_target

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.batch import checked_batch
from pyengine.losses import LOSSES

Named = dict[str, Any]


def verdict_of(given: Problem, witnesses: pe.Witnesses, **options: Any) -> pe.StagedReport:
    """The report on witnesses of a problem."""
    net, params, x, targets, sample_weight = given
    return pe.verify_witnesses(net, params, x, targets, witnesses, sample_weight, **options)


# ---------------------------------------------------------------------------------------------------------- PyTorch


def torch_witnesses(given: Problem) -> pe.Witnesses:
    """What PyTorch computes on the way, by ``torch.autograd.grad`` with respect to every z, h and parameter."""
    import torch

    net, params, x, targets, sample_weight = given
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    z: Named = {}
    h: Named = {}

    def run(layers: Any, value: Any) -> Any:
        for layer in layers:
            weight, bias = leaves[f"{layer.name}.weight"], leaves.get(f"{layer.name}.bias")
            z[layer.name] = torch.nn.functional.linear(value, weight, bias)
            value = h[layer.name] = frameworks._torch_activation(layer.activation, z[layer.name])
        return value

    trunk = run(net.trunk_layers, torch.tensor(batch.x))
    losses = {}
    for name, head in net.heads.items():
        own = batch.heads[name]
        weights = None if own.weights is None else torch.tensor(own.weights.astype(params.dtype))
        output = run(net.head_layers[name], trunk)
        losses[name] = frameworks._torch_loss(head.loss, output, torch.tensor(own.target), weights, params.dtype)
    total = torch.stack([head.weight * losses[name] for name, head in net.heads.items()]).sum()

    def backward(loss: Any, layout: Any) -> pe.Backward:
        layers = [name for name in z if f"{name}.weight" in layout.shapes]
        wanted = [
            *(h[name] for name in layers),
            *(z[name] for name in layers),
            *(leaves[name] for name in layout.names),
        ]
        found = [array.numpy() for array in torch.autograd.grad(loss, wanted, retain_graph=True)]
        n = len(layers)
        return pe.Backward(
            dict(zip(layers, found[:n], strict=True)),
            dict(zip(layers, found[n : 2 * n], strict=True)),
            dict(zip(layout.names, found[2 * n :], strict=True)),
        )

    return pe.Witnesses(
        z={name: value.detach().numpy() for name, value in z.items()},
        h={name: value.detach().numpy() for name, value in h.items()},
        per_loss={name: backward(losses[name], layout) for name, layout in net.loss_layouts.items()},
        summed=backward(total, net.layout),
    )


# -------------------------------------------------------------------------------------------------------------- JAX


def jax_witnesses(given: Problem, *, level: int | None = 0) -> pe.Witnesses:
    """What JAX computes on the way: z and h beside the losses, ∂L/∂z and ∂L/∂h as gradients of zeros added to them.

    ``level`` is XLA's optimisation level, None its default.
    """
    import jax

    net, params, x, targets, sample_weight = given
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    shapes = {
        layer.name: (batch.size, layer.n_out)
        for layers in (net.trunk_layers, *net.head_layers.values())
        for layer in layers
    }
    zeros = {name: np.zeros(shape, params.dtype) for name, shape in shapes.items()}
    weights = {
        name: None if own.weights is None else own.weights.astype(params.dtype) for name, own in batch.heads.items()
    }

    def losses(leaves: Any, at_z: Any, at_h: Any) -> Any:
        z: Named = {}
        h: Named = {}

        def run(layers: Any, value: Any) -> Any:
            for layer in layers:
                product = value @ leaves[f"{layer.name}.weight"].T
                bias = leaves.get(f"{layer.name}.bias")
                z[layer.name] = (product if bias is None else product + bias) + at_z[layer.name]
                value = h[layer.name] = frameworks._jax_activation(layer.activation, z[layer.name]) + at_h[layer.name]
            return value

        trunk = run(net.trunk_layers, batch.x)
        found = []
        for name, head in net.heads.items():
            output = run(net.head_layers[name], trunk)
            target = batch.heads[name].target
            found.append(frameworks._jax_loss(head.loss, output, target, weights[name], params.dtype))
        return jax.numpy.stack(found), (z, h)

    def both(leaves: Any) -> Any:
        _, pullback, (z, h) = jax.vjp(losses, leaves, zeros, zeros, has_aux=True)
        share = jax.numpy.array([head.weight for head in net.heads.values()], params.dtype)
        seeds = jax.numpy.vstack([jax.numpy.eye(len(share), dtype=params.dtype), share])
        return z, h, jax.vmap(pullback)(seeds)

    with jax.enable_x64(params.dtype == np.float64):
        compiled = jax.jit(both, compiler_options=frameworks.compiler_options(level))
        z, h, (gradient, dz, dh) = jax.tree.map(np.asarray, compiled(dict(params)))

    def backward(row: int, layout: Any) -> pe.Backward:
        layers = [name for name in shapes if f"{name}.weight" in layout.shapes]
        return pe.Backward(
            {name: dh[name][row] for name in layers},
            {name: dz[name][row] for name in layers},
            {name: gradient[name][row] for name in layout.names},
        )

    return pe.Witnesses(
        z=z,
        h=h,
        per_loss={name: backward(i, layout) for i, (name, layout) in enumerate(net.loss_layouts.items())},
        summed=backward(len(net.heads), net.layout),
    )


# --------------------------------------------------------------------------------------------------------- networks


def everyday(size: str, dtype: str = "float32", activation: str = "relu", seed: int = 0) -> Problem:
    """The networks of the benchmark: two heads, classes and values, the second with weight 0.5."""
    from pyengine.bench.sizes import SIZES, WEIGHT_B, numbers

    chosen = SIZES[size]
    held = numbers(chosen, dtype, seed)

    def layers(widths: tuple[int, ...]) -> list[pe.Dense]:
        return [*(pe.Dense(n, activation) for n in widths[:-1]), pe.Dense(widths[-1])]

    heads = {
        "a": pe.Head(layers(chosen.a), "softmax_cross_entropy"),
        "b": pe.Head(layers(chosen.b), "mse", weight=WEIGHT_B),
    }
    net = pe.Network(chosen.n_in, [pe.Dense(n, activation) for n in chosen.trunk], heads)
    return Problem(net, net.parameters(held.params), held.x, {"a": held.classes, "b": held.values})


def deep(seed: int, dtype: str, widest: int = 200) -> Problem:
    """A random network of 1 to 6 trunk layers and two heads; the seeds run through all activations and losses."""
    rng = np.random.default_rng([seed, 6])
    kinds, losses = list(ACTIVATIONS), list(LOSSES)
    batch = int(rng.integers(1, widest))
    trunk = [pe.Dense(int(rng.integers(1, widest)), kinds[(seed + 3 * i) % len(kinds)]) for i in range(1 + seed % 6)]
    both = {f"head{k}": head_and_target(rng, dtype, batch, losses[(seed + k) % len(losses)]) for k in range(2)}
    net = pe.Network(int(rng.integers(1, widest)), trunk, {name: head for name, (head, _) in both.items()})
    params = net.init(seed, dtype)
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size).astype(dtype)
    x = rng.standard_normal((batch, net.n_in)).astype(dtype)
    weights = rng.random(batch) + 0.01 if rng.random() < 0.5 else None
    return Problem(net, params, x, {name: target for name, (_, target) in both.items()}, weights)


def with_change(witnesses: pe.Witnesses, name: str, part: str, key: str, value: Any) -> pe.Witnesses:
    """The witnesses with one array of a backward pass replaced; ``name`` is a head's or ``"summed"``."""
    one = witnesses.summed if name == "summed" else witnesses.per_loss[name]
    assert one is not None
    changed = replace(one, **{part: {**getattr(one, part), key: value}})
    if name == "summed":
        return replace(witnesses, summed=changed)
    return replace(witnesses, per_loss={**witnesses.per_loss, name: changed})

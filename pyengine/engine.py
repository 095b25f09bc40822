"""The network: shapes, parameters, and the calls into the compiled kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .batch import Batch, checked_batch, require_finite, shaped_input
from .errors import listing, sentence
from .gradients import Gradients
from .losses import Huber
from .parameters import DTYPES, Array, Layout, Parameters, empty, gather
from .spare import SpareMemory
from .spec import Dense, Head, Layer, dense_layers, named_heads, resolve, size


class Network:
    """A dense network with a shared trunk and one or more heads, each ending in a loss.

    ``n_in`` is the width of the input, ``trunk`` a list of :class:`Dense` (may be empty), ``heads`` a mapping of names
    to :class:`Head`. A network is immutable and may be used from several threads at once.

    >>> net = Network(n_in=2, trunk=[Dense(3, "tanh")], heads={"a": Head([Dense(1)], loss="mse")})
    >>> list(net.init(seed=0))
    ['trunk.0.weight', 'trunk.0.bias', 'heads.a.0.weight', 'heads.a.0.bias']
    """

    n_in: int
    trunk: tuple[Dense, ...]
    heads: dict[str, Head]
    trunk_layers: tuple[Layer, ...]
    head_layers: dict[str, tuple[Layer, ...]]
    layout: Layout
    loss_layouts: dict[str, Layout]

    def __init__(self, n_in: int, trunk: Sequence[Dense], heads: Mapping[str, Head]) -> None:
        self.n_in = size("n_in", n_in)
        self.trunk = dense_layers("trunk", trunk)
        self.heads = named_heads(heads)
        self.trunk_layers = resolve("trunk", self.n_in, self.trunk)
        width = self.trunk_layers[-1].n_out if self.trunk_layers else self.n_in
        self.head_layers = {name: resolve(f"heads.{name}", width, head.layers) for name, head in self.heads.items()}
        self.layout = Layout([*self.trunk_layers, *(layer for layers in self.head_layers.values() for layer in layers)])
        self.loss_layouts = {name: Layout([*self.trunk_layers, *layers]) for name, layers in self.head_layers.items()}
        self._kernel = _core.Network(
            self.n_in,
            [_layer_tuple(layer) for layer in self.trunk_layers],
            [
                (
                    [_layer_tuple(layer) for layer in self.head_layers[name]],
                    head.loss.name,
                    head.loss.reduction,
                    getattr(head.loss, "label_smoothing", 0.0),
                    head.loss.delta if isinstance(head.loss, Huber) else 0.0,
                    head.weight,
                )
                for name, head in self.heads.items()
            ],
        )
        self._spare = SpareMemory(most=1 + len(self.heads))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Network, (self.n_in, self.trunk, self.heads))

    def __repr__(self) -> str:
        heads = "".join(f"\n    {name}: {head!r}" for name, head in self.heads.items())
        return f"Network(n_in={self.n_in}, {self.layout.size} parameters\n  trunk: {list(self.trunk)}\n  heads:{heads})"

    def init(self, seed: int = 0, dtype: npt.DTypeLike = "float32") -> Parameters:
        """Fresh parameters: Glorot-uniform weights, zero biases, as Keras initialises dense layers.

        Source: Glorot & Bengio, AISTATS 2010, eq. 16. ``dtype`` is float32 or float64; the same seed gives the same
        numbers.
        """
        chosen = _dtype(dtype)
        rng = np.random.default_rng(seed)
        params = empty(self.layout, chosen)
        params.flat.fill(0)
        for name, shape in self.layout.shapes.items():
            if name.endswith(".weight"):
                limit = np.sqrt(6.0 / sum(shape))
                params[name][...] = rng.uniform(-limit, limit, shape)
        return params

    def parameters(self, mapping: Mapping[str, Any]) -> Parameters:
        """Copy any mapping of arrays (a PyTorch ``state_dict``, a dict) into parameters of this network.

        Raises ``ValueError`` for wrong names and shapes, ``TypeError`` for dtypes other than one common float32 or
        float64.
        """
        return gather(self.layout, mapping)

    def forward(self, params: Mapping[str, Any], x: Any) -> dict[str, Array]:
        """The outputs of every head, name -> (batch, n_out), for x (batch, n_in)."""
        own = self._own(params)
        inputs = shaped_input(x, self.n_in, own.dtype)
        outputs = {
            name: np.empty((inputs.shape[0], layers[-1].n_out), own.dtype) for name, layers in self.head_layers.items()
        }
        if not self._kernel.forward(own.flat, inputs, list(outputs.values())):
            require_finite("x", inputs)
        return outputs

    def gradients(
        self,
        params: Mapping[str, Any],
        x: Any,
        targets: Mapping[str, Any],
        sample_weight: Any = None,
        per_loss: bool = True,
        summed: bool = True,
        out: Gradients | None = None,
    ) -> Gradients:
        """Losses and gradients of one batch, from one fused pass.

        ``x`` is (batch, n_in); ``targets`` maps each head to integer classes (batch,) or to (batch, n_out) of the
        parameters' dtype; ``sample_weight`` is None, one (batch,) array for all heads, or a mapping of heads to such
        arrays. ``per_loss`` and ``summed`` choose what is computed; ``out``, an earlier result of the same call, is
        overwritten and returned.

        Results are the same bits for every thread count. Raises ``ValueError`` and ``TypeError`` before any work.
        """
        # A small network's call is as short as what comes before it: hence no further calls where none is needed.
        own = params if type(params) is Parameters and params.layout is self.layout else self._own(params)
        if sample_weight is None:
            result = self.empty_gradients(own.dtype, per_loss=per_loss, summed=summed) if out is None else out
            direct = result._direct if type(result) is Gradients else None
            if direct is not None:
                total = direct.run(self._kernel, per_loss, summed, own.flat, x, targets)
                if total is not None:
                    result.total_loss = total
                    return result
        return self._checked_gradients(own, x, targets, sample_weight, per_loss, summed, out)

    def _checked_gradients(
        self,
        own: Parameters,
        x: Any,
        targets: Mapping[str, Any],
        sample_weight: Any,
        per_loss: bool,
        summed: bool,
        out: Gradients | None,
    ) -> Gradients:
        """The long way: convert what can be converted, and say what is wrong with the rest."""
        batch = checked_batch(x, targets, sample_weight, n_in=self.n_in, heads=self.heads, dtype=own.dtype)
        if not (per_loss or summed):
            raise ValueError(
                sentence(
                    "per_loss",
                    got="and `summed` are both False",
                    expected="at least one",
                    remedy="Ask for one of them.",
                )
            )
        result = self.empty_gradients(own.dtype, per_loss=per_loss, summed=summed) if out is None else out
        if out is not None:
            self._check_out(out, own, batch, per_loss=per_loss, summed=summed)
        self._run(own, batch, result)
        return result

    def per_loss_gradients(
        self, params: Mapping[str, Any], x: Any, targets: Mapping[str, Any], sample_weight: Any = None
    ) -> dict[str, Parameters]:
        """Per head, the gradient of its unweighted loss with respect to the trunk and to that head."""
        return dict(self.gradients(params, x, targets, sample_weight, per_loss=True, summed=False).per_loss)

    def summed_gradient(
        self, params: Mapping[str, Any], x: Any, targets: Mapping[str, Any], sample_weight: Any = None
    ) -> Parameters:
        """The gradient of Σ weight·loss with respect to every parameter, by a single backward pass."""
        return self.gradients(params, x, targets, sample_weight, per_loss=False, summed=True).summed

    def gramian(
        self, params: Mapping[str, Any], x: Any, targets: Mapping[str, Any], sample_weight: Any = None
    ) -> npt.NDArray[np.float64]:
        """(K, K) float64: inner products of the per-loss gradients over the trunk, in the order of the heads.

        Takes the arguments of :meth:`gradients`. Where that takes fewer operations (a batch that is small against the
        widths) no gradient is formed: with dW_k = D_kᵀ·X, ⟨dW_k, dW_l⟩ = Σ_ij (X·Xᵀ)_ij·(D_k·D_lᵀ)_ij.

        >>> net = Network(n_in=1, trunk=[Dense(1)], heads={"a": Head([Dense(1)], loss="mse")})
        >>> params = net.init(seed=0, dtype="float64")
        >>> x, y = np.ones((1, 1)), {"a": np.zeros((1, 1))}
        >>> bool(net.gramian(params, x, y)[0, 0] == net.gradients(params, x, y).gramian[0, 0])
        True
        """
        own = self._own(params)
        batch = checked_batch(x, targets, sample_weight, n_in=self.n_in, heads=self.heads, dtype=own.dtype)
        out = np.empty((len(self.heads), len(self.heads)))
        self._kernel.gramian(own.flat, batch.x, *self._measured_against(batch), out)
        return out

    def empty_gradients(self, dtype: npt.DTypeLike, *, per_loss: bool = True, summed: bool = True) -> Gradients:
        """A result whose numbers are not set yet, to be filled through ``out=``."""
        chosen = _dtype(dtype)
        losses = dict.fromkeys(self.heads, float("nan"))
        parts = {name: self._unset(layout, chosen) for name, layout in self.loss_layouts.items()} if per_loss else None
        total = self._unset(self.layout, chosen) if summed else None
        gramian = np.empty((len(self.heads), len(self.heads))) if per_loss else None
        direct = _core.Direct(
            self._kernel,
            chosen,
            list(parts.values()) if parts is not None else [],
            total,
            gramian,
            losses,
        )
        return Gradients(losses, float("nan"), parts, total, gramian, direct)

    def _unset(self, layout: Layout, dtype: np.dtype[Any]) -> Parameters:
        return Parameters(layout, self._spare.empty(layout.size, dtype))

    def _own(self, params: Mapping[str, Any]) -> Parameters:
        if isinstance(params, Parameters) and (params.layout is self.layout or params.layout == self.layout):
            return params
        return gather(self.layout, params)

    def _check_out(self, out: Gradients, params: Parameters, batch: Batch, *, per_loss: bool, summed: bool) -> None:
        """Check every part that ``out`` holds, for each will be written, asked for or not."""
        if not isinstance(out, Gradients):
            raise TypeError(
                sentence(
                    "out",
                    got=f"is of type {type(out).__name__}",
                    expected="a pyengine.Gradients of the same network",
                    remedy="Pass an earlier result of gradients().",
                )
            )
        for asked, held, got, expected in (
            (per_loss, out._per_loss, "lacks the per-loss gradients", "a result of gradients(per_loss=True)"),
            (summed, out._summed, "lacks the summed gradient", "a result of gradients(summed=True)"),
        ):
            if asked and held is None:
                raise ValueError(sentence("out", got=got, expected=expected, remedy="Make it with empty_gradients()."))
        if out._per_loss is not None and list(out._per_loss) != list(self.heads):
            raise ValueError(
                sentence(
                    "out",
                    got=f"has the heads {listing(out._per_loss)}",
                    expected=f"{listing(self.heads)}",
                    remedy="It belongs to another network.",
                )
            )
        parts = [
            (f"out.per_loss[{name!r}]", part, self.loss_layouts[name]) for name, part in (out._per_loss or {}).items()
        ]
        if out._summed is not None:
            parts.append(("out.summed", out._summed, self.layout))
        taken = [("the parameters", params.flat), ("x", batch.x)]
        taken += [(f"targets[{name!r}]", head.target) for name, head in batch.heads.items()]
        for argument, part, layout in parts:
            self._check_part(argument, part, layout, params.dtype, taken)
            taken.append((argument, part.flat))

    @staticmethod
    def _check_part(
        argument: str, part: Parameters, layout: Layout, dtype: np.dtype[Any], taken: Sequence[tuple[str, Array]]
    ) -> None:
        flat = part.flat
        if part.layout != layout:
            raise ValueError(
                sentence(
                    argument,
                    got="has another layout",
                    expected="the layout of this network",
                    remedy="Use its own result.",
                )
            )
        if flat.dtype != dtype:
            raise TypeError(
                sentence(
                    argument,
                    got=f"has dtype {flat.dtype}",
                    expected=f"{dtype}, the dtype of the parameters",
                    remedy="Make it with empty_gradients().",
                )
            )
        if not (flat.flags.writeable and flat.flags.c_contiguous and flat.flags.aligned):
            raise ValueError(
                sentence(
                    argument,
                    got="is read-only or not contiguous",
                    expected="a writeable, contiguous vector",
                    remedy="Make it with empty_gradients().",
                )
            )
        for other, array in taken:
            if np.may_share_memory(flat, array):
                raise ValueError(
                    sentence(
                        argument,
                        got=f"shares memory with {other}",
                        expected="memory of its own",
                        remedy="Copy one of them.",
                    )
                )

    def _measured_against(self, batch: Batch) -> tuple[list[Array], list[npt.NDArray[np.float64] | None], list[float]]:
        """Targets, sample weights and divisors, as the kernel takes them."""
        return (
            [head.target for head in batch.heads.values()],
            [head.weights for head in batch.heads.values()],
            [batch.heads[name].divisor(head.loss, head.layers[-1].n_out) for name, head in self.heads.items()],
        )

    def _run(self, params: Parameters, batch: Batch, result: Gradients) -> None:
        losses = np.empty(len(self.heads))
        self._kernel.gradients(
            params.flat,
            batch.x,
            *self._measured_against(batch),
            [part.flat for part in result._per_loss.values()] if result._per_loss is not None else None,
            result._summed.flat if result._summed is not None else None,
            losses,
            result._gramian,
        )
        result.losses.update(zip(self.heads, losses.tolist(), strict=True))
        result.total_loss = sum(head.weight * result.losses[name] for name, head in self.heads.items())


def _layer_tuple(layer: Layer) -> tuple[int, int, str, float, bool]:
    return (layer.n_in, layer.n_out, layer.activation.name, layer.activation.slope, layer.bias)


def _dtype(given: npt.DTypeLike) -> np.dtype[Any]:
    try:
        chosen = np.dtype(given)
    except TypeError:
        chosen = None
    if chosen is None or chosen not in DTYPES:
        raise TypeError(
            sentence(
                "dtype",
                got=f"is {given!r}" if chosen is None else f"is {chosen}",
                expected="float32 or float64",
                remedy="The engine computes in these two.",
            )
        )
    return chosen

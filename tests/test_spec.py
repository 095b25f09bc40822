"""What a network is made of: layers, heads, names, sizes, and the refusals of their constructors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from refusals import refused

import pyengine as pe

ACTIVATIONS = ["linear", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh"]
LOSSES = ["softmax_cross_entropy", "clipped_cross_entropy", "binary_cross_entropy", "mse", "mae", "huber",
          "clipped_binary_cross_entropy"]  # fmt: skip
LAYER = [pe.Dense(1)]


def head(**changes: Any) -> pe.Head:
    return pe.Head(**{"layers": LAYER, "loss": "mse", **changes})


def network(**changes: Any) -> pe.Network:
    return pe.Network(**{"n_in": 2, "trunk": LAYER, "heads": {"a": head()}, **changes})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_a_name_and_an_object(name: str) -> None:
    by_name = pe.Dense(3, name).activation
    assert by_name.name == name
    assert pe.Dense(3, type(by_name)()) == pe.Dense(3, name)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted_mean"])
def test_every_loss_has_a_name_and_an_object(name: str, reduction: str) -> None:
    by_name = head(loss=name, reduction=reduction).loss
    assert by_name.name == name
    assert head(loss=type(by_name)(reduction=reduction)).loss == by_name


def test_options_reach_the_loss() -> None:
    assert head(loss="huber", delta=0.5).loss == pe.Huber(delta=0.5)
    assert head(loss="softmax_cross_entropy", label_smoothing=0.1).loss == pe.SoftmaxCrossEntropy(label_smoothing=0.1)


def test_dense_defaults_to_linear_with_a_bias() -> None:
    assert pe.Dense(4) == pe.Dense(4, "linear", bias=True)


def test_numpy_integers_are_sizes() -> None:
    net = network(n_in=np.int64(5), trunk=[pe.Dense(np.int32(3))])  # type: ignore[arg-type]
    assert net.init()["trunk.0.weight"].shape == (3, 5)


def test_names_and_shapes_follow_pytorch() -> None:
    net = pe.Network(
        n_in=5,
        trunk=[pe.Dense(7), pe.Dense(4, bias=False)],
        heads={"a": pe.Head([pe.Dense(3)], "mse"), "b": pe.Head([pe.Dense(6), pe.Dense(2, bias=False)], "mae")},
    )
    assert {name: array.shape for name, array in net.init().items()} == {
        "trunk.0.weight": (7, 5),
        "trunk.0.bias": (7,),
        "trunk.1.weight": (4, 7),
        "heads.a.0.weight": (3, 4),
        "heads.a.0.bias": (3,),
        "heads.b.0.weight": (6, 4),
        "heads.b.0.bias": (6,),
        "heads.b.1.weight": (2, 6),
    }


def test_a_network_may_lack_a_trunk() -> None:
    net = network(trunk=[])
    params = net.init(dtype="float64")
    assert list(params) == ["heads.a.0.weight", "heads.a.0.bias"]
    g = net.gradients(params, np.ones((3, 2)), {"a": np.ones((3, 1))})
    assert g.gramian.tolist() == [[0.0]]
    assert np.isnan(g.cosine).all()


def test_heads_keep_their_order() -> None:
    net = network(heads={name: head() for name in "zyxabc"})
    assert list(net.heads) == list("zyxabc")
    assert list(
        net.gradients(net.init(dtype="float64"), np.ones((1, 2)), dict.fromkeys("abcxyz", np.ones((1, 1)))).losses
    ) == list("zyxabc")


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copied_network_computes_the_same(clone: Callable[[pe.Network], pe.Network]) -> None:
    net = network()
    other = clone(net)
    params, x, targets = net.init(dtype="float64"), np.ones((3, 2)), {"a": np.zeros((3, 1))}
    assert other is not net
    assert np.array_equal(
        other.gradients(params, x, targets).summed.flat, net.gradients(params, x, targets).summed.flat
    )


def test_repr_shows_every_part() -> None:
    text = repr(network())
    for part in ("Network", "n_in=2", "Dense(n_out=1", "a: Head", "MSE"):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "argument", "got", "call"),
    [
        (ValueError, "activation", "'reluu'", lambda: pe.Dense(4, "reluu")),
        (TypeError, "activation", "function", lambda: pe.Dense(4, lambda z: z)),  # type: ignore[arg-type]
        (TypeError, "activation", "NoneType", lambda: pe.Dense(4, None)),  # type: ignore[arg-type]
        (ValueError, "n_out", "0", lambda: pe.Dense(0)),
        (ValueError, "n_out", "-3", lambda: pe.Dense(-3)),
        (ValueError, "n_out", "True", lambda: pe.Dense(True)),
        (TypeError, "n_out", "float", lambda: pe.Dense(4.0)),  # type: ignore[arg-type]
        (TypeError, "n_out", "str", lambda: pe.Dense("4")),  # type: ignore[arg-type]
        (ValueError, "LeakyReLU(negative_slope=...)", "nan", lambda: pe.LeakyReLU(float("nan"))),
        (TypeError, "LeakyReLU(negative_slope=...)", "str", lambda: pe.LeakyReLU("0.1")),  # type: ignore[arg-type]
        (ValueError, "ELU(alpha=...)", "inf", lambda: pe.ELU(float("inf"))),
        (ValueError, "loss", "'mze'", lambda: head(loss="mze")),
        (TypeError, "loss", "function", lambda: head(loss=lambda z, y: z - y)),
        (ValueError, "loss", "'delta'", lambda: head(loss="mse", delta=1.0)),
        (ValueError, "loss", "'label_smoothing'", lambda: head(loss="huber", label_smoothing=0.1)),
        (ValueError, "loss", "reduction", lambda: head(loss=pe.MSE(), reduction="sum")),
        (ValueError, "reduction", "'average'", lambda: head(loss="mse", reduction="average")),
        (ValueError, "reduction", "'none'", lambda: pe.MSE(reduction="none")),  # type: ignore[arg-type]
        (ValueError, "label_smoothing", "-0.1", lambda: pe.SoftmaxCrossEntropy(label_smoothing=-0.1)),
        (ValueError, "label_smoothing", "1.5", lambda: pe.ClippedCrossEntropy(label_smoothing=1.5)),
        (ValueError, "label_smoothing", "nan", lambda: pe.SoftmaxCrossEntropy(label_smoothing=float("nan"))),
        (TypeError, "label_smoothing", "str", lambda: pe.SoftmaxCrossEntropy(label_smoothing="0.1")),  # type: ignore[arg-type]
        (ValueError, "delta", "0", lambda: pe.Huber(delta=0.0)),
        (ValueError, "delta", "-1", lambda: pe.Huber(delta=-1.0)),
        (ValueError, "delta", "inf", lambda: pe.Huber(delta=float("inf"))),
        (ValueError, "delta", "nan", lambda: pe.Huber(delta=float("nan"))),
        (TypeError, "delta", "str", lambda: pe.Huber(delta="1")),  # type: ignore[arg-type]
        (ValueError, "weight", "nan", lambda: head(weight=float("nan"))),
        (ValueError, "weight", "inf", lambda: head(weight=float("inf"))),
        (ValueError, "weight", "'heavy'", lambda: head(weight="heavy")),
        (ValueError, "weight", "None", lambda: head(weight=None)),
        (ValueError, "layers", "empty", lambda: head(layers=[])),
        (TypeError, "layers", "Dense", lambda: head(layers=pe.Dense(1))),
        (TypeError, "layers", "NoneType", lambda: head(layers=None)),
        (TypeError, "layers[1]", "int", lambda: head(layers=[pe.Dense(1), 3])),
        (TypeError, "trunk", "Dense", lambda: network(trunk=pe.Dense(1))),
        (TypeError, "trunk[0]", "Head", lambda: network(trunk=[head()])),
        (ValueError, "n_in", "0", lambda: network(n_in=0)),
        (TypeError, "n_in", "float", lambda: network(n_in=2.5)),
        (TypeError, "heads", "list", lambda: network(heads=[head()])),
        (ValueError, "heads", "empty", lambda: network(heads={})),
        (ValueError, "heads", "'a.b'", lambda: network(heads={"a.b": head()})),
        (ValueError, "heads", "''", lambda: network(heads={"": head()})),
        (ValueError, "heads", "3", lambda: network(heads={3: head()})),
        (TypeError, "heads['a']", "Dense", lambda: network(heads={"a": pe.Dense(1)})),
    ],
)
def test_a_wrong_part_fails(kind: type[Exception], argument: str, got: str, call: Callable[[], object]) -> None:
    refused(call, kind, argument, got)

"""Losses whose derivative jumps: an output within rounding of the jump may be on either side, others may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyengine as pe

Gradient = dict[str, np.ndarray[Any, Any]]
SAMPLE, CLASS = 3, 4


def network(loss: str) -> pe.Network:
    return pe.Network(6, [pe.Dense(12, "tanh")], {"a": pe.Head([pe.Dense(5)], loss)})


def numbers(net: pe.Network) -> tuple[pe.Parameters, np.ndarray[Any, Any]]:
    return net.init(seed=1), np.random.default_rng(2).standard_normal((8, 6)).astype("float32")


def outputs(net: pe.Network, params: pe.Parameters, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = net.parameters({name: value.astype("float64") for name, value in params.items()})
    return np.asarray(net.forward(wide, x.astype("float64"))["a"])


def at_the_clip(
    probability: float,
) -> tuple[pe.Parameters, np.ndarray[Any, Any], np.ndarray[Any, Any], Gradient, Gradient]:
    """A problem where one sample gives its class that probability, and its gradients inside the clip and beyond it.

    Inside, the clipped cross-entropy is the plain one; beyond, the derivative of the sample is 0.
    """
    net = network("softmax_cross_entropy")
    params, x = numbers(net)
    z = outputs(net, params, x)[SAMPLE]
    others = np.log(np.exp(np.delete(z, CLASS)).sum())
    params["heads.a.0.bias"][CLASS] += np.float32(others + np.log(probability / (1.0 - probability)) - z[CLASS])
    y = np.eye(5, dtype="float32")[np.arange(8) % 4]
    y[SAMPLE] = np.eye(5)[CLASS]
    nothing = y.copy()
    nothing[SAMPLE] = 0.0
    inside, beyond = (dict(net.summed_gradient(params, x, {"a": rows})) for rows in (y, nothing))
    return params, x, y, inside, beyond


def verdict(params: pe.Parameters, x: Any, y: Any, gradient: Gradient, loss: str = "clipped_cross_entropy") -> Any:
    return pe.verify_gradients(network(loss), params, x, {"a": y}, summed=gradient)


def between(share: float, inside: Gradient, beyond: Gradient) -> Gradient:
    return {name: (share * inside[name] + (1.0 - share) * beyond[name]).astype("float32") for name in inside}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_probability_at_the_clip_may_be_on_either_side_or_halfway(share: float) -> None:
    *given, inside, beyond = at_the_clip(1e-7)
    report = verdict(*given, between(share, inside, beyond))
    assert report.verdict == "CONSISTENT"
    flips = report.findings[0].flips
    assert {(f.layer, f.sample, f.unit) for f in flips} <= {("the loss of a", SAMPLE, CLASS)}
    assert not report.findings[0].replayed


def test_both_sides_of_the_clip_need_a_flip_between_them() -> None:
    *given, inside, beyond = at_the_clip(1e-7)
    shares = [
        [flip.share for flip in verdict(*given, between(s, inside, beyond)).findings[0].flips] for s in (0.0, 0.5, 1.0)
    ]
    assert sorted(map(str, shares)) == sorted(map(str, [[], [0.5], [1.0]]))


@pytest.mark.parametrize("share", [0.25, 0.9, 1.1])
def test_a_share_that_no_convention_has_at_the_clip_is_caught(share: float) -> None:
    *given, inside, beyond = at_the_clip(1e-7)
    assert verdict(*given, between(share, inside, beyond)).verdict == "INCONSISTENT"


@pytest.mark.parametrize("probability", [1.01e-7, 1e-6])
def test_a_probability_inside_the_clip_that_is_taken_beyond_is_caught(probability: float) -> None:
    *given, inside, beyond = at_the_clip(probability)
    assert verdict(*given, inside).verdict == "CONSISTENT"
    assert verdict(*given, beyond).verdict == "INCONSISTENT"


def at_the_clip_of_a_sigmoid(z: float, right: float) -> tuple[Any, ...]:
    """The same for one output of a sigmoid; ``right`` is its target. Beyond the clip its derivative is 0."""
    net = network("binary_cross_entropy")
    params, x = numbers(net)
    params["heads.a.0.bias"][CLASS] += np.float32(z - outputs(net, params, x)[SAMPLE, CLASS])
    nothing = np.full((8, 5), 0.5, "float32")
    # The bias moves that output of every sample: the others have their targets already.
    nothing[:, CLASS] = 1.0 / (1.0 + np.exp(-outputs(net, params, x)[:, CLASS]))
    y = nothing.copy()
    y[SAMPLE, CLASS] = right
    inside, beyond = (dict(net.summed_gradient(params, x, {"a": rows})) for rows in (y, nothing))
    return params, x, y, inside, beyond


CLIPPED = "clipped_binary_cross_entropy"
ENDS = [(float(np.log(1e-7)), 1.0), (float(np.log(2.0**23)), 0.0)]


@pytest.mark.parametrize(("z", "right"), ENDS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_output_at_the_clip_of_a_sigmoid_may_be_on_either_side_or_halfway(
    z: float, right: float, share: float
) -> None:
    *given, inside, beyond = at_the_clip_of_a_sigmoid(z, right)
    report = verdict(*given, between(share, inside, beyond), CLIPPED)
    assert report.verdict == "CONSISTENT", report
    flips = report.findings[0].flips
    assert {(f.layer, f.sample, f.unit) for f in flips} <= {("the loss of a", SAMPLE, CLASS)}


@pytest.mark.parametrize(("z", "right"), ENDS)
@pytest.mark.parametrize("share", [0.25, 0.9, 1.1])
def test_a_share_that_no_convention_has_at_the_clip_of_a_sigmoid_is_caught(
    z: float, right: float, share: float
) -> None:
    *given, inside, beyond = at_the_clip_of_a_sigmoid(z, right)
    assert verdict(*given, between(share, inside, beyond), CLIPPED).verdict == "INCONSISTENT"


@pytest.mark.parametrize(("z", "right"), [(-14.0, 1.0), (13.0, 0.0)])
def test_an_output_within_the_clip_of_a_sigmoid_that_is_taken_beyond_is_caught(z: float, right: float) -> None:
    *given, inside, beyond = at_the_clip_of_a_sigmoid(z, right)
    assert verdict(*given, inside, CLIPPED).verdict == "CONSISTENT"
    assert verdict(*given, beyond, CLIPPED).verdict == "INCONSISTENT"


@pytest.mark.parametrize(("z", "right"), [(-20.0, 1.0), (20.0, 0.0), (100.0, 0.0)])
def test_an_output_beyond_the_clip_of_a_sigmoid_that_is_taken_within_is_caught(z: float, right: float) -> None:
    params, x, y, inside, _ = at_the_clip_of_a_sigmoid(z, right)
    own = dict(network(CLIPPED).summed_gradient(params, x, {"a": y}))
    assert verdict(params, x, y, own, CLIPPED).verdict == "CONSISTENT"
    assert verdict(params, x, y, inside, CLIPPED).verdict == "INCONSISTENT"


@pytest.mark.parametrize(("distance", "expected"), [(0.0, "CONSISTENT"), (1e-4, "INCONSISTENT")])
def test_an_absolute_error_near_zero_may_have_either_sign(distance: float, expected: str) -> None:
    net = network("mae")
    params, x = numbers(net)
    z = outputs(net, params, x)
    y = (z + np.where(np.arange(40).reshape(8, 5) % 2, 0.3, -0.3)).astype("float32")
    y[SAMPLE, CLASS] = np.float32(z[SAMPLE, CLASS] + distance)
    for side in (0.1, -0.1):
        moved = y.copy()
        moved[SAMPLE, CLASS] += np.float32(side)
        found = verdict(params, x, y, dict(net.summed_gradient(params, x, {"a": moved})), "mae")
        assert found.verdict == ("CONSISTENT" if side > 0.0 else expected)

"""How others judge a gradient, with the defaults that they come with.

Those that compare get the float64 gradient beside the one that is judged. Those that differentiate get a program: the
total loss that it computes and the gradient that it computes, at any parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Program = Callable[[Array], tuple[float, Array]]
"""From flat parameters to the total loss and its flat gradient."""


def numpy_allclose(actual: Array, expected: Array) -> bool:
    """The defaults of ``numpy.allclose``: rtol 1e-5, atol 1e-8."""
    compare: Any = np.allclose
    return bool(compare(actual, expected))


def torch_assert_close(actual: Array, expected: Array) -> bool:
    """The defaults of ``torch.testing.assert_close`` for float32: rtol 1.3e-6, atol 1e-5."""
    import torch

    try:
        torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected.astype(actual.dtype)))
    except AssertionError:
        return False
    return True


def thousandth(actual: Array, expected: Array) -> bool:
    """rtol 1e-3, atol 1e-5: what many test suites write."""
    return bool((np.abs(actual - expected) <= 1e-5 + 1e-3 * np.abs(expected)).all())


COMPARING: dict[str, Callable[[Array, Array], bool]] = {
    "numpy.allclose": numpy_allclose,
    "torch assert_close": torch_assert_close,
    "1e-3 / 1e-5": thousandth,
}


def accepted(judge: Callable[[Array, Array], bool], actual: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Whether every tensor passes."""
    return all(judge(np.asarray(value), np.asarray(expected[name])) for name, value in actual.items())


def gradcheck(program: Program, flat: Array, *, fast: bool = False) -> bool:
    """``torch.autograd.gradcheck`` with its defaults: eps 1e-6, rtol 1e-3, atol 1e-5."""
    import torch

    class Total(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, parameters: Any) -> Any:
            loss, gradient = program(parameters.detach().numpy())
            ctx.save_for_backward(torch.tensor(gradient))
            return parameters.new_tensor(loss)

        @staticmethod
        def backward(ctx: Any, back: Any) -> Any:
            return back * ctx.saved_tensors[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that float32 is not enough
        return bool(
            torch.autograd.gradcheck(
                Total.apply, (torch.tensor(flat, requires_grad=True),), fast_mode=fast, raise_exception=False
            )
        )


def check_grads(program: Program, flat: Array) -> bool:
    """``jax.test_util.check_grads`` with its defaults, reverse mode, first order."""
    import jax
    from jax.test_util import check_grads as check

    dtype = flat.dtype
    shapes = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct(flat.shape, dtype)

    def both(parameters: Any) -> Any:
        loss, gradient = program(np.asarray(parameters))
        return np.asarray(loss, dtype), np.asarray(gradient, dtype)

    @jax.custom_vjp
    def total(parameters: Any) -> Any:
        return jax.pure_callback(both, shapes, parameters)[0]

    total.defvjp(lambda p: jax.pure_callback(both, shapes, p), lambda gradient, back: (back * gradient,))
    with jax.enable_x64(dtype == np.float64):
        try:
            check(total, (jax.numpy.asarray(flat),), order=1, modes=["rev"])
        except AssertionError:
            return False
    return True


DIFFERENTIATING: dict[str, tuple[str, Callable[[Program, Array], bool]]] = {
    "gradcheck float64": ("float64", gradcheck),
    "gradcheck fast": ("float64", lambda program, flat: gradcheck(program, flat, fast=True)),
    "gradcheck float32": ("float32", gradcheck),
    "check_grads float64": ("float64", check_grads),
    "check_grads float32": ("float32", check_grads),
}
"""By name, with the dtype in which the program runs."""

"""Faults of single numbers: scales, offsets, noise, bits, and arithmetic that is narrower than it claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parameters import Array
from .cases import Case
from .fault import Fault, finished, narrow, scaled, tampered

Gradient = dict[str, Array]


def _every_scaled(case: Case, g: Gradient, size: float) -> Gradient:
    return {name: scaled(value, 1.0 + size) for name, value in g.items()}


def _one_row(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    wrong = value.copy()
    wrong[len(wrong) // 3] = scaled(wrong[len(wrong) // 3], 1.0 + size)
    return wrong


def _one_column(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.ascontiguousarray(_one_row(np.ascontiguousarray(value.T), operands, size).T)


def _one_element(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """The largest element, off by a relative amount."""
    wrong = value.copy()
    at = np.unravel_index(np.abs(value).argmax(), value.shape)
    wrong[at] = scaled(value[at], 1.0 + size)
    return wrong


def _one_bit(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """One bit of the largest element's significand is flipped: the bit that is worth about ``size``."""
    wrong = value.copy()
    at = np.unravel_index(np.abs(value).argmax(), value.shape)
    integer = {4: np.uint32, 8: np.uint64}[value.dtype.itemsize]
    bit = max(0, np.finfo(value.dtype).nmant + int(np.floor(np.log2(size))))
    wrong.view(integer)[at] ^= integer(1 << bit)
    return wrong


def _offset(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """The same small number is added everywhere."""
    return np.asarray(value.astype(np.float64) + size * float(np.sqrt(np.mean(value.astype(np.float64) ** 2))))


def _noise(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    rng = np.random.default_rng(value.size)
    return np.asarray(value.astype(np.float64) * (1.0 + size * rng.standard_normal(value.shape)))


def _put(number: float) -> Any:
    def change(value: Array, operands: tuple[Array, ...], size: float) -> Array:
        wrong = value.copy()
        wrong.flat[-1] = number
        return wrong

    return change


def _towards_zero(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """The product in float64, cut off where it should have been rounded."""
    exact = operands[0].T.astype(np.float64) @ operands[1].astype(np.float64)
    near = exact.astype(value.dtype)
    return np.where(np.abs(near.astype(np.float64)) > np.abs(exact), np.nextafter(near, value.dtype.type(0)), near)


def _scale(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return scaled(value, 1.0 + size)


def _product_in(bits: int) -> Any:
    """A product whose operands were rounded to so many bits; the first is transposed in gradients."""

    def change(value: Array, operands: tuple[Array, ...], size: float) -> Array:
        a, b = (narrow(operand, bits) for operand in operands[:2])
        if value.shape == (a.shape[0], b.shape[0]):  # z = h·Wᵀ + b
            return a @ b.T + (operands[2] if len(operands) > 2 else 0)
        return a.T @ b if value.shape == (a.shape[1], b.shape[1]) else a @ b

    return change


def _rounded_to(bits: int) -> Any:
    return lambda value, operands, size: narrow(value, bits)


W, B = "trunk.0.weight", "trunk.0.bias"


def _scales() -> list[Fault]:
    found = [
        Fault(
            f"gradient scaled, {size}",
            f"every tensor of the summed gradient times 1 + ε, on the network {size}",
            finished(_every_scaled),
            {"staged A": 1e-6 if size == "tiny" else 3e-7,
             "black-box": 1e-5 if size == "tiny" else 1e-6, "combination": 1e-4},
            size, True, "summed.gradient", {"combination": "scaled"},
        )
        for size in ("tiny", "small", "medium", "large")
    ]  # fmt: skip
    found.append(
        Fault("per-loss gradient scaled", "every tensor of one per-loss gradient times 1 + ε",
              finished(_every_scaled, "a"), {"staged A": 3e-7, "black-box": 1e-6}, "small", True,
              "per_loss['a'].gradient")
    )  # fmt: skip
    for key, staged, blackbox in (
        ("trunk.0.weight", 3e-7, 1e-5), ("trunk.1.weight", 3e-7, 1e-5), ("trunk.0.bias", 3e-6, 1e-5),
        ("heads.a.0.weight", 1e-6, 1e-5), ("heads.b.0.bias", 3e-6, 1e-5),
    ):  # fmt: skip
        found.append(
            Fault(f"{key} scaled", f"the gradient of {key} alone times 1 + ε",
                  tampered("gradient", key, _scale, "summed"), {"staged": staged, "black-box": blackbox},
                  "small", True, f"summed.gradient['{key}']")
        )  # fmt: skip
    for part, key, does in (
        ("z", "trunk.1", "a pre-activation times 1 + ε"),
        ("dh", "trunk.0", "a gradient on its way down times 1 + ε"),
        ("dh", "heads.a.0", "a loss times 1 + ε: its derivative by the outputs"),
    ):
        where = f"z['{key}']" if part == "z" else f"per_loss['a'].dh['{key}']"
        found.append(Fault(f"{part} of {key} scaled", does, tampered(part, key, _scale),
                           {"staged": 3e-6 if key == "heads.a.0" else 1e-6, "black-box": 1e-4},
                           "small", True, where))  # fmt: skip
    return found


FAULTS = [
    *_scales(),
    Fault("row scaled", "the gradient of one unit's weights times 1 + ε", tampered("gradient", W, _one_row, "summed"),
          {"staged A": 3e-6, "black-box": 1e-3}, "small", True, f"summed.gradient['{W}']"),
    Fault("column scaled", "the gradient of all weights of one input times 1 + ε",
          tampered("gradient", W, _one_column, "summed"), {"staged A": 3e-6, "black-box": 1e-3}, "small", True,
          f"summed.gradient['{W}']"),
    Fault("element off", "one element of a gradient times 1 + ε", tampered("gradient", W, _one_element, "summed"),
          {"staged": 1e-4, "black-box": 1e-4}, "small", True, f"summed.gradient['{W}']"),
    Fault("bit flipped", "one bit of one element of a gradient flipped, worth ε of it",
          tampered("gradient", W, _one_bit, "summed"), {"staged": 1e-4, "black-box": 1e-4}, "small", True,
          f"summed.gradient['{W}']"),
    Fault("bit flipped in z", "one bit of one pre-activation flipped, worth ε of it",
          tampered("z", "trunk.0", _one_bit), {"staged": 1e-4}, "small", True, "z['trunk.0']"),
    Fault("offset", "a constant ε times the root mean square added to a gradient",
          tampered("gradient", W, _offset, "summed"), {"staged": 1e-4, "black-box": 1e-2}, "small", True,
          f"summed.gradient['{W}']"),
    Fault("noise", "every element of a gradient off by a random relative ε",
          tampered("gradient", W, _noise, "summed"), {"staged": 1e-5, "black-box": 1e-4}, "small", True,
          f"summed.gradient['{W}']"),
    Fault("NaN", "one element of a gradient is not a number", tampered("gradient", W, _put(np.nan), "summed"),
          {"staged R": 1.0, "black-box": 1.0}, where=f"summed.gradient['{W}']"),
    Fault("infinity", "one element of a gradient is infinite", tampered("gradient", B, _put(np.inf), "summed"),
          {"staged R": 1.0, "black-box": 1.0}, where=f"summed.gradient['{B}']"),
    Fault("NaN on the way", "one element of ∂L/∂z is not a number", tampered("dz", "trunk.1", _put(np.nan), "summed"),
          {"staged R": 1.0, "black-box": 1.0}, where="summed.dz['trunk.1']"),
    Fault("bfloat16 product, weights", "a weight gradient multiplied in bfloat16",
          tampered("gradient", W, _product_in(8)), {"staged R": 1.0, "black-box": 1.0},
          where=f"per_loss['a'].gradient['{W}']"),
    Fault("bfloat16 product, inputs", "an input gradient multiplied in bfloat16",
          tampered("dh", "trunk.0", _product_in(8)), {"staged R": 1.0, "black-box": 1.0},
          where="per_loss['a'].dh['trunk.0']"),
    Fault("bfloat16 product, forward", "a forward product in bfloat16", tampered("z", "trunk.0", _product_in(8)),
          {"staged R": 1.0, "black-box": 1.0}, where="z['trunk.0']"),
    Fault("TF32 product, weights", "a weight gradient multiplied in TF32", tampered("gradient", W, _product_in(11)),
          {"staged R": 1.0, "black-box": 1.0}, where=f"per_loss['a'].gradient['{W}']"),
    Fault("TF32 product, forward", "a forward product in TF32", tampered("z", "trunk.1", _product_in(11)),
          {"staged R": 1.0, "black-box": 1.0}, where="z['trunk.1']"),
    Fault("activations stored in bfloat16", "a layer's output rounded to bfloat16",
          tampered("h", "trunk.0", _rounded_to(8)), {"staged R": 1.0, "black-box": 1.0}, where="h['trunk.0']"),
    Fault("gradient reduced in float16", "a weight gradient rounded to 11 bits, as an all-reduce in float16 does",
          tampered("gradient", W, _rounded_to(11)), {"staged R": 1.0, "black-box": 1.0},
          where=f"per_loss['a'].gradient['{W}']"),
    Fault("bias gradient in bfloat16", "a bias gradient rounded to bfloat16", tampered("gradient", B, _rounded_to(8)),
          {"staged R": 1.0, "black-box": 1.0}, where=f"per_loss['a'].gradient['{B}']"),
    Fault("rounded towards zero", "a product cut off instead of rounded: below what rounding may do",
          tampered("gradient", W, _towards_zero, "summed"), {}),
]  # fmt: skip

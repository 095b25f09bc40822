"""Minimax coefficients of csrc/ops/math.inl.hpp, by Remez's exchange in mpmath: python tools/fit_elementary.py

Each polynomial is fitted with real coefficients, which are then rounded to the format one after the other, the later
ones making up for the rounding of the earlier. Printed as C++ hexadecimal literals, with the
largest weighted error that is left, which is relative to the function that the polynomial serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpmath import mp, mpf

mp.dps = 60
Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Fit:
    """``weight`` turns an error of the polynomial into a relative error of the function."""

    name: str
    function: Function
    weight: Function
    low: mpf
    high: mpf
    bits: int  # of the format
    terms: int
    split: bool = False  # the constant term is the sum of two numbers, the smaller printed first


def value(coefficients: list[mpf], x: mpf) -> mpf:
    return mp.polyval(coefficients[::-1], x)


def solve(points: list[tuple[mpf, mpf, mpf]], terms: int) -> list[mpf]:
    """The coefficients whose weighted error equioscillates on the points (x, f(x), weight)."""
    a, b = mp.matrix(terms + 1, terms + 1), mp.matrix(terms + 1, 1)
    for i, (x, y, w) in enumerate(points):
        for k in range(terms):
            a[i, k] = x**k
        a[i, terms] = (-1) ** i / w
        b[i] = y
    return list(mp.lu_solve(a, b))[:terms]


def remez(grid: list[tuple[mpf, mpf, mpf]], terms: int) -> list[mpf]:
    """Exchange over a grid of (x, f(x), weight)."""
    chosen = [round(i * (len(grid) - 1) / terms) for i in range(terms + 1)]
    for _ in range(20):
        coefficients = solve([grid[i] for i in chosen], terms)
        errors = [w * (value(coefficients, x) - y) for x, y, w in grid]
        peaks: list[int] = []
        for i, e in enumerate(errors):
            if not peaks or mp.sign(errors[peaks[-1]]) != mp.sign(e):
                peaks.append(i)
            elif abs(e) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        while len(peaks) > terms + 1:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < terms + 1 or peaks == chosen:
            break
        chosen = peaks
    return coefficients


def absorb(grid: list[tuple[mpf, mpf, mpf]], error: mpf, power: int, terms: int) -> list[mpf]:
    """error·x^power by the powers above it, in weighted least squares."""
    powers = range(power + 1, terms)
    a, b = mp.matrix(len(powers), len(powers)), mp.matrix(len(powers), 1)
    for i, m in enumerate(powers):
        for j, n in enumerate(powers):
            a[i, j] = mp.fsum(w * w * x ** (m + n) for x, _, w in grid)
        b[i] = error * mp.fsum(w * w * x ** (m + power) for x, _, w in grid)
    return list(mp.lu_solve(a, b))


def rounded(x: mpf, bits: int) -> mpf:
    with mp.workprec(bits):
        return +x


def fit(task: Fit) -> tuple[list[mpf], mpf]:
    terms, bits = task.terms, task.bits
    count = 24 * terms
    middle, half = (task.high + task.low) / 2, (task.high - task.low) / 2
    # Chebyshev points, none of them an end: the functions are quotients that have limits there.
    xs = [middle - half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    grid = [(x, task.function(x), task.weight(x)) for x in xs]
    coefficients = remez(grid, terms)
    for k in range(1 if task.split else 0, terms):
        exact, coefficients[k] = coefficients[k], rounded(coefficients[k], bits)
        if k < min(terms - 1, 5):
            for i, more in enumerate(absorb(grid, exact - coefficients[k], k, terms)):
                coefficients[k + 1 + i] += more
    return coefficients, max(abs(w * (value(coefficients, x) - y)) for x, y, w in grid)


def literal(c: mpf, bits: int) -> str:
    mantissa, exponent = float(c).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}{'f' if bits == 24 else ''}"


CUT = mpf("0.75")  # between the two ways to erfc


def scaled_erfc(x: mpf) -> mpf:
    return mp.exp(x * x) * mp.erfc(x)


def erfc(bits: int, terms: int, pole: int, high: str) -> Fit:
    """w = (x - pole)/(x + pole) takes 0..∞ to -1..1; beyond ``high`` even the smallest subnormal is too large."""
    near = (CUT - pole) / (CUT + pole)

    def numerator(w: mpf) -> mpf:
        x = pole * (1 + w) / (1 - w)
        return scaled_erfc(x) * (1 + 2 * x)

    far = (mpf(high) - pole) / (mpf(high) + pole)
    name = f"erfc: e^(x²)·erfc(x)·(1 + 2x), of (x - {pole})/(x + {pole})"
    return Fit(name, numerator, lambda w: 1 / numerator(w), near, far, bits, terms, split=True)


def exp(bits: int, terms: int) -> Fit:
    reach = mp.log(2) / 2 * mpf("1.001")
    return Fit(
        "exp: (e^r - 1 - r)/r²",
        lambda r: (mp.expm1(r) - r) / r**2,
        lambda r: abs(r**2 / mp.expm1(r)),
        -reach,
        reach,
        bits,
        terms,
    )


def log(bits: int, terms: int) -> Fit:
    """s = f/(2 + f) for 1 + f between sqrt(1/2) and sqrt(2)."""
    widest = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mpf("1.0001")
    return Fit(
        "log: (log(1 + f) - 2s)/s³, of s²",
        lambda z: (2 * mp.atanh(mp.sqrt(z)) - 2 * mp.sqrt(z)) / mp.sqrt(z) ** 3,
        lambda z: z / 2,
        mpf(0),
        widest,
        bits,
        terms,
    )


def erf(bits: int, terms: int) -> Fit:
    """Serves erfc(x) = (1 - x) - x·Q(x²)."""

    def excess(z: mpf) -> mpf:
        return mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1

    name = f"erf: erf(x)/x - 1, of x², |x| < {CUT}"
    return Fit(name, excess, lambda z: mp.sqrt(z) / mp.erfc(mp.sqrt(z)), mpf(0), CUT**2, bits, terms)


FITS = [
    exp(24, 6),
    exp(53, 11),
    log(24, 4),
    log(53, 7),
    erf(24, 6),
    erf(53, 11),
    erfc(24, 11, 3, "10.1"),
    erfc(53, 23, 4, "27.3"),
]


def main() -> None:
    for task in FITS:
        coefficients, error = fit(task)
        if task.split:
            high = rounded(coefficients[0], task.bits)
            coefficients[:1] = [rounded(coefficients[0] - high, task.bits), high]
        print(f"{task.name}, {task.bits} bits, relative error 2^{float(mp.log(error, 2)):.1f}")
        print("  " + ",\n  ".join(literal(c, task.bits) for c in coefficients))


if __name__ == "__main__":
    main()

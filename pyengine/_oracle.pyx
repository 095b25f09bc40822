# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The oracle's loops: dense layers, activations and losses in double-double arithmetic.

A double-double array is a float64 array with a first axis of two: the high parts, then the low parts. pyengine/oracle.py
validates, and puts these operations together into a network.
"""

import numpy as np

from libc.math cimport fabs
from pyengine._dd cimport (
    add, add_d, at_most, dd, div, fast_two_sum, magnitude, mul, mul_d, neg, pair, scale, sign, sub, two_sum, upper_half,
)
from pyengine._dd_functions cimport (
    exp, expm1, log, log1p, normal_density, normal_distribution, sigmoid, sigmoid_slope, softplus, tanh,
)

cdef enum Activation:
    LINEAR, RELU, LEAKY_RELU, ELU, TANH, SIGMOID, SOFTPLUS, SILU, GELU, GELU_TANH

cdef enum Loss:
    SOFTMAX_CROSS_ENTROPY, CLIPPED_CROSS_ENTROPY, BINARY_CROSS_ENTROPY, CLIPPED_BINARY_CROSS_ENTROPY, MSE, MAE, HUBER

cdef dict ACTIVATIONS = {
    "linear": LINEAR, "relu": RELU, "leaky_relu": LEAKY_RELU, "elu": ELU, "tanh": TANH, "sigmoid": SIGMOID,
    "softplus": SOFTPLUS, "silu": SILU, "gelu": GELU, "gelu_tanh": GELU_TANH,
}
cdef dict LOSSES = {
    "softmax_cross_entropy": SOFTMAX_CROSS_ENTROPY, "clipped_cross_entropy": CLIPPED_CROSS_ENTROPY,
    "binary_cross_entropy": BINARY_CROSS_ENTROPY, "clipped_binary_cross_entropy": CLIPPED_BINARY_CROSS_ENTROPY,
    "mse": MSE, "mae": MAE, "huber": HUBER,
}


cdef inline dd get(double[:, ::1] a, Py_ssize_t i) noexcept nogil:
    return pair(a[0, i], a[1, i])


cdef inline void put(double[:, ::1] a, Py_ssize_t i, dd value) noexcept nogil:
    a[0, i] = value.hi
    a[1, i] = value.lo


# ---------------------------------------------------------------------------------------------------- dense layers


cdef void add_multiple(
    Py_ssize_t n, dd a, const double* b, const double* b_low, double* c, double* c_low
) noexcept nogil:
    # c += a·b over n numbers, b_low NULL where b is a vector of doubles. This loop is where the time goes: it has no branch
    # and no dependence between its steps, so that the compiler can use vectors. The error of one step is below
    # u²·(4|c| + 8|a·b|), of n steps below (4n + 16)·u²·Σ|a·b|.
    cdef double a1 = upper_half(a.hi)
    cdef double a2 = a.hi - a1
    cdef double p, e, b1, b2
    cdef dd s
    cdef Py_ssize_t j
    if b_low == NULL:
        for j in range(n):
            p = a.hi * b[j]
            b1 = upper_half(b[j])
            b2 = b[j] - b1
            e = (((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2) + a.lo * b[j]
            s = two_sum(c[j], p)
            s = fast_two_sum(s.hi, s.lo + (c_low[j] + e))
            c[j] = s.hi
            c_low[j] = s.lo
    else:
        for j in range(n):
            p = a.hi * b[j]
            b1 = upper_half(b[j])
            b2 = b[j] - b1
            e = (((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2) + (a.hi * b_low[j] + a.lo * b[j])
            s = two_sum(c[j], p)
            s = fast_two_sum(s.hi, s.lo + (c_low[j] + e))
            c[j] = s.hi
            c_low[j] = s.lo


def dense_forward(const double[:, :, ::1] h, const double[:, ::1] w_transposed, const double[::1] bias):
    """z = h·Wᵀ + b: h (2, batch, n_in), W transposed to (n_in, n_out), b (n_out,) or None, z (2, batch, n_out)."""
    cdef Py_ssize_t batch = h.shape[1], n_in = h.shape[2], n_out = w_transposed.shape[1], i, k
    result = np.zeros((2, batch, n_out))
    cdef double[:, :, ::1] z = result
    if bias is not None:
        result[0] = bias
    with nogil:
        for k in range(n_in):
            for i in range(batch):
                add_multiple(n_out, pair(h[0, i, k], h[1, i, k]), &w_transposed[k, 0], NULL, &z[0, i, 0], &z[1, i, 0])
    return result


def dense_backward(const double[:, :, ::1] dz, const double[:, :, ::1] h):
    """dW = dzᵀ·h and db = Σ dz over the batch: dz (2, batch, n_out), h (2, batch, n_in)."""
    cdef Py_ssize_t batch = h.shape[1], n_in = h.shape[2], n_out = dz.shape[2], i, o
    weight = np.zeros((2, n_out, n_in))
    bias = np.zeros((2, n_out))
    cdef double[:, :, ::1] dw = weight
    cdef double[:, ::1] db = bias
    with nogil:
        for o in range(n_out):
            for i in range(batch):
                add_multiple(n_in, pair(dz[0, i, o], dz[1, i, o]), &h[0, i, 0], &h[1, i, 0], &dw[0, o, 0], &dw[1, o, 0])
                put(db, o, add(get(db, o), pair(dz[0, i, o], dz[1, i, o])))
    return weight, bias


def dense_backward_input(const double[:, :, ::1] dz, const double[:, ::1] w):
    """dh = dz·W: dz (2, batch, n_out), W (n_out, n_in), dh (2, batch, n_in)."""
    cdef Py_ssize_t batch = dz.shape[1], n_in = w.shape[1], n_out = dz.shape[2], i, o
    result = np.zeros((2, batch, n_in))
    cdef double[:, :, ::1] dh = result
    with nogil:
        for o in range(n_out):
            for i in range(batch):
                add_multiple(n_in, pair(dz[0, i, o], dz[1, i, o]), &w[o, 0], NULL, &dh[0, i, 0], &dh[1, i, 0])
    return result


# ----------------------------------------------------------------------------------------------------- activations


cdef inline dd gelu_tanh_argument(dd z) noexcept nogil:
    # 2·√(2/π)·(z + 0.044715·z³), so that 1 + tanh(half of it) = 2·sigmoid(it).
    cdef dd cubic = add_d(mul(mul(z, z), pair(0.044715, 2.1960211427085595e-18)), 1.0)
    return mul(mul(z, cubic), pair(1.5957691216057308, -9.96930880911092e-17))


cdef dd activate(Activation kind, dd slope, dd z) noexcept nogil:
    cdef bint positive = not z.hi <= 0.0  # true for NaN, which then propagates
    if kind == LINEAR:
        return z
    if kind == RELU:
        return z if positive else pair(0.0, 0.0)
    if kind == LEAKY_RELU:
        return z if positive else mul(z, slope)
    if kind == ELU:
        return z if positive else mul(slope, expm1(z))
    if kind == TANH:
        return tanh(z)
    if kind == SIGMOID:
        return sigmoid(z)
    if kind == SOFTPLUS:
        return softplus(z)
    if kind == SILU:
        return mul(z, sigmoid(z))
    if kind == GELU:
        return mul(z, normal_distribution(z))
    if fabs(z.hi) > 40.0:  # the sigmoid is 0 or 1 to more digits than there are, and z³ may overflow
        return z if positive else pair(0.0, 0.0)
    return mul(z, sigmoid(gelu_tanh_argument(z)))


cdef dd activation_slope(Activation kind, dd slope, dd z) noexcept nogil:
    cdef bint positive = not z.hi <= 0.0
    cdef dd s, t
    if kind == LINEAR:
        return pair(1.0, 0.0)
    if kind == RELU:
        return pair(1.0 if positive else 0.0, 0.0)
    if kind == LEAKY_RELU:
        return pair(1.0, 0.0) if positive else slope
    if kind == ELU:
        return pair(1.0, 0.0) if positive else mul(slope, exp(z))
    if kind == TANH:
        return scale(sigmoid_slope(scale(z, 2.0)), 4.0)
    if kind == SIGMOID:
        return sigmoid_slope(z)
    if kind == SOFTPLUS:
        return sigmoid(z)
    if kind == SILU:
        return add(sigmoid(z), mul(z, sigmoid_slope(z)))
    if kind == GELU:
        return add(normal_distribution(z), mul(z, normal_density(z)))
    if fabs(z.hi) > 40.0:
        return pair(1.0 if positive else 0.0, 0.0)
    s = gelu_tanh_argument(z)
    t = add_d(mul(mul(z, z), mul_d(pair(0.044715, 2.1960211427085595e-18), 3.0)), 1.0)
    t = mul(mul(z, t), pair(1.5957691216057308, -9.96930880911092e-17))
    return add(sigmoid(s), mul(t, sigmoid_slope(s)))


def activation(str name, double slope, double[:, ::1] z):
    """h = f(z) and f'(z), both (2, n)."""
    cdef Activation kind = ACTIVATIONS[name]
    cdef Py_ssize_t n = z.shape[1], i
    value = np.empty((2, n))
    derivative = np.empty((2, n))
    cdef double[:, ::1] h = value, dh = derivative
    with nogil:
        for i in range(n):
            put(h, i, activate(kind, pair(slope, 0.0), get(z, i)))
            put(dh, i, activation_slope(kind, pair(slope, 0.0), get(z, i)))
    return value, derivative


# ---------------------------------------------------------------------------------------------------------- losses


cdef dd softmax_row(
    bint clipped, dd low, dd high, Py_ssize_t n, const double* z, const double* z_low, const double* y, const double* y_low,
    double* dz, double* dz_low
) noexcept nogil:
    # The loss -Σ y·log p and its gradient with p = softmax(z), or with p clipped to [low, high].
    cdef Py_ssize_t j, top = 0
    cdef dd shift, others = pair(0.0, 0.0), norm, target, p, log_p, log_norm, loss = pair(0.0, 0.0), free = pair(0.0, 0.0)
    for j in range(1, n):
        if not at_most(pair(z[j], z_low[j]), pair(z[top], z_low[top])):
            top = j
    shift = pair(z[top], z_low[top])
    for j in range(n):
        p = exp(sub(pair(z[j], z_low[j]), shift))
        dz[j] = p.hi
        dz_low[j] = p.lo
        if j != top:
            others = add(others, p)
    norm = add_d(others, 1.0)
    # log of the sum: the largest term is 1, so log1p of the others is accurate even where they are tiny.
    log_norm = log1p(others) if others.hi < 0.5 else log(norm)
    for j in range(n):
        p = div(pair(dz[j], dz_low[j]), norm)
        dz[j] = p.hi
        dz_low[j] = p.lo
        target = pair(y[j], y_low[j])
        log_p = sub(sub(pair(z[j], z_low[j]), shift), log_norm)
        if clipped and not at_most(low, p):
            log_p = log(low) if p.hi == p.hi else p
        elif clipped and not at_most(p, high):
            log_p = log(high)
        else:
            free = add(free, target)
        if target.hi != 0.0:
            loss = sub(loss, mul(target, log_p))
    for j in range(n):
        p = pair(dz[j], dz_low[j])
        target = pair(y[j], y_low[j])
        if clipped and not (at_most(low, p) and at_most(p, high)):
            target = pair(0.0, 0.0)
        p = sub(mul(p, free), target)
        dz[j] = p.hi
        dz_low[j] = p.lo
    return loss


cdef dd clipped_binary(dd low, dd high, dd z, dd y, dd* dz) noexcept nogil:
    # -y·log q - (1 - y)·log(1 - q) with q = sigmoid(z) clipped to [low, high], and its derivative.
    cdef dd p = sigmoid(z), q = p, rest = sigmoid(neg(z)), one = pair(1.0, 0.0)
    dz[0] = sub(p, y)
    if p.hi == p.hi and not (at_most(low, p) and at_most(p, high)):
        q = high if at_most(low, p) else low
        rest = sub(one, q)
        dz[0] = pair(0.0, 0.0)
    return neg(add(mul(y, log(q)), mul(sub(one, y), log(rest))))


cdef dd element(Loss kind, dd delta, dd low, dd high, dd z, dd y, dd* dz) noexcept nogil:
    # The loss of one output and its derivative.
    cdef dd r = sub(z, y)
    cdef int side = sign(r)
    if kind == CLIPPED_BINARY_CROSS_ENTROPY:
        return clipped_binary(low, high, z, y, dz)
    if kind == BINARY_CROSS_ENTROPY:
        dz[0] = sub(sigmoid(z), y)
        return add(sub(z if z.hi > 0.0 else pair(0.0, 0.0), mul(z, y)), log1p(exp(neg(magnitude(z)))))
    if kind == MSE:
        dz[0] = scale(r, 2.0)
        return mul(r, r)
    if kind == MAE:
        dz[0] = r if side == 2 else pair(side, 0.0)
        return magnitude(r)
    if side == 2 or at_most(magnitude(r), delta):
        dz[0] = r
        return scale(mul(r, r), 0.5)
    dz[0] = delta if side > 0 else neg(delta)
    return mul(delta, sub(magnitude(r), scale(delta, 0.5)))


def loss(
    str name, const double[:, :, ::1] z, const double[:, :, ::1] y, const double[:, ::1] c, double low, double high,
    double delta
):
    """L = Σ c_i·l_i, (2,), and ∂L/∂z, (2, batch, n_out), of logits or values z, targets y and row factors c (2, batch)."""
    cdef Loss kind = LOSSES[name]
    cdef Py_ssize_t batch = z.shape[1], n = z.shape[2], i, j
    total = np.zeros(2)
    gradient = np.empty((2, batch, n))
    cdef double[:, :, ::1] dz = gradient
    cdef dd row, slope, factor, sum_ = pair(0.0, 0.0)
    with nogil:
        for i in range(batch):
            if kind == SOFTMAX_CROSS_ENTROPY or kind == CLIPPED_CROSS_ENTROPY:
                row = softmax_row(
                    kind == CLIPPED_CROSS_ENTROPY, pair(low, 0.0), pair(high, 0.0), n, &z[0, i, 0], &z[1, i, 0], &y[0, i, 0],
                    &y[1, i, 0], &dz[0, i, 0], &dz[1, i, 0]
                )
            else:
                row = pair(0.0, 0.0)
                for j in range(n):
                    row = add(row, element(
                        kind, pair(delta, 0.0), pair(low, 0.0), pair(high, 0.0), pair(z[0, i, j], z[1, i, j]),
                        pair(y[0, i, j], y[1, i, j]), &slope
                    ))
                    dz[0, i, j] = slope.hi
                    dz[1, i, j] = slope.lo
            factor = pair(c[0, i], c[1, i])
            sum_ = add(sum_, mul(factor, row))
            for j in range(n):
                slope = mul(factor, pair(dz[0, i, j], dz[1, i, j]))
                dz[0, i, j] = slope.hi
                dz[1, i, j] = slope.lo
    total[0] = sum_.hi
    total[1] = sum_.lo
    return total, gradient


def smoothed(const double[:, ::1] y, double smoothing):
    """(1 - s)·y + s/n_out as double-double: y (batch, n_out) to (2, batch, n_out)."""
    cdef Py_ssize_t batch = y.shape[0], n = y.shape[1], i, j
    result = np.empty((2, batch, n))
    cdef double[:, :, ::1] t = result
    cdef dd keep = two_sum(1.0, -smoothing), spread = div(pair(smoothing, 0.0), pair(<double>n, 0.0)), value
    with nogil:
        for i in range(batch):
            for j in range(n):
                value = add(mul_d(keep, y[i, j]), spread)
                t[0, i, j] = value.hi
                t[1, i, j] = value.lo
    return result


def row_factors(const double[::1] weights, double count, bint by_sum):
    """The factors w_i/count, or w_i/(count·Σw), as (2, batch)."""
    cdef Py_ssize_t batch = weights.shape[0], i
    cdef dd divisor = pair(0.0, 0.0)
    result = np.empty((2, batch))
    cdef double[:, ::1] c = result
    for i in range(batch):
        divisor = add_d(divisor, weights[i])
    divisor = mul_d(divisor, count) if by_sum else pair(count, 0.0)
    for i in range(batch):
        put(c, i, div(pair(weights[i], 0.0), divisor))
    return result


# --------------------------------------------------------------------------------------------- elementwise and sums


def product(double[:, ::1] a, double[:, ::1] b):
    """a·b, elementwise, (2, n)."""
    cdef Py_ssize_t n = a.shape[1], i
    result = np.empty((2, n))
    cdef double[:, ::1] c = result
    with nogil:
        for i in range(n):
            put(c, i, mul(get(a, i), get(b, i)))
    return result


def add_scaled(double[:, ::1] a, double factor, double[:, ::1] b):
    """a += factor·b, (2, n), in place."""
    cdef Py_ssize_t n = a.shape[1], i
    with nogil:
        for i in range(n):
            put(a, i, add(get(a, i), mul_d(get(b, i), factor)))


def inner(double[:, ::1] a, double[:, ::1] b):
    """Σ a·b as the pair (high, low)."""
    cdef Py_ssize_t n = a.shape[1], i
    cdef dd s = pair(0.0, 0.0)
    with nogil:
        for i in range(n):
            s = add(s, mul(get(a, i), get(b, i)))
    return s.hi, s.lo


def elementary(str name, double[:, ::1] a):
    """exp, expm1, log, log1p, normal_density or normal_distribution of double-doubles (2, n)."""
    cdef Py_ssize_t n = a.shape[1], i
    cdef int which = ("exp", "expm1", "log", "log1p", "normal_density", "normal_distribution").index(name)
    result = np.empty((2, n))
    cdef double[:, ::1] f = result
    cdef dd x
    for i in range(n):
        x = get(a, i)
        if which == 0:
            x = exp(x)
        elif which == 1:
            x = expm1(x)
        elif which == 2:
            x = log(x)
        elif which == 3:
            x = log1p(x)
        elif which == 4:
            x = normal_density(x)
        else:
            x = normal_distribution(x)
        put(f, i, x)
    return result

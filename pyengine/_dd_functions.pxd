# Elementary functions in double-double: argument reduction, a short series, and a reconstruction without cancellation.
#
# Relative errors against ball arithmetic are measured in tests/test_oracle.py. Results under 2^-968 lose relative accuracy,
# because their low part is subnormal.

from libc.math cimport INFINITY, NAN, fabs, floor, frexp, ldexp, log1p as log1p_double
from pyengine._dd cimport add, add_d, dd, div, div_d, fast_two_sum, mul, mul_d, neg, pair, scale, sub, two_prod


cdef inline dd expm1_reduced(dd r) noexcept nogil:
    # exp(r) - 1 for |r| <= 0.35: thirteen terms of the Taylor series at r/64 (the next is under 2^-118 of the sum), then six
    # doublings e^(2t) - 1 = s·(s + 2), which keep the relative accuracy.
    cdef dd t = scale(r, 1.0 / 64.0)
    cdef dd s = add_d(div_d(t, 13.0), 1.0)
    cdef int n
    for n in range(12, 1, -1):
        s = add_d(div_d(mul(s, t), n), 1.0)
    s = mul(s, t)
    for n in range(6):
        s = mul(s, add_d(s, 2.0))
    return s


cdef inline double nearest_power(double a) noexcept nogil:
    return floor(a * 1.4426950408889634 + 0.5)


cdef inline dd less_multiple_of_log2(dd a, double k) noexcept nogil:
    # a - k·log 2. The first two parts of log 2 have 40 and 42 bits, so that their products with |k| <= 2^11 are exact.
    a = add_d(a, -k * 0.6931471805592082)
    a = add_d(a, -k * 7.371002565166132e-13)
    return add_d(a, -k * 1.667085920830552e-25)


cdef inline dd exp(dd a) noexcept nogil:
    cdef double k
    cdef dd s
    if a.hi != a.hi:
        return a
    if a.hi > 709.78:
        return pair(INFINITY, 0.0)
    if a.hi < -745.2:
        return pair(0.0, 0.0)
    k = nearest_power(a.hi)
    s = add_d(expm1_reduced(less_multiple_of_log2(a, k)), 1.0)
    return fast_two_sum(ldexp(s.hi, <int>k), ldexp(s.lo, <int>k))


cdef inline dd expm1(dd a) noexcept nogil:
    return expm1_reduced(a) if fabs(a.hi) < 0.35 else add_d(exp(a), -1.0)


cdef inline dd log1p(dd a) noexcept nogil:
    # log(1 + a) for a > -1/2. With y the double result, log(1 + a) = y + log(1 + e), e = (a - (e^y - 1))/e^y; e is about
    # 2^-53·y, so that two terms of its logarithm suffice.
    cdef double y
    cdef dd s, e
    if a.hi == 0.0 or a.hi != a.hi or a.hi == INFINITY:
        return a
    y = log1p_double(a.hi)
    s = expm1(pair(y, 0.0))
    e = div(sub(a, s), add_d(s, 1.0))
    return add_d(sub(e, scale(mul(e, e), 0.5)), y)


cdef inline dd log(dd a) noexcept nogil:
    # log(m·2^k) = log m + k·log 2 with m in [√½, √2), where log m and k·log 2 cannot cancel to less than log √2.
    cdef int k = 0
    cdef dd m
    if a.hi == 0.0:
        return pair(-INFINITY, 0.0)
    if not a.hi > 0.0:
        return pair(NAN, NAN)
    if a.hi == INFINITY:
        return a
    frexp(a.hi, &k)
    m = pair(ldexp(a.hi, -k), ldexp(a.lo, -k))
    if m.hi < 0.7071067811865476:
        m = scale(m, 2.0)
        k -= 1
    m = log1p(add_d(m, -1.0))
    return m if k == 0 else neg(less_multiple_of_log2(neg(m), k))


cdef inline dd tanh(dd a) noexcept nogil:
    # -s/(2 + s) with s = e^(-2|a|) - 1.
    cdef dd s = expm1(scale(a, -2.0 if a.hi > 0.0 else 2.0))
    cdef dd t = div(s, add_d(s, 2.0))
    return neg(t) if a.hi > 0.0 else t


cdef inline dd sigmoid(dd a) noexcept nogil:
    # 1/(1 + e^-|a|), times e^-|a| for negative a.
    cdef dd e = exp(neg(a) if a.hi > 0.0 else a)
    cdef dd d = add_d(e, 1.0)
    return div(pair(1.0, 0.0) if a.hi > 0.0 else e, d)


cdef inline dd sigmoid_slope(dd a) noexcept nogil:
    # e/(1 + e)² with e = e^-|a|: no cancellation, where s·(1 - s) loses everything in the tails.
    cdef dd e = exp(neg(a) if a.hi > 0.0 else a)
    cdef dd d = add_d(e, 1.0)
    return div(e, mul(d, d))


cdef inline dd softplus(dd a) noexcept nogil:
    # max(a, 0) + log(1 + e^-|a|).
    if a.hi > 0.0:
        return add(a, log1p(exp(neg(a))))
    return log1p(exp(a))


cdef inline dd normal_density(dd a) noexcept nogil:
    # φ(a) = e^(-a²/2)/√(2π). A rounded a² would lose a factor of a²; so e^(-hi²/2), whose argument is exact, is corrected by
    # e^(-r) = 1 - r + r²/2, r = hi·lo + lo²/2 < 2^-42.
    cdef dd e, r
    if fabs(a.hi) > 40.0:
        return pair(0.0, 0.0)
    e = exp(scale(two_prod(a.hi, a.hi), -0.5))
    r = add_d(two_prod(a.hi, a.lo), 0.5 * a.lo * a.lo)
    e = add(e, mul(e, mul(r, add_d(scale(r, 0.5), -1.0))))
    return mul(e, pair(0.3989422804014327, -2.49232720227773e-17))


cdef inline dd normal_tail(dd a) noexcept nogil:
    # 1 - Φ(a) for a >= 0, without cancellation beyond that of 1/2 - 0.48.
    cdef dd s, t
    cdef int n
    if a.hi > 40.0:
        return pair(0.0, 0.0)
    if a.hi < 2.0:
        # 1/2 - φ(a)·Σ a^(2n+1)/(2n+1)!!  (Abramowitz & Stegun 26.2.11); the 50th term is under 2^-110 of the sum at 2.
        t = mul(a, a)
        s = pair(1.0, 0.0)
        for n in range(50, 0, -1):
            s = add_d(div_d(mul(s, t), 2.0 * n + 1.0), 1.0)
        return neg(add_d(mul(mul(s, a), normal_density(a)), -0.5))
    # φ(a)·a/(a² + 1 - 1·2/(a² + 5 - 3·4/(a² + 9 - ...))): the even part of A&S 26.2.14, from far enough below.
    t = mul(a, a)
    n = 12 + <int>(720.0 / t.hi)
    s = add_d(t, 4.0 * n + 1.0)
    while n > 0:
        s = sub(add_d(t, 4.0 * n - 3.0), div(pair((2.0 * n - 1.0) * (2.0 * n), 0.0), s))
        n -= 1
    return div(mul(normal_density(a), a), s)


cdef inline dd normal_distribution(dd a) noexcept nogil:
    # Φ(a).
    if a.hi != a.hi:
        return a
    if a.hi > 0.0:
        return neg(add_d(normal_tail(a), -1.0))
    return normal_tail(neg(a))

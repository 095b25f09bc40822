# Double-double arithmetic: a number is the exact sum hi + lo of two doubles, with hi the double nearest to it.
#
# The algorithms and the bounds beside them (u = 2^-53, relative, absent underflow) are those of
#   [JMP] Joldes, Muller & Popescu, "Tight and rigorous error bounds for basic building blocks of double-word
#         arithmetic", ACM TOMS 44(2), 2017.
# No operation has a relative error above 15u² + 56u³ < 2^-102. They hold only if the compiler neither contracts a*b + c
# into one rounding nor reorders sums: -ffp-contract=off, and never -ffast-math.
#
# Infinities turn into NaN in the low part and then in the sum, so what overflows is never mistaken for a number.

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef struct dd:
    double hi
    double lo


cdef inline dd pair(double hi, double lo) noexcept nogil:
    cdef dd r
    r.hi = hi
    r.lo = lo
    return r


cdef inline dd two_sum(double a, double b) noexcept nogil:
    # Exactly a + b (Knuth).
    cdef double s = a + b
    cdef double t = s - a
    return pair(s, (a - (s - t)) + (b - t))


cdef inline dd fast_two_sum(double a, double b) noexcept nogil:
    # Exactly a + b where |a| >= |b| (Dekker).
    cdef double s = a + b
    return pair(s, b - (s - a))


cdef inline double upper_half(double a) noexcept nogil:
    # a rounded to 26 bits, so that products of halves are exact. Rounding the bits, unlike Veltkamp's multiplication by
    # 2^27 + 1, overflows only where a itself is within 2^-26 of the largest double.
    cdef uint64_t bits = 0
    cdef double r = 0.0
    memcpy(&bits, &a, sizeof(double))
    bits = (bits + <uint64_t>0x4000000) & ~<uint64_t>0x7FFFFFF
    memcpy(&r, &bits, sizeof(double))
    return r


cdef inline dd two_prod(double a, double b) noexcept nogil:
    # Exactly a·b (Dekker), unless the low part underflows.
    cdef double p = a * b
    cdef double a1 = upper_half(a), b1 = upper_half(b)
    cdef double a2 = a - a1, b2 = b - b1
    return pair(p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2)


cdef inline dd neg(dd a) noexcept nogil:
    return pair(-a.hi, -a.lo)


cdef inline dd magnitude(dd a) noexcept nogil:
    return neg(a) if a.hi < 0.0 else a


cdef inline dd add(dd a, dd b) noexcept nogil:
    # [JMP] algorithm 6: 3u² + 13u³.
    cdef dd s = two_sum(a.hi, b.hi)
    cdef dd t = two_sum(a.lo, b.lo)
    cdef dd v = fast_two_sum(s.hi, s.lo + t.hi)
    return fast_two_sum(v.hi, t.lo + v.lo)


cdef inline dd add_d(dd a, double b) noexcept nogil:
    # [JMP] algorithm 4: 2u².
    cdef dd s = two_sum(a.hi, b)
    return fast_two_sum(s.hi, a.lo + s.lo)


cdef inline dd sub(dd a, dd b) noexcept nogil:
    return add(a, neg(b))


cdef inline dd mul(dd a, dd b) noexcept nogil:
    # [JMP] algorithm 10: 7u².
    cdef dd p = two_prod(a.hi, b.hi)
    return fast_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi))


cdef inline dd mul_d(dd a, double b) noexcept nogil:
    # [JMP] algorithm 7: 1.5u² + 4u³.
    cdef dd p = two_prod(a.hi, b)
    cdef dd t = fast_two_sum(p.hi, a.lo * b)
    return fast_two_sum(t.hi, t.lo + p.lo)


cdef inline dd scale(dd a, double power_of_two) noexcept nogil:
    # Exact, unless it overflows or underflows.
    return pair(a.hi * power_of_two, a.lo * power_of_two)


cdef inline dd div_d(dd a, double b) noexcept nogil:
    # [JMP] algorithm 15: 3u².
    cdef double q = a.hi / b
    cdef dd p = two_prod(q, b)
    return fast_two_sum(q, ((a.hi - p.hi - p.lo) + a.lo) / b)


cdef inline dd div(dd a, dd b) noexcept nogil:
    # [JMP] algorithm 17: 15u² + 56u³.
    cdef double q = a.hi / b.hi
    cdef dd p = mul_d(b, q)
    return fast_two_sum(q, ((a.hi - p.hi) + (a.lo - p.lo)) / b.hi)


cdef inline int sign(dd a) noexcept nogil:
    # -1, 0 or 1; 2 for NaN.
    if a.hi > 0.0:
        return 1
    if a.hi < 0.0:
        return -1
    return 0 if a.hi == 0.0 else 2


cdef inline bint at_most(dd a, dd b) noexcept nogil:
    # a <= b, false where either is NaN.
    return a.hi < b.hi or (a.hi == b.hi and a.lo <= b.lo)

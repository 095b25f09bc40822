# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The steps of pyengine/optimizers.py, number by number: what the rule computes, beside how far rounding may carry it.

In a step a name with 0 is what it finds, and one with d an error bound; g is the gradient, u the unit roundoff, and
flushed what a root may lose to flushed numbers.
"""

from libc.math cimport fabs, sqrt
from libc.string cimport memcpy

cdef enum:
    BLOCK = 128  # Numbers at a time: over many vectors that all begin pages, each number alone would thrash the cache.
    MOST = 8  # Vectors that a rule reads or writes.

cdef struct Room:
    # In one place, so that the compiler sees that no vector overlaps another.
    double at[MOST][BLOCK]
    double to[MOST][BLOCK]

ctypedef void (*Rule)(Room*, const double*) noexcept nogil


cdef inline double moved_root(double v, double dv, double root) noexcept nogil:
    # To first order; nothing but √dv is known at 0.
    return dv / (2.0 * root) if v > 0.0 else sqrt(dv)


cdef void adam(Room* room, const double* options) noexcept nogil:
    # m/(√v + ε) times scale, which is off by its dscale-th part.
    cdef double *p = room.at[0], *g = room.at[1], *dg = room.at[2], *m0 = room.at[3], *v0 = room.at[4]
    cdef double *dm0 = room.at[5], *dv0 = room.at[6], *error0 = room.at[7]
    cdef double *after = room.to[0], *m = room.to[1], *v = room.to[2], *dm = room.to[3], *dv = room.to[4]
    cdef double *error = room.to[5]
    cdef double u = options[0], flushed = options[1], beta_1 = options[2], beta_2 = options[3], epsilon = options[4]
    cdef double scale = options[5], dscale = options[6], c1 = 1.0 - beta_1, c2 = 1.0 - beta_2
    cdef double root, below, dbelow, move, dmove
    cdef int i
    for i in range(BLOCK):
        m[i] = m0[i] + (g[i] - m0[i]) * c1
        v[i] = v0[i] + (g[i] * g[i] - v0[i]) * c2
        # Per slot: the constant, the difference, the product, and the final sum; the square besides for v.
        dm[i] = beta_1 * dm0[i] + c1 * fabs(dg[i])
        dm[i] += u * (fabs(m[i]) + 3.0 * c1 * (fabs(g[i]) + fabs(m0[i])) + 2.0 * beta_1 * fabs(m0[i]))
        dv[i] = beta_2 * dv0[i] + 2.0 * c2 * fabs(g[i]) * fabs(dg[i])
        dv[i] += u * (v[i] + 4.0 * c2 * (g[i] * g[i] + v0[i]) + 2.0 * beta_2 * v0[i])

        root = sqrt(v[i])
        below = root + epsilon
        dbelow = moved_root(v[i], dv[i], root) + u * root + flushed + u * (3.0 * epsilon + 3.0 * below)
        move = scale * m[i] / below if below > 0.0 else 0.0
        dmove = scale * dm[i] / below + fabs(move) * (dscale + dbelow / below + 4.0 * u) if below > 0.0 else 0.0
        after[i] = p[i] - move
        error[i] = error0[i] + dmove + u * fabs(after[i])


cdef void rmsprop(Room* room, const double* options) noexcept nogil:
    # The learning rate times g/√(v + ε), or g/(√v + ε).
    cdef double *p = room.at[0], *g = room.at[1], *dg = room.at[2], *v0 = room.at[3], *dv0 = room.at[4]
    cdef double *error0 = room.at[5]
    cdef double *after = room.to[0], *v = room.to[1], *dv = room.to[2], *error = room.to[3]
    cdef double u = options[0], flushed = options[1], learning_rate = options[2], rho = options[3], epsilon = options[4]
    cdef bint inside = options[5] != 0.0
    cdef double c = 1.0 - rho, under, dunder, root, below, dbelow, move, dmove
    cdef int i
    for i in range(BLOCK):
        v[i] = rho * v0[i] + c * g[i] * g[i]
        # Both constants, the square, two products, the sum.
        dv[i] = rho * dv0[i] + 2.0 * c * fabs(g[i]) * fabs(dg[i])
        dv[i] += u * (v[i] + 4.0 * c * g[i] * g[i] + 2.0 * rho * v0[i])
        under = v[i] + epsilon if inside else v[i]
        dunder = dv[i] + u * (epsilon + under) if inside else dv[i]

        root = sqrt(under)
        below = root if inside else root + epsilon
        dbelow = moved_root(under, dunder, root) + u * root + flushed + (0.0 if inside else u * (epsilon + below))
        # Keras multiplies by the reciprocal of the root in some versions: a rounding more.
        move = learning_rate * g[i] / below if below > 0.0 else 0.0
        dmove = learning_rate * fabs(dg[i]) / below + fabs(move) * (dbelow / below + 4.0 * u) if below > 0.0 else 0.0
        after[i] = p[i] - move
        error[i] = error0[i] + dmove + u * fabs(after[i])


cdef void sgd(Room* room, const double* options) noexcept nogil:
    # The learning rate times b, or with Nesterov's momentum g + momentum·b.
    cdef double *p = room.at[0], *g = room.at[1], *dg = room.at[2], *b0 = room.at[3], *db0 = room.at[4]
    cdef double *error0 = room.at[5]
    cdef double *after = room.to[0], *b = room.to[1], *db = room.to[2], *error = room.to[3]
    cdef double u = options[0], learning_rate = options[2], momentum = options[3]
    cdef bint nesterov = options[4] != 0.0
    cdef double kept, way, dway
    cdef int i
    for i in range(BLOCK):
        kept = momentum * b0[i]
        b[i] = kept + g[i]
        # Keras scales by the learning rate first, so each term carries two roundings more than in PyTorch.
        db[i] = momentum * db0[i] + fabs(dg[i]) + u * (2.0 * fabs(kept) + 2.0 * fabs(g[i]) + fabs(b[i]))
        way, dway = b[i], db[i]
        if nesterov:
            way = g[i] + momentum * b[i]
            dway = fabs(dg[i]) + momentum * db[i] + u * (2.0 * fabs(g[i]) + 2.0 * fabs(momentum * b[i]) + fabs(way))
        after[i] = p[i] - learning_rate * way
        error[i] = error0[i] + learning_rate * (dway + 2.0 * u * fabs(way)) + u * fabs(after[i])


def step(str name, list given, list found, *options):
    """Read the flat vectors ``given``, all of one length, and write ``found``, in the order that the rule has them."""
    cdef Rule rule = adam if name == "adam" else rmsprop if name == "rmsprop" else sgd
    cdef Room room
    cdef double own[MOST]
    cdef const double* read[MOST]
    cdef double* written[MOST]
    cdef const double[::1] vector
    cdef double[::1] target
    cdef Py_ssize_t size = given[0].size, start, count
    cdef int k, ins = len(given), outs = len(found)
    if any(one.size != size for one in given + found) or max(ins, outs, len(options)) > MOST:
        raise ValueError("_rules: a vector has another length, or there are too many")
    if size == 0:
        return
    for k in range(len(options)):
        own[k] = options[k]
    for k in range(ins):
        vector = given[k]
        read[k] = &vector[0]
    for k in range(outs):
        target = found[k]
        written[k] = &target[0]
    with nogil:
        start = 0
        while start < size:
            count = min(size - start, <Py_ssize_t>BLOCK)
            for k in range(ins):
                memcpy(room.at[k], read[k] + start, count * sizeof(double))
            rule(&room, own)
            for k in range(outs):
                memcpy(written[k] + start, room.to[k], count * sizeof(double))
            start += count

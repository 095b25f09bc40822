"""Results' memory is used again, never too early, and not without bound."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np

import pyengine as pe
from pyengine.spare import LARGE, LINE, SMALL, SpareMemory

FLOAT32 = np.dtype("float32")
LONG = LARGE // FLOAT32.itemsize


def network() -> pe.Network:
    return pe.Network(200, [pe.Dense(300, "relu")], {"a": pe.Head([pe.Dense(2)], loss="mse")})


def test_memory_is_not_used_again_while_a_view_of_it_lives() -> None:
    net, rng = network(), np.random.default_rng(0)
    params, targets = net.init(0), {"a": np.zeros((8, 2), np.float32)}
    kept = net.gradients(params, rng.standard_normal((8, 200), dtype=np.float32), targets).summed["trunk.0.weight"]
    before = kept.copy()
    for _ in range(5):
        net.gradients(params, rng.standard_normal((8, 200), dtype=np.float32), targets)
    assert np.array_equal(kept, before)


def test_next_result_takes_the_memory_of_one_that_is_gone() -> None:
    net, targets = network(), {"a": np.zeros((8, 2), np.float32)}
    params, x = net.init(0), np.ones((8, 200), np.float32)
    addresses = {net.gradients(params, x, targets).summed.flat.ctypes.data for _ in range(5)}
    assert len(addresses) <= 2


def test_at_most_as_many_free_blocks_are_kept_as_said() -> None:
    spare = SpareMemory(most=2)
    lent = [spare.empty(LONG + i, FLOAT32) for i in range(5)]
    assert all(array.dtype == FLOAT32 and array.shape == (LONG + i,) for i, array in enumerate(lent))
    lent.clear()
    assert len(spare.free) == 2


def test_no_more_bytes_wait_than_said() -> None:
    spare = SpareMemory(most=9, within=3 * 4 * LONG)
    lent = [spare.empty(LONG, FLOAT32) for _ in range(5)]
    lent.clear()
    assert len(spare.free) == 3
    huge = spare.empty(4 * LONG, FLOAT32)
    del huge
    assert not spare.free


def test_a_block_of_another_size_stays_for_who_wants_it() -> None:
    spare = SpareMemory(most=2)
    first, second = spare.empty(LONG, FLOAT32), spare.empty(2 * LONG, FLOAT32)
    address = first.ctypes.data
    del first, second
    assert spare.empty(LONG, FLOAT32).ctypes.data == address


def test_small_arrays_are_numpys_own_and_all_others_begin_a_cache_line() -> None:
    spare = SpareMemory(most=2)
    assert spare.empty(SMALL // 4 - 1, FLOAT32).base is None
    lent = [spare.empty(SMALL // 4 + i * LONG // 8, FLOAT32) for i in range(20)]
    assert all(array.ctypes.data % LINE == 0 for array in lent)


def test_gradients_and_parameters_begin_a_cache_line() -> None:
    net, x, targets = network(), np.ones((8, 200), np.float32), {"a": np.zeros((8, 2), np.float32)}
    params = net.init(0)
    g = net.gradients(params, x, targets)
    assert [v.flat.ctypes.data % LINE for v in (params, g.summed, g.per_loss["a"])] == [0, 0, 0]


def test_memory_ends_with_the_network_but_not_before_its_results() -> None:
    net = network()
    gone = weakref.ref(net)
    result = net.empty_gradients("float32")
    del net
    gc.collect()
    assert gone() is None
    result.summed.flat[:] = 1
    assert pickle.loads(pickle.dumps(result.summed)).flat.sum() == result.summed.flat.size

"""What JAX compiled is used again for the same program, and for no other."""

import gc
import weakref

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import pyengine as pe  # noqa: E402
from pyengine.adapters import jax_losses, jax_witnesses  # noqa: E402
from pyengine.adapters.jax_kept import Kept, fingerprint  # noqa: E402
from pyengine.adapters.jax_program import program_of  # noqa: E402

X = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": jax.numpy.asarray(rng.normal(size=(5, 2)), "float32"),
        "b": jax.numpy.asarray(rng.normal(size=2), "float32"),
    }


def printed(function, *arguments):
    return fingerprint(program_of(jax, jax.make_jaxpr(function)(*arguments)))


@pytest.fixture
def compiled(monkeypatch):
    """How many functions are compiled for the witnesses, from now on and with nothing kept."""
    made = []
    monkeypatch.setattr(jax_witnesses, "KEPT", Kept(2))
    monkeypatch.setattr(jax_losses, "KEPT", Kept(2))
    original = jax_witnesses._everything
    monkeypatch.setattr(jax_witnesses, "_everything", lambda *given: made.append(1) or original(*given))
    return made


def verified(apply, own, loss=optax.l2_loss):
    return pe.verify(pe.JaxModel(apply, own), X, {"a": Y}, losses={"a": loss})


def test_the_same_program_is_compiled_once_for_any_parameters_and_any_new_function(compiled):
    for seed in range(3):
        assert verified(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), params(seed)).verdict == "CERTIFIED"
    assert len(compiled) == 1


def test_a_global_that_has_changed_behind_the_same_function_is_seen(compiled):
    """The function is the same object; what it computes is not."""
    slope = {"of": 0.1}

    def apply(p, x):
        return jax.nn.leaky_relu(x @ p["w"] + p["b"], slope["of"])

    assert verified(apply, params()).verdict == "CERTIFIED"
    slope["of"] = 0.2
    report = verified(apply, params())
    assert report.verdict == "CERTIFIED"
    assert len(compiled) == 2


def test_a_rule_of_ones_own_that_turns_wrong_behind_the_same_program_is_caught(compiled):
    """The jaxpr of a function with a rule of its own does not show the rule, so nothing of it is kept."""
    factor = {"of": 1.0}

    @jax.custom_vjp
    def act(z):
        return jax.numpy.tanh(z)

    act.defvjp(lambda z: (act(z), z), lambda z, g: (factor["of"] * g * (1.0 - jax.numpy.tanh(z) ** 2),))

    def apply(p, x):
        return act(x @ p["w"] + p["b"])

    assert verified(apply, params()).verdict == "CERTIFIED"
    factor["of"] = 1.001
    assert verified(apply, params()).verdict in ("REFUTED", "REFUTED_STATISTICAL")


def test_neither_parameters_nor_functions_of_the_user_are_held(compiled):
    own = params()

    def apply(p, x):
        return x @ p["w"] + p["b"]

    def loss(z, y):
        return jax.numpy.mean((z - y) ** 2)

    assert verified(apply, own, loss).verdict == "CERTIFIED"
    dead = [weakref.ref(apply), weakref.ref(loss), weakref.ref(own["w"])]
    del apply, loss, own
    gc.collect()
    assert [reference() for reference in dead] == [None, None, None]


def test_no_more_programs_are_kept_than_asked():
    kept = Kept(2)
    made = []
    for key in ("a", "b", "a", "c", "a", "b"):
        kept.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"]
    assert len(kept.held) == 2
    kept.get(None, lambda: made.append("unkept"))
    kept.get(None, lambda: made.append("unkept"))
    assert made[-2:] == ["unkept", "unkept"]


def test_programs_that_differ_in_a_constant_an_option_or_an_order_have_different_fingerprints():
    table = np.arange(3.0)
    x = jax.numpy.ones((4, 3))
    programs = [
        lambda x: x * 2.0,
        lambda x: x * 2.0000002,
        lambda x: 2.0 - x,
        lambda x: x - 2.0,
        lambda x: x.sum(axis=0),
        lambda x: x.sum(axis=1),
        lambda x: x * table,
        lambda x: x * (table + 1.0),
        jax.nn.relu,
        jax.nn.softplus,
        lambda x: (x, x + 1.0),
        lambda x: (x + 1.0, x),
    ]
    found = [printed(program, x) for program in programs]
    assert None not in found
    assert len(set(found)) == len(programs)
    assert found == [printed(program, x) for program in programs]


def test_callbacks_and_rules_of_ones_own_have_no_fingerprint():
    x = jax.numpy.ones(3)

    @jax.custom_jvp
    def own(z):
        return jax.numpy.tanh(z)

    own.defjvps(lambda g, out, z: g)
    shape = jax.ShapeDtypeStruct((3,), x.dtype)
    assert printed(own, x) is None
    assert printed(lambda x: jax.pure_callback(np.sin, shape, x), x) is None
    assert printed(lambda x: jax.lax.fori_loop(0, 3, lambda i, z: z * 2.0, x), x) is None

"""JAX: what a user may bring, a pure function with its parameters or a module, as one function of parameters and x."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import sentence

OLDEST = (0, 5)


@dataclass(frozen=True, eq=False)
class JaxModel:
    """A JAX model for :func:`pyengine.verify`: ``apply(params, x)`` is its output, for a batch x of shape (batch, …).

    ``apply`` is a pure function and ``params`` any pytree of arrays; or ``apply`` is a Flax NNX or an Equinox module
    and ``params`` is left out: such a module is split by its own library, and an Equinox module, which is written for
    one sample, is mapped over the batch. Outputs may be one array, a tuple or a dict.

    Nothing is imported or called here; :func:`pyengine.verify` refuses what it cannot use.

    >>> import pyengine as pe
    >>> model = pe.JaxModel(lambda params, x: x @ params["w"], {"w": [[1.0], [2.0]]})
    >>> model.params["w"]
    [[1.0], [2.0]]
    """

    apply: Any
    params: Any = None


@dataclass(frozen=True, eq=False)
class Pure:
    """``apply(params, x)`` with its pytree of parameters, and the libraries that it came from."""

    apply: Callable[[Any, Any], Any]
    params: Any
    framework: str
    versions: dict[str, str]


def load() -> Any:
    """Import JAX. Raises ``ModuleNotFoundError`` where it is absent, ``ImportError`` where it is broken or too old."""
    try:
        import jax
        import jax.extend.core
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            sentence("model", got="needs JAX, which is not installed", expected="jax>=0.5",
                     remedy="pip install 'pyengine-grad[jax]'.")
        ) from error  # fmt: skip
    except Exception as error:
        raise ImportError(
            sentence("model", got=f"needs JAX, whose import fails ({error})", expected="jax>=0.5 that works",
                     remedy="Does `python -c 'import jax'` work?")
        ) from error  # fmt: skip
    if tuple(int(part) for part in str(jax.__version__).split(".")[:2]) < OLDEST:
        raise ImportError(
            sentence("model", got=f"comes with JAX {jax.__version__}", expected="jax>=0.5",
                     remedy="pip install --upgrade jax.")
        )  # fmt: skip
    return jax


def is_module(model: Any) -> bool:
    """Whether this is a module of a JAX library, asked without importing one."""
    return _nnx(model) or _equinox(model) or _linen(model)


def pure(model: Any) -> Pure:
    """The model as a pure function. Raises ``TypeError`` and ``ValueError`` for what has no parameters of its own."""
    jax = load()
    versions = {"jax": str(jax.__version__)}
    apply, params = (model.apply, model.params) if isinstance(model, JaxModel) else (model, None)
    if params is not None:
        if not callable(apply) or is_module(apply):
            raise TypeError(
                sentence("JaxModel(apply, params)", got=f"has apply of type {type(apply).__name__}",
                         expected="a function of (params, x)", remedy="Give a module alone, without params.")
            )  # fmt: skip
        return Pure(apply, params, "JAX", versions)
    if _nnx(apply):
        nnx = sys.modules["flax.nnx"]
        graph, own, rest = nnx.split(apply, nnx.Param, ...)
        versions["flax"] = str(sys.modules["flax"].__version__)
        return Pure(lambda given, x: nnx.merge(graph, given, rest)(x), own, "JAX, Flax NNX", versions)
    if _equinox(apply):
        eqx = sys.modules["equinox"]
        own, static = eqx.partition(apply, eqx.is_inexact_array)
        versions["equinox"] = str(eqx.__version__)
        return Pure(lambda given, x: jax.vmap(eqx.combine(given, static))(x), own, "JAX, Equinox", versions)
    linen = _linen(apply)
    raise TypeError(
        sentence("model", got=f"is a {'Flax Linen module' if linen else type(apply).__name__} without parameters",
                 expected="pe.JaxModel(apply, params), a Flax NNX module or an Equinox module",
                 remedy="Pass pe.JaxModel(module.apply, variables)." if linen else "Pass the pytree of parameters too.")
    )  # fmt: skip


def _nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _equinox(model: Any) -> bool:
    eqx = sys.modules.get("equinox")
    return eqx is not None and isinstance(model, eqx.Module)


def _linen(model: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(model, linen.Module)

"""``verify``: a model as people have it, its gradients by its own framework, judged."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .adapters.computation import Computation, as_batch, require_no_weights
from .adapters.from_jax import JaxModel, is_module
from .checks.assumptions import STAGED
from .checks.witnessed import witnessed_evidence
from .engine import Network
from .errors import Unsupported, listing, sentence
from .progress import progress_line, say
from .verification import Verification
from .verify_arrays import judged_gradients
from .verify_certified import verify_certified
from .verify_observed import verify_observation
from .verify_staged import StagedReport, verify_witnesses
from .verify_step import judged_step, shows_gradient

if TYPE_CHECKING:
    from .checks.blackbox.variances import ForwardVariances
    from .parameters import Parameters
    from .witnesses import Step

Mode = Literal["auto", "staged", "blackbox"]


def verify(
    model: Any,
    x: Any,
    targets: Any,
    losses: Mapping[str, Any] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    sample_weight: Any = None,
    mode: Mode = "auto",
    seed: int = 0,
    *,
    progress: bool | None = None,
) -> Verification:
    """Judge the gradients that a framework computes for a model and a batch. The model is not changed.

    ``model`` is a ``torch.nn.Module`` of dense layers and known activations, with ``losses`` (output name -> loss
    object; for outputs in a tuple, in its order) and optional ``loss_weights``; or a compiled ``keras.Model`` on any
    backend, from which losses and weights are read; or :class:`JaxModel`, a Flax NNX or an Equinox module, with
    ``losses`` as callables (outputs, targets) or by pyengine's names; or ``(pe.Network, params)``, which judges the
    engine itself.
    ``x`` is (batch, n_in); ``targets`` maps losses to classes (batch,) or values (batch, n_out); for Keras, a list in
    the order of the outputs will do. ``sample_weight`` is for Keras, as ``fit`` takes it, and for
    ``(pe.Network, params)``.

    ``mode="staged"`` judges every operation from the numbers around it: CERTIFIED, REFUTED,
    REFUTED_STATISTICAL. ``"blackbox"`` judges final gradients: CONSISTENT, INCONSISTENT, INCONCLUSIVE. ``"auto"`` is
    staged where the numbers can be had. Both report the combination. Models in bfloat16
    and float16 (PyTorch, Keras), under ``torch.autocast`` and with Keras' mixed policies are judged by their operations
    alone: these include the losses' weights and their sum.

    What takes over a second shows on stderr what it is doing, if that is a terminal; ``progress`` True or False shows
    it always or never.

    Raises ``TypeError`` for another kind of model and ``ValueError`` for a layer, loss or mode that is not known; the
    message names it.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> x, t = np.eye(3, dtype="float32"), {"a": np.ones((3, 1), "float32")}
    >>> bool(pe.verify((net, net.init(seed=0)), x, t))
    True
    """
    if mode not in ("auto", "staged", "blackbox"):
        raise ValueError(
            sentence("mode", got=f"is {mode!r}", expected='"auto", "staged" or "blackbox"', remedy="Use one of these.")
        )
    if not isinstance(targets, Mapping) and _kind(model) != "keras":
        raise TypeError(
            sentence("targets", got=f"is {type(targets).__name__}", expected="losses -> arrays", remedy="Pass a dict.")
        )
    with progress_line(progress):
        return _verified(model, x, targets, losses, loss_weights, sample_weight, mode, seed)


def _verified(
    model: Any, x: Any, targets: Any, losses: Any, loss_weights: Any, sample_weight: Any, mode: Mode, seed: int
) -> Verification:
    say("the framework's gradients")
    try:
        done = _computed(model, x, targets, losses, loss_weights, sample_weight)
    except Unsupported as refusal:
        if mode != "auto":
            raise
        return _observed(model, x, targets, losses, loss_weights, sample_weight, str(refusal), seed)
    if mode == "staged" and done.witnesses is None:
        raise ValueError(
            sentence(
                "mode",
                got=f"is 'staged' for {done.framework}",
                expected="a framework that shows the numbers between its layers",
                remedy='Use mode="blackbox".',
            )
        )
    if done.kept is not None and mode == "blackbox":
        raise ValueError(
            sentence("mode", got=f"is 'blackbox' for {done.kept}", expected='"auto" or "staged"',
                     remedy="Final gradients are judged in float32 and float64 only.")
        )  # fmt: skip
    staged = _staged(done, mode, seed)
    if done.kept is not None and staged is not None:
        return _narrow(done, staged)
    if staged is not None and staged.ok and done.witnesses is not None and done.witnesses.summed is not None:
        return verify_certified(done, staged)
    step = None
    if done.step is not None:
        say("the training step")
        step = done.step()
    report, forward = judged_gradients(
        done.network,
        done.params,
        done.x,
        done.targets,
        done.sample_weight,
        per_loss=done.per_loss,
        summed=done.summed,
        flush_to_zero=done.flush_to_zero,
        seed=seed,
        # Of a step it is the gradient that was applied that is decomposed.
        combined=step is None or not shows_gradient(step),
    )
    environment = {**report.environment, **done.versions}
    report = replace(
        report,
        native=done.native,
        environment=environment,
        answer=f"{done.framework}: {report.answer}",
        notes=done.notes,
    )
    report = report if staged is None else _with_stages(report, staged, done)
    return report if step is None else _stepped(report, done, step, forward)


def _staged(done: Computation, mode: Mode, seed: int) -> StagedReport | None:
    if mode == "blackbox" or done.witnesses is None:
        return None
    return verify_witnesses(
        done.network,
        done.params,
        done.x,
        done.targets,
        done.witnesses,
        done.sample_weight,
        flush_to_zero=done.flush_to_zero,
        seed=seed,
        loss_dtype=done.loss_dtype if done.kept else None,
        narrow_steps=done.narrow_steps,
        narrow_sums=done.narrow_sums,
        loss_scale=done.loss_scale,
    )


def _narrow(done: Computation, staged: StagedReport) -> Verification:
    """In bfloat16 and float16 the operations are judged; among them are the weights of the losses and their sum."""
    why = f"in {done.kept} every operation is judged, the weighted sum of the losses among them, and nothing beside"
    return Verification(
        staged.verdict,
        f"{done.framework}, {done.kept}: {staged.answer}",
        environment={**staged.environment, **done.versions},
        staged=staged,
        native=done.native,
        not_judged=dict.fromkeys(("combination", "reach", "parameters", "update", "ledger"), why),
        assumptions=STAGED,
        notes=done.notes,
    )


def _with_stages(report: Verification, staged: StagedReport, done: Computation) -> Verification:
    if staged.verdict == "INCONCLUSIVE" or (staged.ok and report.verdict == "INCONSISTENT"):
        return replace(report, staged=staged)
    return replace(report, verdict=staged.verdict, answer=f"{done.framework}: {staged.answer}", staged=staged)


def _stepped(report: Verification, done: Computation, step: Step, forward: ForwardVariances) -> Verification:
    say("what the training step applied")
    evidence = witnessed_evidence(
        done.network,
        done.params,
        done.x,
        done.targets,
        done.sample_weight,
        # What the framework gets wrong cannot tell what it applied: then the engine's gradients stand for them.
        per_loss=done.per_loss if report.ok else None,
        losses=done.losses,
        flush_to_zero=done.flush_to_zero,
        forward=forward,
    )
    gather = functools.partial(witnessed_evidence, sample_weight=done.sample_weight, flush_to_zero=done.flush_to_zero)
    return judged_step(report, step, evidence, gather)


def _computed(model: Any, x: Any, targets: Any, losses: Any, loss_weights: Any, sample_weight: Any) -> Computation:
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], Network):
        return _by_engine(*model, x, targets, sample_weight)
    kind = _kind(model)
    if kind is None:
        raise TypeError(
            sentence(
                "model",
                got=f"is of type {type(model).__name__}",
                expected="a torch.nn.Module, a compiled keras.Model, pe.JaxModel(...) or (pe.Network, params)",
                remedy="For anything else, pass final gradients to verify_gradients.",
            )
        )
    if kind != "keras":
        require_no_weights(sample_weight)
    if kind == "keras":
        from .adapters import keras_step

        if losses is not None or loss_weights is not None:
            raise ValueError(
                sentence("losses", got="is given for a Keras model", expected="None",
                         remedy="They are read from model.compile(...).")
            )  # fmt: skip
        return keras_step.compute(model, x, targets, sample_weight)
    given, weights = _losses(kind, losses, loss_weights, targets)
    if kind == "jax":
        from .adapters import jax_model

        return jax_model.compute(model, x, targets, given, weights)
    from .adapters import torch_model

    return torch_model.compute(model, x, targets, given, weights)


def _observed(
    model: Any, x: Any, targets: Any, losses: Any, loss_weights: Any, sample_weight: Any, refusal: str, seed: int
) -> Verification:
    """The engine does not know the model: judge what its framework alone can tell."""
    kind = _kind(model)
    if kind == "keras":
        from .adapters import keras_observed

        seen = keras_observed.observe(model, x, targets, sample_weight, refusal)
        arrays = list(targets.values()) if isinstance(targets, Mapping) else targets
    else:
        given, weights = _losses(str(kind), losses, loss_weights, targets)
        arrays = list(targets.values())
        if kind == "jax":
            from .adapters import jax_observed

            seen = jax_observed.observe(model, x, targets, given, weights, refusal)
        else:
            from .adapters import torch_observed

            seen = torch_observed.observe(model, x, targets, given, weights, refusal, seed)
    shapes = map(np.shape, arrays if isinstance(arrays, (list, tuple)) else [arrays])
    return verify_observation(seen, {int(shape[-1]) for shape in shapes if len(shape) > 1}, seed)


def _losses(
    kind: str, losses: Any, loss_weights: Any, targets: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, float]]:
    """The losses and their weights, checked by name."""
    if not isinstance(losses, Mapping) or not losses:
        example = "optax.l2_loss" if kind == "jax" else "torch.nn.MSELoss()"
        raise ValueError(
            sentence("losses", got="is missing", expected="output name -> loss object",
                     remedy=f'Pass losses={{"name": {example}, ...}}.')
        )  # fmt: skip
    for name, loss in losses.items():
        if kind == "torch" and not callable(loss):
            raise TypeError(
                sentence(f"losses[{name!r}]", got=f"is of type {type(loss).__name__}", expected="a function",
                         remedy="It is called with the output and the target.")
            )  # fmt: skip
    weights = loss_weights or {}
    unknown = [name for name in weights if name not in losses]
    if unknown:
        raise ValueError(
            sentence("loss_weights", got=f"names {listing(unknown)}", expected=f"losses among {listing(losses)}",
                     remedy="Name the weights as the losses.")
        )  # fmt: skip
    missing = [name for name in losses if name not in targets]
    if missing:
        raise ValueError(
            sentence("targets", got=f"lacks {listing(missing)}", expected=listing(losses), remedy="Add the targets.")
        )
    return losses, weights


def _kind(model: Any) -> str | None:
    """Which framework the model is of; none is imported that the user did not bring."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    # On the PyTorch backend a Keras model is a module too: Keras is asked first.
    if keras is not None and isinstance(model, keras.Model):
        return "keras"
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    return "jax" if isinstance(model, JaxModel) or is_module(model) else None


def _by_engine(
    network: Network, params: Parameters, x: Any, targets: Mapping[str, Any], sample_weight: Any
) -> Computation:
    found = network.gradients(params, x, targets, sample_weight)
    return Computation(
        framework="the engine",
        network=network,
        params=network.parameters(params),
        x=as_batch(x),
        targets={name: np.asarray(target) for name, target in targets.items()},
        per_loss={name: dict(gradient) for name, gradient in found.per_loss.items()},
        summed=dict(found.summed),
        losses=dict(found.losses),
        native={},
        sample_weight=sample_weight,
    )

"""``pe.watch``: what a training loop really applied, judged without changing the loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from .adapters.computation import Computation, as_batch
from .adapters.from_jax import JaxModel, is_module
from .checks.applied import Surgery
from .errors import Unsupported, listing, sentence
from .judge_watched import Batch, Watched, by_engine, judge_watched
from .observation import Observation
from .watch_observed import Given, Observe, Observed
from .watching import Arrays, Event, Twin
from .witnesses import Clip

if TYPE_CHECKING:
    from .verification import Verification


class Recorder(Protocol):
    """What an adapter does for ``watch``."""

    framework: str
    plus: float

    @property
    def optimizers(self) -> Sequence[Any]: ...
    @property
    def events(self) -> list[Event]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def read(self, x: Any, targets: Mapping[str, Any], sample_weight: Any = None) -> tuple[Twin, Computation]: ...
    def observe(
        self, at: Arrays, x: Any, targets: Mapping[str, Any], sample_weight: Any, refusal: str
    ) -> Observation: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def finish(self) -> None: ...
    def end_with(self, after: Any) -> None: ...
    def values(self) -> Arrays: ...
    def buffers(self) -> Arrays: ...
    def trainable(self) -> frozenset[str]: ...


class watch:  # noqa: N801 - a context manager, used like a function
    """Watch a training loop, and judge afterwards what it did to the model.

    ``model`` and ``losses`` are as for :func:`pyengine.verify`; ``optimizer`` is the one that the loop uses, or a list
    of them. ``loss_weights`` are the weights that the loop is meant to use (default 1). ``clip_norm`` or ``clip_value``
    tell that the loop clips gradients between backward and step, ``surgery="pcgrad"`` that it projects them.

    On exit, after an exception too, model, optimizer and hooks are as without it. ``steps`` has every recorded step.

    Raises ``TypeError`` for another kind of model or optimizer, ``ValueError`` for a layer or loss that is not known.

    >>> import torch, pyengine as pe
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> x, y = torch.eye(3), torch.ones(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with pe.watch(model, losses={"y": torch.nn.MSELoss()}, optimizer=optimizer) as seen:
    ...     (torch.nn.functional.mse_loss(model(x), y, reduction="sum")).backward()
    ...     optimizer.step()
    >>> seen.report(x, {"y": y}).diagnoses[0].sentence
    'Every configured weight is multiplied by 3; not divided by the batch, 3 or 3 accumulated batches or replicas, \
added?.'
    """

    def __init__(
        self,
        model: Any,
        losses: Mapping[str, Any] | None = None,
        optimizer: Any = None,
        loss_weights: Mapping[str, float] | None = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        surgery: Surgery | None = None,
    ) -> None:
        if surgery not in (None, "pcgrad"):
            raise ValueError(
                sentence("surgery", got=f"is {surgery!r}", expected='None or "pcgrad"', remedy="Use one of these.")
            )
        self._recorder = _recorder(model, losses, optimizer, dict(loss_weights or {}))
        self._surgery = surgery
        self._clip = None
        if clip_norm is not None:
            self._clip = Clip("global_norm", float(clip_norm), self._recorder.plus)
        elif clip_value is not None:
            self._clip = Clip("value", float(clip_value))
        self._start: Arrays = {}
        self._end: Arrays = {}
        self._buffers: Arrays = {}

    @property
    def optimizer(self) -> Any:
        """What the loop steps with: on JAX a transformation that is listened to, else the optimizer as it is."""
        return self.optimizers[0]

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """The same for several optimizers, in the order in which they were given."""
        return tuple(getattr(self._recorder, "wrapped", self._recorder.optimizers))

    @property
    def steps(self) -> tuple[Event, ...]:
        """Every optimizer step that was seen, in order."""
        self._recorder.finish()
        return tuple(self._recorder.events)

    def __enter__(self) -> Self:
        self._start, self._buffers = self._recorder.values(), self._recorder.buffers()
        self._recorder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.stop()
        self._end = self._recorder.values()

    def report(
        self,
        x: Any,
        targets: Any,
        *,
        step: int | None = None,
        previous: tuple[Any, Mapping[str, Any]] | None = None,
        accumulation: int | None = None,
        sample_weight: Any = None,
        after: Any = None,
        log: Mapping[str, float] | None = None,
    ) -> Verification:
        """Judge the recorded steps as one training step on the batch ``x``, ``targets``.

        ``x`` is (batch, n_in) and ``targets`` maps losses to arrays; or both are lists with one entry per micro-batch
        of an accumulation window, and ``accumulation`` is the window that the loop divides by (default: their number).
        ``step`` chooses one optimizer step where the block had several batches; ``previous`` is the batch before;
        ``sample_weight`` is as for ``fit`` (Keras only), ``after`` the pytree of parameters after the last step (JAX
        only, where a step leaves no trace of them). ``log`` is what the loop reported for the batch: the total under
        ``"loss"`` and every unweighted loss under its name; ``ledger`` of the report holds it against the batch.

        Where the engine does not know the model, its own framework's gradients take the place of the engine's, with
        bounds that are measured (:mod:`pyengine.checks.measured`).

        Raises ``ValueError`` where no step was seen and for arrays that do not suit the model.
        """
        if after is not None:
            self._recorder.end_with(after)
        events = self.steps
        if not events:
            raise ValueError(
                sentence("optimizer", got="took no step in the block", expected="at least one step",
                         remedy="Is it the loop's optimizer, was a step traced inside, or did loss scaling skip it?")
            )  # fmt: skip
        first = 0
        if step is not None:
            if not -len(events) <= step < len(events):
                raise ValueError(
                    sentence("step", got=f"is {step}", expected=f"an index of {len(events)} recorded steps",
                             remedy="Count from 0.")
                )  # fmt: skip
            first = step % len(events)
            events = events[first : first + 1]
        earlier = self.steps[first - 1].gradient if first else self._buffers
        outside = []
        if step is None:
            states = [self._start, *(a for event in events for a in (event.before, event.after)), self._end]
            for left, right in zip(states[::2], states[1::2], strict=True):
                both = [name for name in left if name in right]
                outside += [name for name in both if not np.array_equal(left[name], right[name], equal_nan=True)]
        whole = Given(*_whole(x, targets), sample_weight)
        parts = [Given(a, b) for a, b in zip(x, targets, strict=True)] if _cut(x) else []
        ahead = None if previous is None else Given(*previous)
        refusal = ""
        try:
            twin, batch = self._read(whole)
            micro = [self._read(part)[1] for part in parts]
            past = None if ahead is None else self._read(ahead)[1]
            gather = by_engine(twin.network)
        except Unsupported as error:
            refusal = str(error)
            observed = Observed(self._observe(refusal), events[0].before, parts or [whole])
            twin, batch, gather = observed.twin, observed.batch(parts or [whole]), observed.gather
            micro = [observed.batch([part]) for part in parts]
            past = None if ahead is None else observed.batch([ahead])
        _require_log(log, list(twin.network.heads))
        report = judge_watched(
            Watched(
                framework=self._recorder.framework,
                twin=twin,
                gather=gather,
                events=events,
                clip=self._clip,
                surgery=self._surgery,
                leftover=earlier,
                trainable=self._recorder.trainable(),
                outside=tuple(dict.fromkeys(outside)),
                log=log,
                refusal=refusal,
            ),
            batch,
            micro=micro,
            accumulation=accumulation,
            previous=past,
        )
        return replace(report, notes=(*report.notes, *self._recorder.notes))

    def _read(self, given: Given) -> tuple[Twin, Batch]:
        twin, done = self._recorder.read(*given)
        return twin, Batch(done.x, done.targets, done.sample_weight)

    def _observe(self, refusal: str) -> Observe:
        return lambda at, given: self._recorder.observe(at, *given, refusal)


def _cut(x: Any) -> bool:
    return isinstance(x, (list, tuple))


def _require_log(log: Any, names: list[str]) -> None:
    if log is None:
        return
    missing = [name for name in ("loss", *names) if not isinstance(log, Mapping) or name not in log]
    if missing:
        raise ValueError(
            sentence("log", got=f"lacks {listing(missing)}", expected="'loss', the total, and every loss by its name",
                     remedy="Pass the numbers that the loop reported for this batch.")
        )  # fmt: skip


def _whole(x: Any, targets: Any) -> tuple[Any, Mapping[str, Any]]:
    """The batch, its micro-batches joined."""
    if _cut(x) and (not isinstance(targets, Sequence) or len(targets) != len(x) or not x):
        raise ValueError(
            sentence("targets", got="does not match the micro-batches of `x`", expected=f"a list of {len(x)} dicts",
                     remedy="Give one dict of targets per micro-batch.")
        )  # fmt: skip
    for one in targets if _cut(x) else [targets]:
        if not isinstance(one, Mapping):
            raise TypeError(
                sentence("targets", got=f"is {type(one).__name__}", expected="losses -> arrays", remedy="Pass a dict.")
            )
    if not _cut(x):
        return x, targets
    import numpy as np

    joined = {name: np.concatenate([as_batch(one[name]) for one in targets]) for name in targets[0]}
    return np.concatenate([as_batch(one) for one in x]), joined


def _recorder(model: Any, losses: Mapping[str, Any] | None, optimizer: Any, weights: dict[str, float]) -> Recorder:
    """The adapter of the model's framework; none is imported that the user did not bring."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    # A transformation of optax is a tuple itself.
    several = isinstance(optimizer, (list, tuple)) and not hasattr(optimizer, "update")
    optimizers = list(optimizer) if several else [optimizer]
    # On the PyTorch backend a Keras model is a module too: Keras is asked first.
    if keras is not None and isinstance(model, keras.Model):
        from .adapters import watch_keras

        if losses is None and weights:
            raise ValueError(
                sentence("loss_weights", got="is given without losses", expected="both, or neither to read them",
                         remedy="Pass losses= too, or compile the model with the weights.")
            )  # fmt: skip
        if losses is not None:
            _named_losses(losses, "keras.losses.MeanSquaredError()")
        if optimizer is None:
            optimizers = [getattr(model, "optimizer", None)]
        _require_kind(optimizers, keras.optimizers.Optimizer, "keras.optimizers.Optimizer objects")
        return watch_keras.Recorder(model, losses, weights, optimizers)
    if torch is not None and isinstance(model, torch.nn.Module):
        from .adapters import watch_torch

        named = _named_losses(losses, "torch.nn.MSELoss()")
        _require_kind(optimizers, torch.optim.Optimizer, "torch.optim.Optimizer objects")
        return watch_torch.Recorder(model, named, weights, optimizers)
    if isinstance(model, JaxModel) or is_module(model):
        from .adapters import watch_jax

        named = _named_losses(losses, '"mse"')
        for one in optimizers:
            if not (callable(getattr(one, "init", None)) and callable(getattr(one, "update", None))):
                raise TypeError(
                    sentence("optimizer", got=f"is {type(one).__name__}", expected="optax.GradientTransformation",
                             remedy="Pass the transformation itself, and step with seen.optimizer.")
                )  # fmt: skip
        return watch_jax.Recorder(model, named, weights, optimizers)
    raise TypeError(
        sentence("model", got=f"is of type {type(model).__name__}",
                 expected="a torch.nn.Module, a keras.Model, pe.JaxModel(...) or a Flax or Equinox module",
                 remedy="For anything else, pass parameters before and after to explain_update.")
    )  # fmt: skip


def _named_losses(losses: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(
            sentence("losses", got="is missing", expected="output name -> loss object",
                     remedy=f'Pass losses={{"name": {example}, ...}}.')
        )  # fmt: skip
    return losses


def _require_kind(optimizers: list[Any], kind: type, expected: str) -> None:
    for one in optimizers:
        if not isinstance(one, kind):
            raise TypeError(
                sentence("optimizer", got=f"is {type(one).__name__}", expected=expected,
                         remedy="Pass the optimizer that the loop steps.")
            )  # fmt: skip

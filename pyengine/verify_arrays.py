"""The entry points for numbers from anywhere: a dump, another language, a kernel of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import oracle
from .arrays import as_numpy
from .batch import checked_batch
from .checks.assumptions import BLACK_BOX, LOGIT_ERROR, logit_warning
from .checks.blackbox import Finding, GradientTests, Program, judge_gradient
from .checks.blackbox.combination import combine
from .checks.blackbox.kinks import flipped
from .checks.blackbox.replay import Order, Replay, replays, restored
from .checks.blackbox.variances import ForwardVariances
from .checks.evidence import gather_evidence
from .checks.reach import faults
from .checks.update import check_update
from .errors import listing, sentence
from .optimizers import Adam
from .parameters import Layout, Parameters, empty
from .progress import progress_line, say
from .rounding import precision
from .runtime import environment
from .verification import Verdict, Verification
from .witnesses import Step

if TYPE_CHECKING:
    from .engine import Network
    from .optimizers import Rule

Gradient = Mapping[str, npt.NDArray[np.float64]]


def verify_gradients(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    per_loss: Mapping[str, Mapping[str, Any]] | None = None,
    summed: Mapping[str, Any] | None = None,
    flush_to_zero: bool = False,
    seed: int = 0,
) -> Verification:
    """Judge final gradients, whoever computed them, as a correct program in the precision of ``params`` would.

    The first five arguments are those of :meth:`Network.gradients`. ``per_loss`` maps losses to the gradients of the
    unweighted losses (parameter -> array, trunk and that loss's head), ``summed`` maps every parameter to the gradient
    of Σ weight·loss; at least one is needed, and ``per_loss`` may hold some of the losses. ``flush_to_zero`` tells that
    subnormal numbers may have become zero, as JAX and TensorFlow do. ``seed`` draws the random projections.

    CONSISTENT: nothing deviates by more than rounding explains. INCONSISTENT: something does. INCONCLUSIVE: something
    deviates, where the statistics do not hold (docs/tolerances.md, section 7).

    Raises ``ValueError`` and ``TypeError`` for what :meth:`Network.gradients` refuses, for missing or unknown
    parameters and wrong shapes.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> params, x = net.init(seed=0), np.ones((2, 3), "float32")
    >>> g = net.summed_gradient(params, x, {"a": np.ones((2, 1), "float32")})
    >>> pe.verify_gradients(net, params, x, {"a": np.ones((2, 1), "float32")}, summed=g).verdict
    'CONSISTENT'
    """
    judged, _ = judged_gradients(
        net, params, x, targets, sample_weight, per_loss=per_loss, summed=summed, flush_to_zero=flush_to_zero, seed=seed
    )
    return judged


def judged_gradients(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any,
    *,
    per_loss: Mapping[str, Mapping[str, Any]] | None,
    summed: Mapping[str, Any] | None,
    flush_to_zero: bool,
    seed: int,
    combined: bool = True,
) -> tuple[Verification, ForwardVariances]:
    """:func:`verify_gradients`, with what it made of the forward pass for checks that come after it.

    Without ``combined`` the combination is left to such a check.
    """
    own = net._own(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    if per_loss is None and summed is None:
        raise ValueError(
            sentence("summed", got="and `per_loss` are both missing", expected="at least one", remedy="Pass one.")
        )
    given: dict[str, tuple[dict[str, float], Gradient]] = {}
    if per_loss is not None:
        for name, gradient in _per_loss(per_loss, net).items():
            argument = f"per_loss[{name!r}]"
            given[argument] = ({name: 1.0}, _checked(argument, gradient, net.loss_layouts[name]))
    weights = {name: head.weight for name, head in net.heads.items()}
    if summed is not None:
        given["summed"] = (weights, _checked("summed", summed, net.layout))

    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"), progress_line():
        program = Program(net, own, batch)
        p = precision(own.dtype, flush_to_zero=flush_to_zero)
        forward = ForwardVariances(program, p)
        sharper = oracle.gradients(net, own, x, targets, sample_weight) if own.dtype == np.float64 else None
        repeated: list[tuple[Replay, Order]] = []

        def again() -> list[tuple[Replay, Order]]:
            if not repeated:
                repeated.extend(replays(net, own, batch, seed))
            return repeated

        findings: list[Finding] = []
        combination, reach = None, {}
        for i, (name, (of, gradient)) in enumerate(given.items()):
            say("whole gradients", i, len(given))
            tests = GradientTests(program, of, p, seed, forward)
            truth: Gradient = dict(tests.truth)
            if sharper is not None:
                better = sharper.summed if name == "summed" else sharper.per_loss[next(iter(of))]
                truth = {n: np.asarray(better[n], dtype=np.float64) for n in tests.names}
            loss = None if name == "summed" else next(iter(of))

            others = partial(_of_replays, again, loss)
            finding = judge_gradient(name, tests, gradient, truth, others)
            findings.append(finding)
            touched = reach_of(gradient, truth, net.layout.names, finding)
            if loss is not None or faults({"summed": touched}):
                reach[loss or "summed"] = touched
            if name == "summed" and combined:
                parts = {head: _moved(program, head, finding) for head in net.heads}
                combination = combine(tests, finding, gradient, parts)
    verdict = _gravest(findings)
    report = Verification(
        verdict, _answer(verdict, findings), tuple(findings), combination, None, reach,
        environment=environment(), warnings=logit_warnings(program, forward), assumptions=BLACK_BOX,
    )  # fmt: skip
    return report, forward


def explain_update(
    net: Network,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    optimizer: Rule | None = None,
) -> Verification:
    """Which rule leads from ``before`` to ``after`` at the shared layers?

    ``before`` and ``after`` are parameters of one dtype as :meth:`Network.parameters` takes them; ``x`` and ``targets``
    the batch between them; ``optimizer`` (default: ``Adam()``) the rule before its first step, without memory of
    earlier ones. Replayed are one step on the sum, on the mean, one step per loss in turn, and one optimizer per loss;
    CONSISTENT if one step on the sum fits and no other rule does.

    Raises ``ValueError`` and ``TypeError`` for what :meth:`Network.gradients` refuses, and for a network without trunk.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> before, x, t = net.init(seed=0), np.eye(3, dtype="float32"), {"a": np.ones((3, 1), "float32")}
    >>> after = net.parameters(before)
    >>> after.flat[:] -= np.float32(0.1) * net.summed_gradient(before, x, t).flat
    >>> pe.explain_update(net, before, after, x, t, optimizer=pe.SGD(0.1)).update.verdict
    'summed'
    """
    rule = Adam() if optimizer is None else optimizer
    if not net.trunk_layers:
        raise ValueError(
            sentence(
                "net", got="has no trunk", expected="at least one shared layer", remedy="There is nothing to combine."
            )
        )
    start, end = net._own(before), net._own(after)
    if start.dtype != end.dtype:
        raise TypeError(
            sentence(
                "after", got=f"is {end.dtype}", expected=f"{start.dtype}, as `before`", remedy="Convert one of them."
            )
        )
    batch = checked_batch(x, targets, None, n_in=net.n_in, heads=net.heads, dtype=start.dtype)
    own_targets = {name: head.target for name, head in batch.heads.items()}
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"), progress_line():
        evidence = gather_evidence(net, start, batch.x, own_targets)
        total = Parameters(net.layout, np.zeros(net.layout.size))
        for name, head in net.heads.items():
            for parameter, gradient in evidence.gradients[name].items():
                total[parameter][...] += head.weight * gradient
        step = Step(
            framework="the given step",
            call="explain_update",
            network=net,
            x=batch.x,
            targets=own_targets,
            before=start,
            after=end,
            gradient=total,
            gradient_source="not observed",
            gradient_roundings=0,
            optimizer=rule,
            native={name: name for name in net.layout.names},
            objective={name: head.loss.name for name, head in net.heads.items()},
            observed=False,
        )
        update = check_update(step, evidence)
    words: dict[str, Verdict] = {"within": "CONSISTENT", "between": "INCONCLUSIVE", "beyond": "INCONSISTENT"}
    return Verification(
        words[update.standing],
        f"The parameters moved by {update.rule} of {rule!r}: {update.reason}."
        if update.standing == "within"
        else f"{update.rule}: {update.reason}.",
        update=update,
        environment=environment(),
    )


def _per_loss(given: Any, net: Network) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            sentence(
                "per_loss", got=f"is {type(given).__name__}", expected="losses -> gradients", remedy="Pass a dict."
            )
        )
    unknown = [name for name in given if name not in net.heads]
    if unknown:
        raise ValueError(
            sentence("per_loss", got=f"has {listing(unknown)}", expected=f"some of {listing(net.heads)}",
                     remedy="Name the losses as the heads.")
        )  # fmt: skip
    return dict(given)


def _checked(argument: str, given: Any, layout: Layout) -> Gradient:
    if not isinstance(given, Mapping):
        raise TypeError(
            sentence(
                argument, got=f"is {type(given).__name__}", expected="parameter names -> arrays", remedy="Pass a dict."
            )
        )
    missing = [name for name in layout.names if name not in given]
    unknown = [name for name in given if name not in layout.shapes]
    if missing or unknown:
        got = f"lacks {listing(missing)}" if missing else f"has {listing(unknown)}"
        raise ValueError(sentence(argument, got=got, expected=listing(layout.names), remedy="Name them so."))
    found = empty(layout, np.dtype(np.float64))
    for name in layout.names:
        array = as_numpy(f"{argument}[{name!r}]", given[name])
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise TypeError(
                sentence(
                    f"{argument}[{name!r}]",
                    got=f"is {array.dtype}",
                    expected="a floating-point array",
                    remedy="Pass the gradient as it was computed.",
                )
            )
        if array.shape != layout.shapes[name]:
            remedy = "Transpose it?" if array.shape == layout.shapes[name][::-1] else "Reshape it?"
            raise ValueError(
                sentence(
                    f"{argument}[{name!r}]",
                    got=f"has shape {array.shape}",
                    expected=f"{layout.shapes[name]}",
                    remedy=remedy,
                )
            )
        found[name][...] = array
    return found


def _of_replays(again: Callable[[], list[tuple[Replay, Order]]], loss: str | None) -> list[Gradient]:
    return [restored(g.summed if loss is None else g.per_loss[loss], order) for g, order in again()]


def logit_warnings(program: Program, forward: ForwardVariances) -> tuple[str, ...]:
    """Losses of which the logits carry so much rounding error that the first order is a rough guide."""
    found = []
    for name, curvature in program.curvature.items():
        sigma = float(np.sqrt(forward.h_reach[name].max(initial=0.0)))
        if curvature.softmax and not sigma <= LOGIT_ERROR:
            found.append(logit_warning(name, sigma))
    return tuple(found)


def _moved(program: Program, head: str, finding: Finding) -> Gradient:
    """The gradient of one loss, at the kinks as the judged gradient has them."""
    here = flipped(program, finding.flips) if finding.flips else program
    return here.backward({head: 1.0}).gradient


def reach_of(
    gradient: Mapping[str, Any], truth: Mapping[str, Any], names: Iterable[str], finding: Finding
) -> dict[str, str]:
    """Of each parameter a word of :mod:`pyengine.checks.reach`, by where the true gradient has numbers.

    Zeros that the finding has no alarm about are what rounding and underflow may leave.
    """
    found = dict.fromkeys(names, "untouched")
    alarmed = {alarm.where.partition("[")[0] for alarm in finding.alarms}
    words = {(True, True): "reached", (False, False): "zero", (True, False): "unexpected"}
    for name, expected in truth.items():
        touched, should = bool((gradient[name] != 0.0).any()), bool((expected != 0.0).any())
        stopped = finding.verdict == "INCONSISTENT" and (name in alarmed or not alarmed)
        found[name] = words.get((touched, should), "detached" if stopped else "vanished")
    return found


def _gravest(findings: list[Finding]) -> Verdict:
    order: list[Verdict] = ["CONSISTENT", "INCONCLUSIVE", "INCONSISTENT"]
    return max((f.verdict for f in findings), key=order.index)


def _answer(verdict: Verdict, findings: list[Finding]) -> str:
    if verdict == "CONSISTENT":
        return f"Rounding explains every deviation of {listing(f.name for f in findings)}."
    culprit = next(f for f in findings if f.verdict == verdict)
    said = "deviates by more than rounding explains" if verdict == "INCONSISTENT" else "cannot be judged"
    return f"{culprit.name} {said}: {culprit.reason}."

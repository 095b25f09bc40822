"""The loop of a model that the engine does not know, judged by the gradients of its own framework."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .checks.evidence import Evidence
from .checks.measured import arranged, measured_evidence
from .judge_watched import Batch
from .observation import Observation
from .parameters import Parameters
from .watching import Arrays, Twin


class Given(NamedTuple):
    """A batch as the user has it."""

    x: Any
    targets: Mapping[str, Any]
    sample_weight: Any = None

    @property
    def size(self) -> int:
        return int(np.shape(next(iter(self.targets.values())))[0])


Observe = Callable[[Arrays, Given], Observation]


class Observed:
    """What :mod:`pyengine.judge_watched` needs: the model as names and shapes, batches, and their evidence.

    ``observe`` records the model at given parameters; ``before`` are those at which the step began. A window of
    micro-batches is the mean over its samples: of one that has statistics of its own, such as batch norm's, each
    micro-batch keeps its own.
    """

    def __init__(self, observe: Observe, before: Arrays, whole: Sequence[Given], seed: int = 0) -> None:
        self.observe, self.before, self.seed = observe, before, seed
        shapes = {name: np.shape(target) for name, target in whole[0].targets.items()}
        features = {name: int(shape[-1]) for name, shape in shapes.items() if len(shape) > 1}
        first = observe(before, whole[0])
        self.network, self.native = arranged(first, features)
        self.twin = Twin(self.network, self.native)
        # What was measured once: hypotheses return to the same parameters and batches.
        self._seen: dict[tuple[int, bytes], Evidence] = {}
        self._keep(self.twin.parameters(before), whole[0], first)

    def batch(self, given: Sequence[Given]) -> Batch:
        size = sum(one.size for one in given)
        return Batch(np.empty((size, 0), np.float32), {}, None, tuple(given))

    def gather(self, at: Parameters, batch: Batch) -> Evidence:
        here = self.before | self.twin.arrays(at.flat, at.dtype)
        found = [
            self._seen[key] if (key := _key(at, one)) in self._seen else self._keep(at, one, self.observe(here, one))
            for one in batch.given
        ]
        return found[0] if len(found) == 1 else _mean(found, [one.size / len(batch.x) for one in batch.given])

    def _keep(self, at: Parameters, given: Given, seen: Observation) -> Evidence:
        found = self._seen[_key(at, given)] = measured_evidence(seen, self.network, self.native, self.seed)
        return found


def _key(at: Parameters, given: Given) -> tuple[int, bytes]:
    return id(given), hashlib.sha256(at.flat.tobytes()).digest()


def _mean(found: Sequence[Evidence], shares: Sequence[float]) -> Evidence:
    """The evidence of the mean over the samples of all parts. The sum of the parts rounds as their own sums do."""

    def mixed(parts: Sequence[Mapping[str, Parameters]]) -> dict[str, Parameters]:
        return {
            loss: Parameters(one.layout, np.sum([s * p[loss].flat for s, p in zip(shares, parts, strict=True)], axis=0))
            for loss, one in parts[0].items()
        }

    def numbers(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {loss: sum(s * p[loss] for s, p in zip(shares, parts, strict=True)) for loss in parts[0]}

    return Evidence(
        losses=numbers([one.losses for one in found]),
        loss_spread=numbers([one.loss_spread for one in found]),
        gradients=mixed([one.gradients for one in found]),
        spread=mixed([one.spread for one in found]),
        engine_32=mixed([one.engine_32 for one in found]),
        agreement=0.0,
        truth="engine",
    )

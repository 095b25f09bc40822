"""``pe.watch`` on Keras models, on each backend; the claims are in ``keras_watch_cases.py``."""

from __future__ import annotations

import pytest
from keras_claims import BACKENDS, claims_of, outcome

SCRIPT = "keras_watch_cases.py"


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("claim", claims_of(SCRIPT))
def test_keras_watch(claim: str, backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    failure = outcome(tmp_path_factory, SCRIPT, backend)[claim]
    assert not failure, failure

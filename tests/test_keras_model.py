"""``pe.verify`` on Keras models, on each backend; the claims are in ``keras_cases.py`` and ``keras_step_cases.py``."""

from __future__ import annotations

import pytest
from keras_claims import BACKENDS, claims_of, outcome

CLAIMS = [(script, claim) for script in ("keras_cases.py", "keras_step_cases.py") for claim in claims_of(script)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("script", "claim"), CLAIMS, ids=[claim for _, claim in CLAIMS])
def test_keras(script: str, claim: str, backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    failure = outcome(tmp_path_factory, script, backend)[claim]
    assert not failure, failure

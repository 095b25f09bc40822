"""Keras models in bfloat16, on each backend; the claims are in ``keras_narrow_cases.py``.

TensorFlow computes as its users have it, with oneDNN, which the other tests do without: TensorFlow's own products cut
what they store in bfloat16 off instead of rounding it, and are refuted for that (docs/tolerances.md, section 8).
"""

from __future__ import annotations

import pytest
from keras_claims import BACKENDS, claims_of, outcome

SCRIPT = "keras_narrow_cases.py"


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("claim", claims_of(SCRIPT))
def test_keras(
    claim: str, backend: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    failure = outcome(tmp_path_factory, SCRIPT, backend)[claim]
    assert not failure, failure

"""``python bench/constants``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from constants.command import main  # noqa: E402

sys.exit(main())

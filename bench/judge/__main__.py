"""``python bench/judge``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from judge.command import main  # noqa: E402  # the folders must be known first

sys.exit(main())

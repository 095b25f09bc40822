"""``python bench/fuzz``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from fuzz.threads import limit  # noqa: E402

if __name__ == "__main__":
    limit(sys.argv)

from fuzz.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

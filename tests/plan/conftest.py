"""The hand-made plans are shared with the tests of the runtime."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

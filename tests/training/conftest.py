"""The scripts of training/ import one another, as they do when Python runs them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "training"))  # last: evaluate.py must not hide the library

"""Update constraints.txt with the exact versions of this environment: `python .ci/pin.py`."""

import importlib.metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Exact versions for CI and for a reproducible set-up: pip install -c constraints.txt ...
# Lower bounds for users are in pyproject.toml. Written by .ci/pin.py
"""
LEFT_OUT = {"gengeo_hf", "pip", "setuptools", "wheel"}


def main() -> None:
    """Write the file without local version labels (2.13.0+cpu), which other systems do not have."""
    found = {dist.metadata["Name"]: dist.version.partition("+")[0] for dist in importlib.metadata.distributions()}
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items(), key=lambda pair: pair[0].lower())]
    kept = [line for line in lines if line.partition("==")[0] not in LEFT_OUT]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(kept), encoding="utf-8")


if __name__ == "__main__":
    main()

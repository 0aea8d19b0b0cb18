"""Print pip constraints that pin every package of pyproject.toml to its lower bound, for `make test-oldest`.

A bound of X.Y means the newest patch release of X.Y, because pip would install its fixes too.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def constraints(project: dict) -> list[str]:
    """Return one line for each requirement; a package without a lower bound is an error."""
    table = project["project"]
    wanted = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]
    lines = set()
    for requirement in wanted:
        if requirement.startswith(table["name"]):  # extras of this package itself
            continue
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=(\d+(?:\.\d+)+)(?:,<[\d.]+)?(?:;.*)?", requirement)
        if found is None:
            raise SystemExit(f"{requirement!r} has no lower bound of the form name>=X.Y")
        name, bound = found.groups()
        lines.add(f"{name}=={bound}" + ("" if bound.count(".") > 1 else ".*"))
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(constraints(tomllib.loads(PROJECT.read_text(encoding="utf-8")))))

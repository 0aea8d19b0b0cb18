"""Check settings of other services: workflows, Dependabot, Read the Docs, CITATION.cff, templates, Dockerfile.

All are checked against the schemas of check-jsonschema, without network access.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = {
    "github-workflows": ".github/workflows/*.yaml",
    "dependabot": ".github/dependabot.yaml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/[0-9]*.yaml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yaml",
    "readthedocs": ".readthedocs.yaml",
    "citation-file-format": "CITATION.cff",
}


def main() -> int:
    """Check all files; return 0 if all are valid."""
    codes = []
    for schema, pattern in SCHEMAS.items():
        files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
        if not files:
            print(f"{pattern} is missing")
            codes.append(1)
            continue
        program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
        yaml = ["--default-filetype", "yaml"]
        codes.append(subprocess.run([*program, *yaml, *files], cwd=ROOT, check=False).returncode)
    hadolint = Path(sys.executable).parent / "hadolint"
    if hadolint.is_file():  # it has wheels only for Linux and macOS
        codes.append(subprocess.run([str(hadolint), "Dockerfile"], cwd=ROOT, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())

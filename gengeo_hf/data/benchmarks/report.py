"""Report of `gengeo data check`: findings with expected values and advice, and links that `--fix` can make."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image

SAMPLES = 12  # images that are decoded in each directory


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        what: Subject of the check.
        found: What was found.
        expected: What was expected; "" if any value is accepted.
        ok: Whether the data can be used for training and evaluation.
        advice: What to do; "" for nothing.
        is_warning: Whether the finding deserves attention although the data can be used.
    """

    what: str
    found: str
    expected: str = ""
    ok: bool = True
    advice: str = ""
    is_warning: bool = False

    def __str__(self) -> str:
        wanted = f" (expected {self.expected})" if self.expected and not self.ok else ""
        advice = f"\n      -> {self.advice}" if self.advice else ""
        state = "FAIL" if not self.ok else "warn" if self.is_warning else "ok  "
        return f"{state}  {self.what}: {self.found}{wanted}{advice}"


@dataclass
class Report:
    """All findings about the directory of one data set.

    Args:
        name: Name of the data set.
        folder: Directory that was checked.
        findings: Findings in the order of the report.
        links: (link, target) for files that other tools expect at the path `link`; `make_links` makes them.
    """

    name: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    links: list[tuple[Path, Path]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.ok for finding in self.findings)

    def add(self, what: str, found: str, expected: str = "", ok: bool = True, advice: str = "") -> None:
        """Append a finding; see `Finding` for the arguments."""
        self.findings.append(Finding(what, found, expected, ok, advice))

    def warn(self, what: str, found: str) -> None:
        """Append a warning, which does not make the check fail."""
        self.findings.append(Finding(what, found, is_warning=True))

    def count(self, what: str, found: int, expected: int, advice: str = "", also: dict[int, str] | None = None) -> None:
        """Append a finding that compares a number with the published one.

        Args:
            what: Subject of the check.
            found: Number found.
            expected: Published number.
            advice: What to do if the number is not accepted.
            also: Names of other accepted lists, by their number.
        """
        known = (also or {}).get(found)
        ok = found == expected or known is not None
        note = f"{found:,}" + (f", {known} (published: {expected:,})" if known and found != expected else "")
        self.add(what, note, f"{expected:,}", ok, "" if ok else advice)

    def images(self, what: str, folder: Path, size: tuple[int, int] | None = None) -> None:
        """Append findings about image files: empty ones, and samples that cannot be decoded or have another size.

        Args:
            what: Subject of the check.
            folder: Directory with image files directly in it.
            size: (height, width) in pixels of the published images; None accepts any size.
        """
        files: list[str] = []
        empty: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    (files if entry.stat().st_size else empty).append(entry.name)
        if empty:
            self.add(what, f"{len(empty):,} files of 0 bytes, first {min(empty)}", "none", False, "fetch them again")
        files.sort()
        step = max(1, len(files) // SAMPLES)
        other: list[str] = []
        samples = files[::step][:SAMPLES]
        for name in samples:
            try:
                width, height = open_image(folder / name).size
            except GenGeoError as error:
                self.add(what, str(error), "a readable image", False, "fetch it again")
                continue
            if size is not None and (height, width) != size:
                other.append(f"{name} is {height} x {width}")
        if other and size is not None:
            self.add(
                what,
                f"{len(other)} of {len(samples)} samples differ in size: {other[0]} pixels",
                f"{size[0]} x {size[1]}",
                True,
                "resized copies can be used; state it beside results",
            )

    def missing(self, what: str, gone: Sequence[str], total: int, advice: str, known: int = 0) -> None:
        """Append a finding about pairs without images.

        Args:
            what: Subject of the check.
            gone: Name of each pair without images.
            total: Number of all pairs.
            advice: What to do if images are missing.
            known: Number of pairs whose images are missing in the published data.
        """
        found = f"{total - len(gone):,} of {total:,} pairs have both images"
        if gone:
            found += f", {gone[0]} does not" if len(gone) == 1 else f", {len(gone):,} do not, first {gone[0]}"
        self.add(what, found, f"{total - known:,}", len(gone) <= known, "" if len(gone) <= known else advice)

    def add_file(self, what: str, found: Path | None, usual: Path, advice: str, needed: bool = True) -> None:
        """Append a finding about a file that may have several paths, and offer a link at the usual one.

        Args:
            what: Subject of the check.
            found: Path of the file; None if it was not found.
            usual: Path at which other tools expect it.
            advice: What to do if it was not found.
            needed: Whether the check fails without it.
        """
        if found is None:
            self.add(what, "not found", str(usual.relative_to(self.folder)), not needed, advice)
            return
        if found == usual:
            self.add(what, str(found.relative_to(self.folder)))
            return
        self.add(what, str(found.relative_to(self.folder)), advice="--fix makes a link where other tools expect it")
        self.links.append((usual, found))

    def make_links(self) -> list[Path]:
        """Make the offered links. Nothing is moved, replaced or deleted.

        Returns:
            Paths of the links that were made.

        Raises:
            GenGeoError: The file system refuses links.
        """
        made = []
        for link, target in self.links:
            if link.exists() or link.is_symlink():
                continue
            try:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=target.is_dir())
            except OSError as error:
                raise GenGeoError(f"{link} could not be linked to {target}: {error}") from error
            made.append(link)
        return made

    def __str__(self) -> str:
        failed = sum(not finding.ok for finding in self.findings)
        lines = [f"{self.name} in {self.folder}", *(str(finding) for finding in self.findings)]
        warned = sum(finding.is_warning for finding in self.findings)
        passed = "everything is there" + (f", with {warned} warning{'s' * (warned > 1)}: read them" if warned else "")
        lines.append(passed if self.ok else f"{failed} of {len(self.findings)} checks failed")
        return "\n".join(lines)

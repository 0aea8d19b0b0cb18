"""What `gengeo data check` says of a folder: what was found, what was expected, what to do.

Lines for the terminal, an exit code, and links that `--fix` may make.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image

SAMPLES = 12  # images of each folder that are decoded


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        what: the thing that was looked at.
        found: what is there.
        expected: what should be there; empty where anything will do.
        ok: whether training and evaluation can go on with it.
        advice: what to do.
        is_warning: whether it is something to look at that stops nothing.
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
    """All findings about one folder.

    Args:
        name: of the data set.
        folder: that was looked at.
        findings: in the order in which they are shown.
        links: (link, target): what other tools expect and is found elsewhere; `make_links` makes them.
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
        """Append a finding."""
        self.findings.append(Finding(what, found, expected, ok, advice))

    def warn(self, what: str, found: str) -> None:
        """Append something to look at that stops nothing."""
        self.findings.append(Finding(what, found, is_warning=True))

    def count(self, what: str, found: int, expected: int, advice: str = "", also: dict[int, str] | None = None) -> None:
        """Append a finding that compares a number; sizes in `also` are known and accepted."""
        known = (also or {}).get(found)
        ok = found == expected or known is not None
        note = f"{found:,}" + (f", {known} (published: {expected:,})" if known and found != expected else "")
        self.add(what, note, f"{expected:,}", ok, "" if ok else advice)

    def images(self, what: str, folder: Path, size: tuple[int, int] | None = None) -> None:
        """Append findings about the files of a folder: empty ones, and whether some of them decode.

        Args:
            what: how lines call it.
            folder: with image files directly in it.
            size: (height, width) in pixels of the published images.
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
                self.add(what, str(error), "a whole image", False, "fetch it again")
                continue
            if size is not None and (height, width) != size:
                other.append(f"{name} is {height} x {width}")
        if other and size is not None:
            self.add(
                what,
                f"{len(other)} of {len(samples)} samples differ in size: {other[0]} pixels",
                f"{size[0]} x {size[1]}",
                True,
                "resized copies can be used; say so beside results",
            )

    def missing(self, what: str, gone: Sequence[str], total: int, advice: str, known: int = 0) -> None:
        """Append a finding about pairs without images."""
        found = f"{total - len(gone):,} of {total:,} pairs have both images"
        if gone:
            found += f", {gone[0]} has not" if len(gone) == 1 else f", {len(gone):,} have not, first {gone[0]}"
        self.add(what, found, f"{total - known:,}", len(gone) <= known, "" if len(gone) <= known else advice)

    def elsewhere(self, what: str, found: Path | None, usual: Path, advice: str, needed: bool = True) -> None:
        """Append a finding about a file that has several homes; offer a link at the usual one."""
        if found is None:
            self.add(what, "not found", str(usual.relative_to(self.folder)), not needed, advice)
            return
        if found == usual:
            self.add(what, str(found.relative_to(self.folder)))
            return
        self.add(what, str(found.relative_to(self.folder)), advice="--fix links it where other tools look for it")
        self.links.append((usual, found))

    def make_links(self) -> list[Path]:
        """Make the links that are offered. Nothing is moved, replaced or deleted.

        Raises:
            GenGeoError: the file system refuses links.
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
        fine = "everything is there" + (f", with {warned} warning{'s' * (warned > 1)}: read them" if warned else "")
        lines.append(fine if self.ok else f"{failed} of {len(self.findings)} checks failed")
        return "\n".join(lines)

"""Download of Just Zoom In from the Hub, for `gengeo data get justzoomin`. An interrupted run can be resumed.

The target directory holds the authors' directories (`metadata`, `streetview`, `satellite`), the rendered `cells`, the
table with its attribution and licences, and `.get`: the list of the Hub's files, archives being downloaded, and a
record of each unpacked archive.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gengeo_hf.acquire.download import check_space, content_problem, download, gigabytes
from gengeo_hf.acquire.hub_files import HubFile, HubFiles, authorisation, list_files
from gengeo_hf.acquire.justzoomin_cells import render_cells
from gengeo_hf.acquire.justzoomin_table import sources_of, write_table
from gengeo_hf.acquire.own_table import ATTRIBUTION_FILE, LICENCES_FILE
from gengeo_hf.acquire.remote_stream import RemoteStream
from gengeo_hf.acquire.unpack import Unpacked, unpack
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.locks import exclusive
from gengeo_hf.common.tables import PAIRS_FILE
from gengeo_hf.data.benchmarks import justzoomin_lists as lists
from gengeo_hf.data.benchmarks.justzoomin_grid import CELL_M
from gengeo_hf.data.benchmarks.justzoomin_lists import LISTING, STATE, UNPACKED
from gengeo_hf.data.sources import SOURCES_FILE

REPOSITORY = "pcvlab/justzoomin"
REVISION = "349f392b3620e7cea2596b8ade47b726786f9a1d"
LICENCE = "cc-by-sa-4.0"
TOPS = ("streetview", "satellite")
OURS = {
    *TOPS,
    "metadata",
    "archives",
    "cells",
    "README.md",
    STATE,
    PAIRS_FILE,
    ATTRIBUTION_FILE,
    SOURCES_FILE,
    LICENCES_FILE,
}
SMALL = ("README.md", *lists.LISTS.values(), lists.LAYOUT)
CELL_BYTES = 0.45  # bytes per pixel of a rendered cell
AT_ONCE = 200  # photos between two updates of the record of a partly read archive
Progress = Callable[[Iterable[Any], int | None, str], Iterable[Any]]


@dataclass(frozen=True)
class FetchOptions:
    """Options of the download.

    Args:
        revision: Commit, branch or tag of the data set.
        archives: Numbers of the photo archives separated by commas, or "all".
        max_photos: Maximum number of photos, which are read from the beginning of archives; None fetches whole
            archives.
        zoom: Zoom level of the aerial imagery, 0 (0.08 m per pixel) or below; each lower level doubles the pixel size.
        crop_m: Side of a cell's crop in metres.
        offline: Whether to use local files only, without requests.
        verify: Whether to check every unpacked file against the record of its archive; archives with damaged files
            are fetched again.
        licence: Licence that the data set's card must state.
    """

    revision: str = REVISION
    archives: str = "0"
    max_photos: int | None = None
    zoom: int = -2
    crop_m: float = CELL_M
    offline: bool = False
    verify: bool = False
    licence: str = LICENCE


@dataclass
class Plan:
    """Plan of a run.

    Args:
        root: Target directory.
        options: Options of the download.
        files: Files of the data set on the Hub.
        archives: Archives that must be fetched as a whole and unpacked.
        partial: Photo archives that are read partly.
        damaged: Unpacked files that are damaged.
    """

    root: Path
    options: FetchOptions
    files: HubFiles
    archives: list[str]
    partial: list[str]
    damaged: list[str] = field(default_factory=list)

    @property
    def download_bytes(self) -> int:
        """Number of bytes to fetch; for partly read archives an estimate with 450 KB per photo."""
        whole = sum(self.files.files[name].size for name in (*self.archives, *SMALL) if not self._is_local(name))
        return whole + 450_000 * (self.options.max_photos or 0 if self.partial else 0)

    @property
    def disk_bytes(self) -> int:
        """Number of free bytes needed on disk: unpacked files, cells, and the largest archive beside its content."""
        sizes = [self.files.files[name].size for name in self.archives]
        pixels = (self.options.crop_m / (0.08 * 2.0**-self.options.zoom)) ** 2
        cells = int(lists.grid.CELLS**2 * CELL_BYTES * pixels)
        return self.download_bytes + max(sizes, default=0) + cells

    def _is_local(self, name: str) -> bool:
        return (self.root / name).is_file() or (self.root / STATE / name).is_file()

    def summary(self) -> str:
        """Files to fetch, disk space and licences, as text."""
        fetched = [*self.archives, *(f"{name} (its first photos)" for name in self.partial)]
        archives = ", ".join(name.removeprefix("archives/") for name in fetched) or "no archive"
        return (
            f"{REPOSITORY} at {self.files.revision[:12]}: {archives}\n"
            f"download {gigabytes(self.download_bytes)}, free disk needed {gigabytes(self.disk_bytes)}\n"
            f"{sources_of(self.files, {}, '').summary()}\n"
            f"the card states today: {self.files.licence}"
        )


def plan(root: Path, options: FetchOptions, progress: Progress = lambda items, total, unit: items) -> Plan:
    """Determine the missing files. The list of files is requested from the Hub unless `options.offline` is set.

    Args:
        root: Target directory.
        options: Options of the download.
        progress: Wraps the check of files to show progress.

    Raises:
        GenGeoError: The directory holds other files or another revision, the Hub does not respond, an archive does
            not exist, or the card states another licence.
    """
    check_directory(root)
    files = _load_listing(root, options)
    if files.licence.lower() != options.licence.lower():
        raise GenGeoError(
            f"{REPOSITORY} states the licence {files.licence or 'none'!r} today, expected {options.licence}: read "
            f"https://huggingface.co/datasets/{REPOSITORY} and, if you agree, set --accept-licence "
            f"{files.licence or 'none'!r}; nothing was fetched"
        )
    if missing := [name for name in SMALL if name not in files.files]:
        raise GenGeoError(f"{REPOSITORY} at {files.revision[:12]} has no {missing[0]}: it changed; omit --revision")
    photos, tiles = photo_archives(files, options.archives), tile_archives(files, options.zoom)
    found = Plan(root, options, files, [], photos if options.max_photos is not None else [])
    for name in [*tiles, *([] if found.partial else photos)]:
        record = Unpacked.load(record_path(root, name))
        if record is not None and record.is_complete and options.verify:
            damaged = list(progress(record.damaged(root), None, f"checked files of {name}"))
            found.damaged += damaged
            record = None if damaged else record
        if record is None or not record.is_complete:
            found.archives.append(name)
    return found


def check_directory(root: Path) -> None:
    """Check that a directory is new, or holds this data set only.

    Raises:
        GenGeoError: The path is a file, or the directory holds other files.
    """
    if root.exists() and not root.is_dir():
        raise GenGeoError(f"{root} is a file: give the name of a directory")
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    if unknown := [name for name in names if name not in OURS]:
        raise GenGeoError(
            f"{root} holds {unknown[0]}, which is not part of Just Zoom In: give a new directory; nothing was changed"
        )


def _load_listing(root: Path, options: FetchOptions) -> HubFiles:
    """The list of the Hub's files; a directory holds one revision only."""
    path = root / STATE / LISTING
    old = HubFiles.load(path) if path.is_file() else None
    if options.offline:
        if old is None:
            raise GenGeoError(f"{root} has no list of files yet: run once without --offline")
        is_commit = re.fullmatch(r"[0-9a-f]{40}", options.revision)  # a branch cannot be resolved without a network
        new = dataclasses.replace(old, revision=options.revision) if is_commit else old
    else:
        new = list_files(REPOSITORY, options.revision)
    if old is not None and old.revision != new.revision:
        raise GenGeoError(
            f"{root} holds revision {old.revision[:12]}, but {new.revision[:12]} is requested: give another --out, or "
            f"--revision {old.revision}"
        )
    return new


def photo_archives(files: HubFiles, wanted: str) -> list[str]:
    """Paths of photo archives.

    Args:
        files: Files of the data set on the Hub.
        wanted: Numbers of archives, see `FetchOptions.archives`.

    Raises:
        GenGeoError: The data set has no photo archives, or lacks one of these.
    """
    found = {
        int(m[1]): name for name in files.files if (m := re.fullmatch(r"archives/streetview_images_(\d+)\.tar", name))
    }
    if not found:
        raise GenGeoError(f"{REPOSITORY} at {files.revision[:12]} has no archives of photos: its layout changed")
    if wanted.strip().lower() == "all":
        return [found[number] for number in sorted(found)]
    numbers = [text.strip() for text in wanted.split(",") if text.strip()]
    unknown = [text for text in numbers if not (text.isascii() and text.isdigit() and int(text) in found)]
    if unknown or not numbers:
        raise GenGeoError(
            f"there is no archive {unknown[0] if numbers else wanted!r}: --archives takes numbers from {min(found)} to "
            f"{max(found)} separated by commas, or all"
        )
    return [found[number] for number in sorted({int(text) for text in numbers})]


def tile_archives(files: HubFiles, zoom: int) -> list[str]:
    """Paths of the tile archives of one zoom level, whose number may be written as m2 or -2.

    Raises:
        GenGeoError: There are none.
    """
    found: dict[int, list[str]] = {}
    for name in sorted(files.files):
        if match := re.fullmatch(r"archives/satellite_level_([m-]?)(\d+)_(\d+)\.tar", name):
            found.setdefault(-int(match[2]) if match[1] else int(match[2]), []).append(name)
    if zoom not in found:
        known = ", ".join(map(str, sorted(found, reverse=True))) or "none"
        raise GenGeoError(f"{REPOSITORY} has no tiles of zoom {zoom}; it has {known}")
    return found[zoom]


def record_path(root: Path, name: str) -> Path:
    """Path of the record of an unpacked archive."""
    return root / STATE / UNPACKED / f"{Path(name).name}.parquet"


def fetch(todo: Plan, progress: Progress = lambda items, total, unit: items) -> dict[str, Any]:
    """Carry out a plan: download, check and unpack archives, render cells, write the table.

    Args:
        todo: Plan from `plan`.
        progress: Wraps the iterations of a step to show progress.

    Returns:
        Facts about the data set, as `SOURCES.json` states them.

    Raises:
        GenGeoError: The disk is full, the Hub does not respond, an archive has another checksum, or another process
            writes to the same directory. Fetched files are kept, and the same command continues.
    """
    root = todo.root
    if not todo.options.offline:
        check_space(root, todo.disk_bytes)
    with exclusive(root / STATE / "lock", wait=False) as is_locked:
        if not is_locked:
            raise GenGeoError(f"another process fetches into {root}: wait for it, or give another --out")
        todo.files.save(root / STATE / LISTING)
        for name in SMALL:
            _fetch_small(todo, name)
        lists.read_layout(root)
        for name in todo.archives:
            _fetch_archive(todo, name, progress)
        if todo.options.max_photos is not None:
            _fetch_part(todo, todo.options.max_photos, progress)
        zoom, crop_m = todo.options.zoom, todo.options.crop_m
        cells = render_cells(root, zoom, crop_m, lambda items, total: progress(items, total, "blocks of cells"))
        return write_table(root, todo.files, cells, zoom, crop_m)


def _fetch_small(todo: Plan, name: str) -> None:
    """Fetch one small file unless it is complete."""
    path, file = todo.root / name, todo.files.files[name]
    if path.is_file() and content_problem(path, name, **file.checksums) is None:
        return
    if todo.options.offline:
        raise GenGeoError(f"{path} is missing or damaged: run once without --offline")
    path.unlink(missing_ok=True)
    _download(todo, name, path, file)


def _download(todo: Plan, name: str, path: Path, file: HubFile) -> None:
    download(todo.files.address(name), path, size=file.size, headers=authorisation(), name=name, **file.checksums)


def _fetch_archive(todo: Plan, name: str, progress: Progress) -> None:
    """Fetch one archive, unpack it, write its record and remove it. An archive that the user provided is kept."""
    file, provided, temporary = todo.files.files[name], todo.root / name, todo.root / STATE / name
    path = provided if provided.is_file() else temporary
    if path == provided or todo.options.offline:
        if not path.is_file():
            raise GenGeoError(f"{name} is not unpacked and not in {todo.root}: run once without --offline")
        if path.stat().st_size != file.size or (problem := content_problem(path, name, **file.checksums)):
            size = f"{name} has {path.stat().st_size:,} bytes, expected {file.size:,}"
            raise GenGeoError(f"{size if path.stat().st_size != file.size else problem}: remove {path} and run again")
    else:
        _download(todo, name, path, file)
    with path.open("rb") as archive:
        unpack(
            archive, todo.root, TOPS, name, progress=lambda items: progress(items, None, f"files of {Path(name).name}")
        ).save(record_path(todo.root, name))
    if path == temporary:
        path.unlink()


def _fetch_part(todo: Plan, most: int, progress: Progress) -> None:
    """Read photos from the beginning of archives until there are `most`."""
    count = 0
    for name in todo.partial:
        record = Unpacked.load(record_path(todo.root, name)) or Unpacked([])
        if todo.options.verify and any(record.damaged(todo.root)):
            record = Unpacked([])  # start again at the beginning of the archive
        while not record.is_complete and count + len(record.members) < most:
            if todo.options.offline:
                raise GenGeoError(f"only {count + len(record.members):,} photos are on disk: leave out --offline")
            size, wanted = todo.files.files[name].size, min(AT_ONCE, most - count - len(record.members))
            if record.next_offset >= size - 1024:  # a tar archive ends with zeros
                record = Unpacked(record.members, record.next_offset, True)
            else:
                record = _next_photos(todo, name, record, wanted, progress)
            record.save(record_path(todo.root, name))
        count += len(record.members)


def _next_photos(todo: Plan, name: str, before: Unpacked, wanted: int, progress: Progress) -> Unpacked:
    """Unpack the next `wanted` photos of a remote archive, and extend its record."""
    address, start = todo.files.address(name), before.next_offset
    with RemoteStream(address, name, authorisation(), start) as stream:
        more = unpack(
            stream,  # type: ignore[arg-type]  # RawIOBase has the methods that are used
            todo.root,
            TOPS,
            name,
            start=start,
            most=wanted,
            progress=lambda items: progress(items, wanted, f"photos of {Path(name).name}"),
        )
    return Unpacked([*before.members, *more.members], more.next_offset, more.is_complete)

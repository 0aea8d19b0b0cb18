"""Users' own pairs: a table in a format that `gengeo_hf.common.tables` reads, or two directories with equal file names.

A table needs the columns `ground` and `aerial`. Optional columns are `lat`, `lon` (of the photo), `tile_lat`,
`tile_lon` or `west`, `south`, `east`, `north` (of the tile), the camera (`heading`, `fov`, `vertical_fov`, `pitch`,
`roll`, `projection`), `area`, `query_id`, `tile_id`, `extra_positives` (other tiles that show the photo's position) and
`split`. Common other names are recognised (`column_names.py`), and the option `columns` maps all others. Photos without
`fov` are ordinary photos, not panoramas.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import IMAGE_SUFFIXES, is_hidden, read_metadata
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.common.tables import Table, as_table, read_table
from gengeo_hf.data.area_split import choose_block_m, split_training
from gengeo_hf.data.benchmarks.layout import kept_pairs, logger, names_in, unknown_split
from gengeo_hf.data.column_names import ANGLES
from gengeo_hf.data.own_columns import Rows, rows_from_table
from gengeo_hf.data.tables import gallery_table, query_table

SPLITS = ("train", "validation", "test")
SPLITS_AND_ALL = (*SPLITS, "all")
EMPTY_SPLIT_ADVICE = "the split options leave none: change its share, set a smaller margin_m, or set split_by=id"
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}
GROUND_FOLDERS = ("ground", "photos", "query", "street", "streetview")
AERIAL_FOLDERS = ("aerial", "tiles", "satellite", "gallery", "sat")


@dataclass(frozen=True)
class SplitOptions:
    """How pairs without a column `split` are split; training and evaluation must use the same values.

    Args:
        validation_share, test_share: Share of all pairs (of all tiles, with the method "id"), 0 to 0.5. Test pairs are
            selected first, then validation pairs; the rest without the margins is for training.
        split_by: "area", "id", or "auto": by area if at least half of the pairs have positions, else by id.
        block_m: Side of a block in metres; None takes the largest round value that leaves enough blocks.
        margin_m: Training pairs nearer than this many metres to a pair of another split are left out.
        seed: Seed of the choice of blocks or ids.

    Raises:
        GenGeoError: A share is outside its range, or both together leave less for training than for validation.
    """

    validation_share: float = 0.1
    test_share: float = 0.1
    split_by: str = "auto"
    block_m: float | None = None
    margin_m: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        validation, test = self.validation_share, self.test_share
        if not (0 <= test <= 0.5 and 0 <= validation <= (1 - test) / 2):
            raise GenGeoError(
                f"test_share must lie in 0..0.5 and validation_share in 0..(1 - test_share) / 2, found {test:g} and "
                f"{validation:g}"
            )


def load_table(
    root: str | Path, split: str, *, columns: Mapping[str, str] | None = None, missing: str = "error", **options: Any
) -> CrossViewDataset:
    """Load pairs from a table.

    Args:
        root: Path or name of the table, see `gengeo_hf.common.tables.read_table`. Paths in a table are relative to its
            directory.
        split: "train", "validation", "test" or "all". A column `split` states the split of each row; rows in which it
            is empty belong to no split. Without such a column, pairs are split by `SplitOptions`. All photos of a tile
            belong to the same split.
        columns: Names of the table's columns by the names above, where they are not recognised. A name with braces
            is a pattern over the columns: `{"ground": "{id}.jpg", "aerial": "{id}_sat.jpg"}`.
        missing: "error" or "drop"; see `kept_pairs`.
        options: Fields of `SplitOptions`, for a table without a column `split`; and `fov`, `heading`, `vertical_fov`,
            `pitch`, `roll` of all photos in degrees, which replace the table's columns.

    Example:
        >>> data = load_pairs("table", "pairs.csv", split="train", columns={"heading": "compass"})

    Raises:
        GenGeoError: The table, a column or an image is missing, a cell is not a number, or the split has no pairs.
    """
    if split not in SPLITS_AND_ALL:
        raise unknown_split("table", split, SPLITS_AND_ALL)
    return _load_split(parse_rows(read_table(root), columns, options), split, missing, options)


def load_folder(root: str | Path, split: str, *, fov: float | None = None, **options: Any) -> CrossViewDataset:
    """Load pairs from two directories, `ground` and `aerial`, whose files have the same names up to the suffix.

    Positions and headings are read from the photos' EXIF. If there are directories `train`, `validation` or `test` that
    hold the two, they are the splits, and ids are `<split>/<name>`, since names may repeat between them. Otherwise
    pairs are split by `SplitOptions`.

    Args:
        root: Directory that holds `ground` and `aerial`, or `train`, `validation` or `test`.
        split: "train", "validation", "test" or "all".
        fov: Horizontal field of view of all photos in degrees; 360 for panoramas, None if unknown.
        options: Fields of `SplitOptions`.

    Raises:
        GenGeoError: A directory is missing, no name is in both, or the split has no pairs.
    """
    if split not in SPLITS_AND_ALL:
        raise unknown_split("folder", split, SPLITS_AND_ALL)
    root, split_options = Path(root), _split_options(options)
    ready = [part for part in SPLITS if any((root / part / name).is_dir() for name in GROUND_FOLDERS)]
    if not ready:
        pairs = _find_pairs(root)
    elif split in (*ready, "all"):
        wanted = ready if split == "all" else [split]
        pairs = {f"{part}/{name}": pair for part in wanted for name, pair in _find_pairs(root / part).items()}
    else:
        raise GenGeoError(f"{root} has no directory {split!r}; it has {', '.join(ready)}")
    names, found = list(pairs), [read_metadata(photo).position for photo, _ in pairs.values()]
    lat, lon, heading = (
        np.array([np.nan if p is None or getattr(p, key) is None else getattr(p, key) for p in found])
        for key in ("lat", "lon", "heading")
    )
    chosen = np.arange(len(names))
    if not ready and split != "all":
        chosen = np.flatnonzero(assign_splits(names, lat, lon, split_options) == split)
        if not len(chosen):
            raise GenGeoError(f"{root} has no pairs of the split {split!r}; {EMPTY_SPLIT_ADVICE}")
    ids = [names[row] for row in chosen]
    ground, aerial = ([pairs[name][view] for name in ids] for view in (0, 1))
    return CrossViewDataset(
        f"{root.name}/{split}",
        query_table(ids, ground, ids, lat=lat[chosen], lon=lon[chosen], heading=heading[chosen], fov=fov),
        gallery_table(ids, aerial, lat=lat[chosen], lon=lon[chosen]),
    )


def load_hf_dataset(
    table: datasets.Dataset,
    split: str = "all",
    *,
    columns: Mapping[str, str] | None = None,
    missing: str = "error",
    **options: Any,
) -> CrossViewDataset:
    """Load pairs from an HF dataset in memory or from `datasets.load_dataset`; arguments as in `load_table`.

    Example:
        >>> pairs = load_hf_dataset(datasets.load_dataset("someone/pairs", split="train"))
    """
    if split not in SPLITS_AND_ALL:
        raise unknown_split("dataset", split, SPLITS_AND_ALL)
    return _load_split(parse_rows(as_table(table), columns, options), split, missing, options).validate()


def parse_rows(table: Table, columns: Mapping[str, str] | None, options: dict[str, Any]) -> Rows:
    """The rows of a table, from `read_table` or `as_table`.

    Args:
        table: Table to parse.
        columns: See `load_table`.
        options: See `load_table`; options of the camera are removed from it.

    Raises:
        GenGeoError: See `rows_from_table`.
    """
    camera = {key: float(options.pop(key)) for key in ANGLES if options.get(key) is not None}
    return rows_from_table(table, columns or {}, camera)


def assign_splits(ids: Sequence[str], lat: np.ndarray, lon: np.ndarray, options: SplitOptions) -> np.ndarray:
    """The split of each pair: "train", "validation", "test", or "" for a pair that is left out.

    Pairs within the margin around another split are left out and, with split_by="auto" and a split by area, pairs
    without a position.

    Args:
        ids: Id of each pair, length N. Pairs with equal ids belong to one split, by area only if they have the same
            position.
        lat, lon: Positions in degrees, (N,), NaN where unknown.
        options: Shares and method.

    Returns:
        Text (N,).

    Raises:
        GenGeoError: See `split_training`; or all pairs lie within the margin around the test pairs.
    """
    unknown = np.isnan(lat) | np.isnan(lon)
    by_area = 2 * unknown.sum() < len(ids)
    method = options.split_by if options.split_by != "auto" else "area" if by_area else "id"
    splits = np.full(len(ids), "train", dtype="U10")
    left = np.arange(len(ids))
    if unknown.any() and not unknown.all() and options.split_by == "auto":
        effect = (
            "pairs are split by area, and these belong to no split; split_by=id keeps them"
            if by_area
            else "pairs are split by id and not by area, so results are too optimistic"
        )
        first = ids[int(np.argmax(unknown))]
        logger.warning("%d of %d photos have no position, first %s: %s", unknown.sum(), len(ids), first, effect)
        if by_area:
            splits[unknown], left = "", np.flatnonzero(~unknown)

    def size(rows: np.ndarray) -> int:
        """Number of pairs or, for a split by id, of different ids."""
        return len({ids[int(row)] for row in rows}) if method == "id" else len(rows)

    for number, (part, share) in enumerate((("test", options.test_share), ("validation", options.validation_share))):
        if share == 0:
            continue
        if not len(left):
            raise GenGeoError(
                f"all {len(ids):,} pairs lie within margin_m={options.margin_m:g} m of the test pairs, and none is "
                f"left for {part}: set a smaller margin_m or split_by=id"
            )
        # The share refers to all pairs, although some are assigned or left out already; at most half of the rest.
        share = min(0.5, share * size(np.arange(len(ids))) / max(1, size(left)))
        side = options.block_m or (choose_block_m(lat[left], lon[left], share) if method == "area" else 0.0)
        found = split_training(
            [ids[int(row)] for row in left],
            lat[left],
            lon[left],
            share,
            method=method,
            block_m=side,
            margin_m=options.margin_m,
            seed=2 * options.seed + number,
        )
        splits[left[found.validation]] = part
        splits[left[~found.validation & ~found.train]] = ""
        left = left[found.train]
    return splits


def count_unknown_splits(rows: Rows) -> dict[str, int]:
    """Number of rows by each value of the column `split` that does not name a split; "" stands for empty cells."""
    counts = Counter(parse_split_name(value) for value in rows.split or ())
    return {value: counts[value] for value in sorted(set(counts) - set(SPLITS))}


class Splits:
    """The splits of a table. They are computed once, when the first one is loaded.

    Args:
        rows: Rows from `parse_rows`.
        missing: "error" or "drop"; see `kept_pairs`.
        options: Fields of `SplitOptions`.

    Raises:
        GenGeoError: Images are missing, no row has a photo, or an option is unknown.
    """

    def __init__(self, rows: Rows, missing: str, options: dict[str, Any]) -> None:
        self.rows, self._options = rows, _split_options(options)
        self.kept = kept_pairs(rows.name, rows.label, rows.present, missing)
        if not rows.has_photo[self.kept].any():
            raise GenGeoError(f"{rows.name} has no row with a photo, so there are no queries")
        self._split_of_row: list[str] | None = None

    def load(self, split: str) -> CrossViewDataset:
        """Load one split, or "all".

        Raises:
            GenGeoError: The split has no pairs.
        """
        rows, name = self.rows, f"{self.rows.name}/{split}"
        if split == "all":
            return rows.build_dataset(name, self.kept.tolist())
        if self._split_of_row is None:
            self._split_of_row = _splits_of_rows(rows, self.kept, self._options)
        wanted = [int(row) for row, found in zip(self.kept, self._split_of_row, strict=True) if found == split]
        if any(rows.has_photo[row] for row in wanted):
            return rows.build_dataset(name, wanted)
        there = ", ".join(sorted(set(self._split_of_row) & set(SPLITS))) or "none"
        message = f"{rows.name} has no pairs of the split {split!r}; it has {there}"
        if rows.split is None:
            raise GenGeoError(f"{message}; {EMPTY_SPLIT_ADVICE}")
        if there == "none":  # a column of this name with another meaning
            value = next(iter(count_unknown_splits(rows)))
            message += (
                f": its column for split holds {value!r}; write {', '.join(SPLITS)} there, or rename the column, and "
                "the pairs are split automatically"
            )
        raise GenGeoError(message)


def _load_split(rows: Rows, split: str, missing: str, options: dict[str, Any]) -> CrossViewDataset:
    """Load one split of a table, and log its notes."""
    for note in rows.notes:
        logger.warning("%s", note)
    splits = Splits(rows, missing, options)
    if split != "all" and (unknown := count_unknown_splits(rows)):
        counts = ", ".join(
            f"{count:,} of {value!r}" if value else f"{count:,} empty" for value, count in unknown.items()
        )
        logger.warning("%s: cells of the column split name no split (%s); their rows are left out", rows.name, counts)
    return splits.load(split)


def _split_options(options: dict[str, Any]) -> SplitOptions:
    """Options of a loader as `SplitOptions`."""
    known = [field.name for field in fields(SplitOptions)]
    if unknown := sorted(set(options) - set(known)):
        raise GenGeoError(f"unknown option {unknown[0]!r}; options of splits are {', '.join(known)}")
    return SplitOptions(**options)


def _splits_of_rows(rows: Rows, kept: np.ndarray, options: SplitOptions) -> list[str]:
    """The stated or computed split of each kept row; tiles without a photo belong to the test gallery."""
    if rows.split is not None:
        return [parse_split_name(rows.split[row]) for row in kept]
    photos = np.array([row for row in kept if rows.has_photo[row]], dtype=np.int64)
    of_photo = assign_splits([rows.tile_ids[int(row)] for row in photos], *rows.split_positions(photos), options)
    split_of = dict(zip(photos.tolist(), of_photo.tolist(), strict=True))
    return [split_of.get(int(rows.photo_row[row]), "test") for row in kept]


def parse_split_name(cell: Any) -> str:
    """Name of the split that a cell of the column `split` states, in lower case, with aliases resolved."""
    name = str("" if cell is None else cell).strip().lower()
    return SPLIT_ALIASES.get(name, name)


def _find_pairs(home: Path) -> dict[str, tuple[Path, Path]]:
    """Photo and tile of each name that both directories have, in the order of the names."""
    ground, aerial = (_find_images(home, names) for names in (GROUND_FOLDERS, AERIAL_FOLDERS))
    names = sorted(set(ground) & set(aerial))
    if not names:
        raise GenGeoError(f"{home}: none of {len(ground):,} photos has the same name as one of {len(aerial):,} tiles")
    return {name: (ground[name], aerial[name]) for name in names}


def _find_images(home: Path, names: Sequence[str]) -> dict[str, Path]:
    """Image files by stem, of the first of some directories that exists."""
    folder = next((home / name for name in names if (home / name).is_dir()), None)
    if folder is None:
        raise GenGeoError(f"{home} has no directory {names[0]!r} (or {', '.join(names[1:])}) with image files")
    images = (name for name in names_in(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    found = sorted(name for name in images if not is_hidden(Path(name)))
    return {name.rpartition(".")[0]: folder / name for name in found}

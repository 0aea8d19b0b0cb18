"""Everyone's own pairs: a table of any kind that `gengeo_hf.common.tables` reads, or two folders with equal names.

A row needs `ground` and `aerial`. Known beside them are `lat`, `lon` (of the photo), `tile_lat`, `tile_lon` or `west`,
`south`, `east`, `north` (of the tile), the camera (`heading`, `fov`, `vertical_fov`, `pitch`, `roll`, `projection`),
`area`, `query_id`, `tile_id`, `extra_positives` (other tiles that show the place) and `split`. Usual other names are
recognised, and `columns={...}` overrules. Photos without `fov` are taken for ordinary photos, not for panoramas.
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
from gengeo_hf.data.area_split import fitting_block_m, split_training
from gengeo_hf.data.benchmarks.layout import kept_pairs, logger, names_in, unknown_split
from gengeo_hf.data.column_names import ANGLES
from gengeo_hf.data.own_columns import Rows, rows_of
from gengeo_hf.data.tables import gallery_table, query_table

PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, "all")
NOTHING_LEFT = "the cut left none: change its share, set a smaller margin_m, or split_by=id"
SPLIT_WORDS = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}
GROUND_FOLDERS = ("ground", "photos", "query", "street", "streetview")
AERIAL_FOLDERS = ("aerial", "tiles", "satellite", "gallery", "sat")


@dataclass(frozen=True)
class Cut:
    """How parts are cut out of pairs without a column `split`; give training and evaluation the same.

    Args:
        validation_share, test_share: of all pairs (of all tiles, where they are drawn by id), 0 to 0.5. The test part
            is cut first, the validation part from what it leaves; training gets the rest without the margins.
        split_by: "area", "id", or "auto": by area where the place of every tile is known.
        block_m: side in metres of the blocks of land; None takes the largest round one that leaves enough blocks.
        margin_m: training pairs nearer than this to a pair of another part are left out.
        seed: of the choice of blocks.

    Raises:
        GenGeoError: a share outside 0 to 0.5, or both together leave less for training than for validation.
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
    root: str | Path, split: str, *, columns: Mapping[str, str] | None = None, missing: str = "error", **cut: Any
) -> CrossViewDataset:
    """Load pairs from a table.

    Args:
        root: see `gengeo_hf.common.tables.read_table`. Paths in a table are relative to its folder.
        split: "train", "validation", "test" or "all". A column `split` decides, and rows in which it is empty belong to
            no part; without one, test and validation parts are cut out, whole blocks of land each. All photos of a tile
            fall into one part.
        columns: names of the table's columns by the names above, where they are not recognised. A name with braces
            is a pattern over the columns: `{"ground": "{id}.jpg", "aerial": "{id}_sat.jpg"}`.
        missing: "error" or "drop"; see `kept_pairs`.
        cut: fields of `Cut`, for a table without a column `split`; and `fov`, `heading`, `vertical_fov`, `pitch`,
            `roll` of all photos in degrees, which go before the table's columns.

    Example:
        >>> data = load_pairs("table", "pairs.csv", split="train", columns={"heading": "compass"})

    Raises:
        GenGeoError: no table, a missing column, a missing image, a number that is none, or a part without pairs.
    """
    if split not in SPLITS:
        raise unknown_split("table", split, SPLITS)
    return _loaded(understand(read_table(root), columns, cut), split, missing, cut)


def load_folder(root: str | Path, split: str, *, fov: float | None = None, **cut: Any) -> CrossViewDataset:
    """Load pairs from two folders, `ground` and `aerial`, whose files have the same names up to the suffix.

    Positions and headings come from the photos' EXIF. With folders `train`, `validation`, `test` that hold the two,
    these are the splits, and ids are `<split>/<name>`, since each may count from 1; without them, parts are cut out, by
    area where every photo has a position.

    Args:
        root: the folder.
        split: "train", "validation", "test" or "all".
        fov: horizontal field of view of all photos in degrees; 360 for panoramas.
        cut: fields of `Cut`.

    Raises:
        GenGeoError: a folder is missing, no name is in both, or the part has no pairs.
    """
    if split not in SPLITS:
        raise unknown_split("folder", split, SPLITS)
    root, how = Path(root), _cut(cut)
    ready = [part for part in PARTS if any((root / part / name).is_dir() for name in GROUND_FOLDERS)]
    if not ready:
        pairs = _pairs_in(root)
    elif split in (*ready, "all"):
        wanted = ready if split == "all" else [split]
        pairs = {f"{part}/{name}": pair for part in wanted for name, pair in _pairs_in(root / part).items()}
    else:
        raise GenGeoError(f"{root} has no folder {split!r}; it has {', '.join(ready)}")
    names, found = list(pairs), [read_metadata(photo).position for photo, _ in pairs.values()]
    lat, lon, heading = (
        np.array([np.nan if p is None or getattr(p, key) is None else getattr(p, key) for p in found])
        for key in ("lat", "lon", "heading")
    )
    chosen = np.arange(len(names))
    if not ready and split != "all":
        chosen = np.flatnonzero(three_parts(names, lat, lon, how) == split)
        if not len(chosen):
            raise GenGeoError(f"{root} has no pairs of the split {split!r}; {NOTHING_LEFT}")
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
    **cut: Any,
) -> CrossViewDataset:
    """Pairs from an HF dataset in memory or from `datasets.load_dataset`; arguments as in `load_table`.

    Example:
        >>> pairs = load_hf_dataset(datasets.load_dataset("someone/pairs", split="train"))
    """
    if split not in SPLITS:
        raise unknown_split("dataset", split, SPLITS)
    return _loaded(understand(as_table(table), columns, cut), split, missing, cut).validate()


def understand(table: Table, columns: Mapping[str, str] | None, options: dict[str, Any]) -> Rows:
    """The rows of a table.

    Args:
        table: As it was read.
        columns: See `load_table`.
        options: See `load_table`; those of the camera are taken out.

    Raises:
        GenGeoError: See `rows_of`.
    """
    camera = {key: float(options.pop(key)) for key in ANGLES if options.get(key) is not None}
    return rows_of(table, columns or {}, camera)


def three_parts(ids: Sequence[str], lat: np.ndarray, lon: np.ndarray, cut: Cut) -> np.ndarray:
    """The part of each pair: "train", "validation", "test", or "" for what lies too near to a border.

    Args:
        ids: N names; equal ones stay together, by area only if they stand at one place.
        lat, lon: degrees, (N,), NaN where unknown.
        cut: shares and method.

    Raises:
        GenGeoError: see `split_training`; or the margin around the test part takes all that is left.
    """
    unknown = np.isnan(lat) | np.isnan(lon)
    method = ("area" if 2 * unknown.sum() < len(ids) else "id") if cut.split_by == "auto" else cut.split_by
    parts = np.full(len(ids), "train", dtype="U10")
    left = np.arange(len(ids))
    if unknown.any() and not unknown.all() and cut.split_by == "auto":
        row = int(np.argmax(unknown))
        if method == "area":
            logger.warning(
                "%d of %d photos have no position, first %s: splits are drawn by area, and these are left out of all; "
                "split_by=id keeps them",
                unknown.sum(),
                len(ids),
                ids[row],
            )
            parts[unknown], left = "", np.flatnonzero(~unknown)
        else:
            logger.warning(
                "%d of %d photos have no position, first %s: splits are drawn by id and not by area, which flatters "
                "results",
                unknown.sum(),
                len(ids),
                ids[row],
            )

    def size(rows: np.ndarray) -> int:
        """What shares count: pairs by area, names by id."""
        return len({ids[int(row)] for row in rows}) if method == "id" else len(rows)

    for number, (part, share) in enumerate((("test", cut.test_share), ("validation", cut.validation_share))):
        if share == 0:
            continue
        if not len(left):
            raise GenGeoError(
                f"all {len(ids):,} pairs lie within margin_m={cut.margin_m:g} m of the test part, and none is left for "
                f"{part}: set a smaller margin_m or split_by=id"
            )
        # Of all pairs, though some have left; margins may have taken so many that half of the rest is all there is.
        share = min(0.5, share * size(np.arange(len(ids))) / max(1, size(left)))
        side = cut.block_m or (fitting_block_m(lat[left], lon[left], share) if method == "area" else 0.0)
        found = split_training(
            [ids[int(row)] for row in left],
            lat[left],
            lon[left],
            share,
            method=method,
            block_m=side,
            margin_m=cut.margin_m,
            seed=2 * cut.seed + number,
        )
        parts[left[found.validation]] = part
        parts[left[~found.validation & ~found.train]] = ""
        left = left[found.train]
    return parts


def in_no_part(rows: Rows) -> dict[str, int]:
    """How many rows of a table with a column `split` belong to no part, by the word that stands there."""
    counts = Counter(_word(value) for value in rows.split or ())
    return {word: counts[word] for word in sorted(set(counts) - set(PARTS))}


class Splits:
    """The splits of a table, drawn once.

    Args:
        rows: As `understand` gives them.
        missing: "error" or "drop"; see `kept_pairs`.
        options: Fields of `Cut`.

    Raises:
        GenGeoError: Images are missing, no row has a photo, or an option is unknown.
    """

    def __init__(self, rows: Rows, missing: str, options: dict[str, Any]) -> None:
        self.rows, self._cut = rows, _cut(options)
        self.kept = kept_pairs(rows.name, rows.label, rows.present, missing)
        if not rows.has_photo[self.kept].any():
            raise GenGeoError(f"{rows.name} has no row with a photo: there is nothing to ask for")
        self._words: list[str] | None = None

    def load(self, split: str) -> CrossViewDataset:
        """One split, or "all".

        Raises:
            GenGeoError: It has no pairs.
        """
        rows, name = self.rows, f"{self.rows.name}/{split}"
        if split == "all":
            return rows.dataset(name, self.kept.tolist())
        if self._words is None:
            self._words = _parts(rows, self.kept, self._cut)
        wanted = [int(row) for row, part in zip(self.kept, self._words, strict=True) if part == split]
        if any(rows.has_photo[row] for row in wanted):
            return rows.dataset(name, wanted)
        there = ", ".join(sorted(set(self._words) & set(PARTS))) or "none"
        said = f"{rows.name} has no pairs of the split {split!r}; it has {there}"
        if rows.split is None:
            raise GenGeoError(f"{said}; {NOTHING_LEFT}")
        if there == "none":  # a column that is called so, and means something else
            word = next(iter(in_no_part(rows)))
            said += f": its column for split says {word!r}; write {', '.join(PARTS)} there, or rename it: parts are cut"
        raise GenGeoError(said)


def _loaded(rows: Rows, split: str, missing: str, options: dict[str, Any]) -> CrossViewDataset:
    """One split of a table, after its notes."""
    for note in rows.notes:
        logger.warning("%s", note)
    splits = Splits(rows, missing, options)
    if split != "all" and (lost := in_no_part(rows)):
        said = ", ".join(f"{count:,} of {word!r}" if word else f"{count:,} empty" for word, count in lost.items())
        logger.warning("%s: cells of the column split that name no part (%s); their rows are left out", rows.name, said)
    return splits.load(split)


def _cut(options: dict[str, Any]) -> Cut:
    """Options that people give by name."""
    known = [field.name for field in fields(Cut)]
    if unknown := sorted(set(options) - set(known)):
        raise GenGeoError(f"unknown option {unknown[0]!r}; parts are cut by {', '.join(known)}")
    return Cut(**options)


def _parts(rows: Rows, kept: np.ndarray, cut: Cut) -> list[str]:
    """The part of each kept row: its own word, or one that is cut. Tiles without a photo belong to the test gallery."""
    if rows.split is not None:
        return [_word(rows.split[row]) for row in kept]
    photos = np.array([row for row in kept if rows.has_photo[row]], dtype=np.int64)
    of_photo = three_parts([rows.tile_ids[int(row)] for row in photos], *rows.places(photos), cut)
    part_of = dict(zip(photos.tolist(), of_photo.tolist(), strict=True))
    return [part_of.get(int(rows.anchor[row]), "test") for row in kept]


def _word(cell: Any) -> str:
    """What a cell of the column `split` means."""
    word = str("" if cell is None else cell).strip().lower()
    return SPLIT_WORDS.get(word, word)


def _pairs_in(home: Path) -> dict[str, tuple[Path, Path]]:
    """Photo and tile of each name that both folders have, in the order of the names."""
    ground, aerial = (_files(home, names) for names in (GROUND_FOLDERS, AERIAL_FOLDERS))
    names = sorted(set(ground) & set(aerial))
    if not names:
        raise GenGeoError(f"{home}: of {len(ground):,} photos and {len(aerial):,} tiles, no two have the same name")
    return {name: (ground[name], aerial[name]) for name in names}


def _files(home: Path, names: Sequence[str]) -> dict[str, Path]:
    """Image files by stem, of the first of some folders that exists."""
    folder = next((home / name for name in names if (home / name).is_dir()), None)
    if folder is None:
        raise GenGeoError(f"{home} has no folder {names[0]!r} (or {', '.join(names[1:])}) with image files")
    images = (name for name in names_in(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    found = sorted(name for name in images if not is_hidden(Path(name)))
    return {name.rpartition(".")[0]: folder / name for name in found}

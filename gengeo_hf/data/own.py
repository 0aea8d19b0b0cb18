"""Everyone's own pairs: a table (CSV, Parquet, JSON lines, a saved HF dataset) or two folders with equal names.

Before: rows with a photo, a tile and, where they are known, position, heading and field of view. After: the schema.

A row needs `ground` and `aerial`. Known beside them are `lat`, `lon` (of the photo), `tile_lat`, `tile_lon`, `heading`,
`fov`, `area`, `query_id`, `tile_id`, `extra_positives` (other tiles that show the place) and `split`; usual other names
are recognised, and `columns={...}` overrules. Photos without `fov` are taken for ordinary photos, not for panoramas.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gengeo_hf.data.area_split import fitting_block_m, split_training
from gengeo_hf.data.benchmarks.layout import kept_pairs, names_in, unknown_split
from gengeo_hf.data.images import photo_position
from gengeo_hf.data.own_columns import Rows, read_rows
from gengeo_hf.data.schema import CrossViewDataset
from gengeo_hf.data.tables import gallery_table, query_table
from gengeo_hf.errors import GenGeoError

SPLITS = ("train", "validation", "test", "all")
SPLIT_WORDS = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic")
GROUND_FOLDERS = ("ground", "photos", "query", "street", "streetview")
AERIAL_FOLDERS = ("aerial", "tiles", "satellite", "gallery", "sat")


def load_table(
    root: str | Path,
    split: str,
    *,
    columns: Mapping[str, str] | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    split_by: str = "auto",
    block_m: float | None = None,
    margin_m: float = 100.0,
    seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load pairs from a table.

    Args:
        root: a CSV, Parquet or JSON-lines file; a folder that `Dataset.save_to_disk` wrote; or a folder that holds
            exactly one such file. Paths in it are relative to its folder.
        split: "train", "validation", "test" or "all". A column `split` decides; without one, test and validation
            parts are cut out, whole blocks of land each.
        columns: names of the table's columns by the names above, where they are not recognised. A name with braces
            is a pattern over the columns: `{"ground": "{id}.jpg", "aerial": "{id}_sat.jpg"}`.
        validation_share, test_share: of the pairs; for a table without a column `split`.
        split_by: "area", "id", or "auto": by area where every pair has a position.
        block_m: side in metres of the blocks; None takes the largest round one that leaves enough blocks.
        margin_m: training pairs nearer than this to a pair of another part are left out.
        seed: of the choice of blocks.
        missing: "error" or "drop"; see `kept_pairs`.

    Example:
        >>> data = load_pairs("table", "pairs.csv", split="train", columns={"heading": "compass"})

    Raises:
        GenGeoError: no table, a missing column, an image that is not there, a number that is none.
    """
    if split not in SPLITS:
        raise unknown_split("table", split, SPLITS)
    rows = read_rows(Path(root), columns or {})
    name = f"{rows.name}/{split}"
    kept = kept_pairs(rows.name, rows.calls, rows.present, missing)
    if split == "all":
        return rows.dataset(name, kept.tolist())
    parts = _parts(rows, kept, validation_share, test_share, split_by, block_m, margin_m, seed)
    wanted = [int(row) for row, part in zip(kept, parts, strict=True) if part == split]
    if not any(rows.has_photo[row] for row in wanted):
        raise GenGeoError(
            f"{rows.name} has no pairs of the split {split!r}; it has {', '.join(sorted(filter(None, set(parts))))}"
        )
    return rows.dataset(name, wanted)


def load_folder(
    root: str | Path,
    split: str,
    *,
    fov: float | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> CrossViewDataset:
    """Load pairs from two folders, `ground` and `aerial`, whose files have the same names up to the suffix.

    Positions and headings come from the photos' EXIF. With folders `train`, `validation`, `test` that hold the two,
    these are the splits; without them, parts are cut out, by area where every photo has a position.

    Args:
        root: the folder.
        split: "train", "validation", "test" or "all".
        fov: horizontal field of view of all photos in degrees; 360 for panoramas.
        validation_share, test_share: of the pairs.
        seed: of that choice.

    Raises:
        GenGeoError: a folder is missing, or no name is in both.
    """
    if split not in SPLITS:
        raise unknown_split("folder", split, SPLITS)
    root = Path(root)
    ready = (root / split).is_dir()
    home = root / split if ready else root
    ground, aerial = (_files(home, names) for names in (GROUND_FOLDERS, AERIAL_FOLDERS))
    stems = sorted(set(ground) & set(aerial))
    if not stems:
        raise GenGeoError(f"{home}: of {len(ground):,} photos and {len(aerial):,} tiles, no two have the same name")
    found = [photo_position(ground[stem]) for stem in stems]
    lat, lon, heading = (np.array([np.nan if p is None or getattr(p, key) is None else getattr(p, key) for p in found])
                         for key in ("lat", "lon", "heading"))  # fmt: skip
    chosen = np.arange(len(stems))
    if not ready and split != "all":
        parts = three_parts(stems, lat, lon, validation_share, test_share, seed=seed)
        chosen = np.flatnonzero(parts == split)
    ids = [stems[row] for row in chosen]
    return CrossViewDataset(
        f"{root.name}/{split}",
        query_table(
            ids, [ground[x] for x in ids], ids, lat=lat[chosen], lon=lon[chosen], heading=heading[chosen], fov=fov
        ),
        gallery_table(ids, [aerial[x] for x in ids], lat=lat[chosen], lon=lon[chosen]),
    )


def load_hf_dataset(table: datasets.Dataset, split: str = "all", **options: Any) -> CrossViewDataset:
    """Pairs from an HF dataset in memory or from `datasets.load_dataset`; options as in `load_table`.

    Example:
        >>> pairs = load_hf_dataset(datasets.load_dataset("someone/pairs", split="train"))

    Raises:
        GenGeoError: an option that does not exist; else as `load_table`.
    """
    from gengeo_hf.data.own_columns import rows_of

    columns = options.pop("columns", None) or {}
    rows = rows_of("dataset", table, None, columns)
    kept = kept_pairs(rows.name, rows.calls, rows.present, options.pop("missing", "error"))
    if split == "all":
        return rows.dataset("dataset/all", list(kept)).validate()
    defaults: dict[str, Any] = {"validation_share": 0.1, "test_share": 0.1, "split_by": "auto", "block_m": None,
                                "margin_m": 100.0, "seed": 0}  # fmt: skip
    if unknown := sorted(set(options) - set(defaults)):
        raise GenGeoError(f"unknown option {unknown[0]!r}; expected some of {', '.join(defaults)}")
    parts = _parts(rows, kept, **{**defaults, **options})
    return rows.dataset(f"dataset/{split}", [row for row, p in zip(kept, parts, strict=True) if p == split]).validate()


def three_parts(
    ids: Sequence[str],
    lat: np.ndarray,
    lon: np.ndarray,
    validation_share: float,
    test_share: float,
    *,
    split_by: str = "auto",
    block_m: float | None = None,
    margin_m: float = 100.0,
    seed: int = 0,
) -> np.ndarray:
    """The part of each pair: "train", "validation", "test", or "" for what lies too near to a border.

    Args:
        ids: N names; equal ones stay together.
        lat, lon: degrees, (N,), NaN where unknown.
        validation_share, test_share: of the pairs.
        split_by, block_m, margin_m, seed: see `load_table`.

    Raises:
        GenGeoError: see `split_training`.
    """
    known = not (np.isnan(lat).any() or np.isnan(lon).any())
    method = ("area" if known else "id") if split_by == "auto" else split_by
    parts = np.full(len(ids), "train", dtype="U10")
    left = np.arange(len(ids))
    for number, (part, share) in enumerate((("test", test_share), ("validation", validation_share))):
        if share == 0:
            continue
        side = block_m or (fitting_block_m(lat[left], lon[left], share) if method == "area" else 0.0)
        cut = split_training(
            [ids[int(row)] for row in left],
            lat[left],
            lon[left],
            share,
            method=method,
            block_m=side,
            margin_m=margin_m,
            seed=2 * seed + number,
        )
        parts[left[cut.validation]] = part
        parts[left[~cut.validation & ~cut.train]] = ""
        left = left[cut.train]
    return parts


def _parts(
    rows: Rows,
    kept: np.ndarray,
    validation_share: float,
    test_share: float,
    split_by: str,
    block_m: float | None,
    margin_m: float,
    seed: int,
) -> list[str]:
    """The part of each kept row: its own word, or one that is cut. Tiles without a photo belong to the test gallery."""
    if rows.split is not None:
        words = [str(rows.split[row] or "").strip().lower() for row in kept]
        return [SPLIT_WORDS.get(word, word) for word in words]
    photos = np.array([row for row in kept if rows.has_photo[row]])
    of_photo = three_parts(
        [rows.tile_ids[int(row)] for row in photos], rows.lat[photos], rows.lon[photos], validation_share, test_share,
        split_by=split_by, block_m=block_m, margin_m=margin_m, seed=seed,
    )  # fmt: skip
    part_of = dict(zip(photos.tolist(), of_photo.tolist(), strict=True))
    return [part_of.get(int(row), "test") for row in kept]


def _files(home: Path, names: Sequence[str]) -> dict[str, Path]:
    """Image files by stem, of the first of some folders that exists."""
    folder = next((home / name for name in names if (home / name).is_dir()), None)
    if folder is None:
        raise GenGeoError(f"{home} has no folder {names[0]!r} (or {', '.join(names[1:])}) with image files")
    found = sorted(name for name in names_in(folder) if name.lower().endswith(IMAGES))
    return {name.rpartition(".")[0]: folder / name for name in found}

"""Directories with the layouts of the benchmarks, and small synthetic images instead of the proprietary ones.

Where the content does not matter, one image per view is link_names under every name, so that long lists take a second.
"""

import os
import shutil

import numpy as np
from scipy.io import savemat

from tests.data.helpers import encoded

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
# Tiles of Seattle at zoom 20, half a tile apart, as in the real lists.
LAT, LON, LAT_STEP, LON_STEP = 47.60, -122.33, 0.000328072, 0.000486444


def picture(path, height, width, seed=0):
    """Write a small noise image that is determined by its seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.write_bytes(encoded(pixels, "JPEG" if path.suffix == ".jpg" else "PNG"))
    return path


def link_names(source, folder, names):
    """Link one file under several names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(source, folder / name)


def cvusa_row(number):
    n = f"{number:07d}"
    return f"bingmap/19/{n}.jpg,streetview/panos/{n}.jpg,streetview/annotations/{n}.png"


def make_cvusa(root, train=range(1, 121, 2), test=range(2, 41, 2), gps=200, size=((28, 112), (56, 56))):
    """CVUSA with different images and GPS positions over a few hundred kilometres."""
    for number in (*train, *test):
        picture(root / f"streetview/panos/{number:07d}.jpg", *size[0], seed=number)
        picture(root / f"bingmap/19/{number:07d}.jpg", *size[1], seed=number)
    (root / "splits").mkdir(parents=True, exist_ok=True)
    (root / "splits/train-19zl.csv").write_text("\n".join(map(cvusa_row, train)) + "\n")
    (root / "splits/val-19zl.csv").write_text("\n".join(map(cvusa_row, test)) + "\n")
    if gps:
        rng = np.random.default_rng(0)
        lat, lon = 40 + rng.uniform(-2, 2, gps), -100 + rng.uniform(-2, 2, gps)
        table = np.stack([lat, lon, lat + 1e-5, lon - 1e-5, np.full(gps, 15.0)], axis=1)
        (root / "split_locations").mkdir()
        np.savetxt(root / "split_locations/all.csv", table, delimiter=",", fmt="%.8f")
    return root


def make_cvact(root, train=60, val=12, test=20, lost="1LqOHPdTiBbRucz-jFOSbQ", northing_first=False):
    """CVACT with ids that have no images, 1-based indices, and one training pair without images."""
    rng = np.random.default_rng(1)
    count = train + val + test
    ids = [f"{number:022d}" for number in range(count)] + ["unused" + "x" * 16]
    ids[3] = lost
    order = rng.permutation(count)
    splits = order[:train], order[train : train + val], order[train:]
    utm = np.stack([690_000 + rng.uniform(0, 9_000, count + 1), 6_090_000 + rng.uniform(0, 9_000, count + 1)], 1)
    root.mkdir(parents=True, exist_ok=True)
    savemat(
        root / "ACT_data.mat",
        {
            "panoIds": np.array(ids),
            "utm": utm[:, ::-1] if northing_first else utm,
            "trainSet": {"numTrain": train, "trainInd": (splits[0] + 1).reshape(-1, 1)},
            "valSet": {"numVal": val, "valInd": (splits[1] + 1).reshape(-1, 1)},
            "valSetAll": {"numVal": val + test, "valInd": (splits[2] + 1).reshape(-1, 1)},
        },
    )
    for folder, rows in (("ANU_data_small", (*splits[0], *splits[1])), ("ANU_data_test", splits[2])):
        for row in rows:
            if ids[row] == lost:
                continue
            picture(root / folder / "streetview" / f"{ids[row]}_grdView.jpg", 28, 112, seed=row)
            picture(root / folder / "satview_polish" / f"{ids[row]}_satView_polish.jpg", 56, 56, seed=row)
    return root, ids, utm, splits


def vigor_grid(city, rows=6, columns=8):
    """Names of a grid of tiles, and label rows of panoramas, one in each square between four tile centres."""
    south = LAT + CITIES.index(city)  # cities differ in latitude
    tiles = [
        [f"satellite_{south + i * LAT_STEP:.12f}_{LON + j * LON_STEP:.12f}.png" for j in range(columns)]
        for i in range(rows)
    ]
    labels = []
    for i in range(rows - 1):
        for j in range(columns - 1):
            lat, lon = south + (i + 0.2) * LAT_STEP, LON + (j + 0.3) * LON_STEP
            name = f"{'-' if i else '_'}{city[:8]:_<8}{i:05d}{j:08d},{lat:.6f},{lon:.6f},.jpg"
            four = [tiles[i][j], tiles[i][j + 1], tiles[i + 1][j], tiles[i + 1][j + 1]]
            labels.append(" ".join([name, *(f"{tile} 1.0 -2.0" for tile in four)]))
    return [tile for row in tiles for tile in row], labels


def make_vigor(root, cities=CITIES, layout="original", labels="original", tile_suffix=".png"):
    """VIGOR in one of its layouts; every other label row is for training in the same-area protocol."""
    for number, city in enumerate(cities):
        tiles, rows = vigor_grid(city)
        ground = root / city / "panorama" if layout == "original" else root / "ground" / city
        aerial = root / city / "satellite" if layout == "original" else root / "satellite" / city
        link_names(picture(root / f".g{number}.jpg", 28, 112, number), ground, [row.split()[0] for row in rows])
        link_names(
            picture(root / f".a{number}.png", 56, 56, number),
            aerial,
            [t.removesuffix(".png") + tile_suffix for t in tiles],
        )
        (root / "splits" / city).mkdir(parents=True)
        (root / "splits" / city / "satellite_list.txt").write_text("\r\n".join(tiles))
        mark = "__corrected" if labels == "corrected" else ""
        folder = root / f"splits{mark}" / city
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in (
            ("same_area_balanced_train", rows[::2]),
            ("same_area_balanced_test", rows[1::2]),
            ("pano_label_balanced", rows),
        ):
            (folder / f"{name}{mark}.txt").write_text("\n".join(part))  # no final newline, as in the real lists
    return root


def make_university(root, train=12, test=6, extra_tiles=3, pictures=2):
    for building in range(train):
        for number in range(pictures):
            picture(root / f"train/drone/{building:04d}/image-{number:02d}.jpeg.png", 28, 28, building)
        picture(root / f"train/satellite/{building:04d}/{building:04d}.jpg", 28, 28, building)
    for building in range(100, 100 + test + extra_tiles):
        picture(root / f"test/gallery_satellite/{building:04d}/{building:04d}.jpg", 28, 28, building)
        for number in range(pictures if building < 100 + test else 0):
            picture(root / f"test/query_drone/{building:04d}/image-{number:02d}.png", 28, 28, building)
    return root


def copy_real(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)

"""Renders the images of `gpu.sh` on a machine with `gengeo_hf[world]`, before it runs on a machine with a GPU.

    python benchmarks/gpu_images.py                    # benchmarks/gpu_images/, less than 30 MB, a minute on two cores

`world/` holds pairs of the synthetic urban world at 224 px, `benchmark/` a few pairs at the file sizes of CVUSA (1232 x
224 and 750 x 750 pixels), enlarged from the others. All are JPEG files.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.world import build_world

GROUND, AERIAL = (112, 448), (224, 224)  # height and width in pixels: 256 patches of 14 px each
LARGE = {"ground": (1232, 224), "aerial": (750, 750)}  # width and height of CVUSA's files
LARGE_PAIRS, QUALITY, LIMIT_MB = 16, 85, 30


def draw(out: Path, pairs: int, test_pairs: int) -> float:
    """Write the images; returns their size in MB."""
    for split, count in (("train", pairs), ("test", test_pairs)):
        with tempfile.TemporaryDirectory() as cache:
            world = build_world(
                "urban", split, count, seed=7, ground_size=GROUND, aerial_size=AERIAL, cache_dir=cache, progress=True
            )
            tiles, photos = AerialImages(world), GroundImages(world)
            for row, tile in enumerate(world.positive_rows()):
                for view, image in (("ground", photos[row]), ("aerial", tiles[int(tile)])):
                    _save(image, out / "world" / split / view / f"{row:05d}.jpg")
                    if split == "train" and row < LARGE_PAIRS:
                        large = image.resize(LARGE[view], Image.Resampling.BICUBIC)
                        _save(large, out / "benchmark" / view / f"{row:05d}.jpg")
    return sum(path.stat().st_size for path in out.rglob("*.jpg")) / 1e6


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=QUALITY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "gpu_images")
    parser.add_argument("--pairs", type=int, default=700, help="number of training pairs")
    parser.add_argument("--test-pairs", type=int, default=200, help="number of test pairs")
    given = parser.parse_args()
    size = draw(given.out, given.pairs, given.test_pairs)
    print(f"{size:.1f} MB in {given.out}" + (f": more than {LIMIT_MB} MB, draw fewer pairs" if size > LIMIT_MB else ""))


if __name__ == "__main__":
    main()

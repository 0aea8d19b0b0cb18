"""CPU time and memory of `gengeo data check` for a large table of pairs.

    python benchmarks/data_check.py                    # 310,000 pairs
    python benchmarks/data_check.py --rows 3000        # quick test

Writes a CSV table of pairs (photos within 20 m of the centre of their tile, tiles 50 m apart) whose files are hard
links to a few small JPEGs, runs the command in a separate process and prints one JSON object. Goals: below 60 s CPU and
1 GB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

LINKS = 20_000  # hard links to one file; some file systems allow 65,000


def make_files(folder: Path, rows: int) -> None:
    """Create files of both views, in directories of 1,000."""
    rng = np.random.default_rng(0)
    base = folder / "base"
    for view in ("photo", "tile"):
        for row in range(rows):
            if row % LINKS == 0:
                base = folder / f"{view}-{row}.jpg"
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(base)
            target = folder / view / f"{row // 1000:03d}" / f"{row:06d}.jpg"
            if row % 1000 == 0:
                target.parent.mkdir(parents=True)
            os.link(base, target)


def make_table(folder: Path, rows: int) -> Path:
    """Write the table of pairs."""
    rng = np.random.default_rng(1)
    side = int(np.ceil(np.sqrt(rows)))
    down, across = np.divmod(np.arange(rows), side)
    lat, lon = 48.0 + down * 50 / 111_200, 11.0 + across * 50 / 74_400
    off = rng.uniform(-20, 20, (rows, 2)) / [111_200, 74_400]
    path = folder / "pairs.csv"
    with path.open("w") as file:
        file.write("id,ground,aerial,lat,lon,tile_lat,tile_lon\n")
        for row in range(rows):
            name = f"{row // 1000:03d}/{row:06d}.jpg"
            place = f"{lat[row] + off[row, 0]:.6f},{lon[row] + off[row, 1]:.6f},{lat[row]:.6f},{lon[row]:.6f}"
            file.write(f"{row},photo/{name},tile/{name},{place}\n")
    return path


def main() -> None:
    """Make, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=310_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, given.rows)
        table = make_table(folder, given.rows)
        command = [sys.executable, "-m", "gengeo_hf.cli", "data", "check", "table", str(table)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "rows": given.rows,
        "exit_code": done.returncode,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": round(used.ru_maxrss / 1000, 1),
        "last_line": (done.stdout or done.stderr).strip().splitlines()[-1:],
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

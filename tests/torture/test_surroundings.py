"""Two writers of one result, clocks that run back, users without rights, and other languages."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from tests.stubs import ListSource, StubEncoder
from tests.torture.conftest import ROUNDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 * ROUNDS)]
ROOT = Path(__file__).resolve().parents[2]


def test_two_writers_of_one_result(tmp_path, counts):
    """A reader sees one of the two, or is told that the pair does not fit; never one with the queries of the other."""
    from gengeo_hf.evaluation.results import Result
    from tests.evaluation.test_tables import result

    two = [result(tmp_path, "a.json", noise)[0] for noise in (0.5, 2.0)]
    path, stop, trials, wrong, told = tmp_path / "a.json", threading.Event(), 0, 0, 0

    def write(found):
        while not stop.is_set():
            found.save(path)

    writers = [threading.Thread(target=write, args=(found,)) for found in two]
    for writer in writers:
        writer.start()
    while trials < 200 * ROUNDS:
        trials += 1
        try:
            seen = Result.load(path)
        except GenGeoError:
            told += 1
        else:
            means = {name: float(values.mean()) for name, values in seen.outcomes.items() if name.startswith("recall")}
            wrong += any(abs(seen.summary["metrics"][name] - mean) > 1e-9 for name, mean in means.items())
    stop.set()
    for writer in writers:
        writer.join()
    counts("two writers: result", trials, wrong=wrong, told=told)
    assert not wrong and told < trials


def test_two_processes_build_one_world(tmp_path, counts):
    pytest.importorskip("embreex", reason="the world is drawn with embreex")
    code = (
        "from gengeo_hf.world import build_world; import sys; "
        "print(len(build_world('urban', 'test', 160, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=sys.argv[1], "
        "workers=1).queries))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    for process in both:
        out, error = process.communicate()
        assert process.returncode == 0 and out.strip() == "160", error[-2000:]
    assert not list(tmp_path.rglob(".*"))
    counts("two writers: world", 2)


@pytest.mark.parametrize("when", [0.0, 4e9])
def test_a_clock_that_was_set_back_or_ahead(tmp_path, counts, when):
    """Files from the past or the future: a change is still seen, and the newest work is still taken."""
    from gengeo_hf.serving.locator import Locator

    index = GeoIndex.build(StubEncoder(), ListSource(6), tmp_path / "idx")
    locator = Locator(StubEncoder(), index)
    for file in [index.path, *index.path.rglob("*")]:
        os.utime(file, (when, when))
    assert not locator.outdated
    GeoIndex.load(index.path).add(StubEncoder(), ListSource(4, name="more", lat=61.0))
    for file in [index.path, *index.path.rglob("*")]:
        os.utime(file, (when, when))
    assert locator.outdated and locator.reload() == 10
    locator.close()
    counts("clock set", 1)


def test_a_user_without_rights(tmp_path, counts):
    """Nobody may write into a folder of root's; what is there can be read."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, who can become nobody with setpriv")
    index = GeoIndex.build(StubEncoder(), ListSource(6), tmp_path / "idx")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = f"""
import json
import numpy as np
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder
from pathlib import Path
index = GeoIndex.load({str(index.path)!r})
said = [len(index)]
for action in (
    lambda: index.remove(tile_ids=["noise-1"]),
    lambda: index.add(StubEncoder(), ListSource(3, name="more")),
    lambda: build_index(StubEncoder(), ListSource(3), Path({str(tmp_path)!r}) / "new"),
):
    try:
        action()
        said.append("done")
    except GenGeoError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
    settings = os.environ | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said[0] == 6 and all("Permission denied" in line for line in said[1:]), said
    assert len(GeoIndex.load(index.path)) == 6
    counts("no right to write", len(said) - 1)


PROGRAM = """
import json, locale, sys
from pathlib import Path
locale.setlocale(locale.LC_ALL, "")
comma = locale.localeconv()["decimal_point"] == ","
assert comma == sys.argv[4].startswith(("tr", "de", "fr")), "the language is not in force"
from gengeo_hf.evaluation.results import Result
from gengeo_hf.index import GeoIndex
from gengeo_hf.imagery import open_imagery
from gengeo_hf.localization.localizer import GeoLocalizer, to_geojson
from gengeo_hf.common.units import parse_near
from tests.stubs import StubEncoder
folder = Path(sys.argv[1])
index = GeoIndex.build(StubEncoder(), open_imagery(folder / "tiles.csv"), folder / sys.argv[2])
raster = open_imagery(folder / "r.tif")
near = parse_near("60.17,24.94,20km")
answers = list(GeoLocalizer(StubEncoder(), index).locate_many([folder / "Straße İI.png"], top=3, near=near))
json.dump({
    "ids": index.tiles["tile_id"].to_pylist(), "lat": index.tiles["lat"].to_pylist(),
    "geojson": to_geojson(answers, ""), "report": index.report().splitlines()[1],
    "raster": [raster.table["lat"].to_pylist(), raster.read(0).tobytes().hex()[:60]],
}, open(sys.argv[3], "w", encoding="utf-8"))
"""


def made_locales(folder):
    """Turkish (another i), German (decimal commas) and French, where this machine can make them."""
    names = []
    if shutil.which("localedef"):
        folder.mkdir()
        for name in ("tr_TR", "de_DE", "fr_FR"):
            words = ["localedef", "-i", name, "-f", "UTF-8", str(folder / f"{name}.UTF-8")]
            if subprocess.run(words, capture_output=True, check=False).returncode in (0, 1):  # 1: with warnings
                names.append(f"{name}.UTF-8")
    return names


def test_languages_and_decimal_commas(tmp_path, counts):
    """A list of tiles with umlauts, in several languages and under plain C: the same files and figures."""
    pytest.importorskip("rasterio", reason="the raster of this test is read with rasterio")
    from tests.torture import making

    draw = np.random.default_rng(0)
    lines = ["tile,lat,lon"]
    for number in range(5):
        making.picture(draw).save(tmp_path / f"Küche {number}.png")
        lines.append(f"Küche {number}.png,{60.17 + number / 100},{24.94}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines), encoding="utf-8")
    making.picture(draw).save(tmp_path / "Straße İI.png")
    making.geotiff(tmp_path / "r.tif")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    wanted = ["C", "C.UTF-8", *made_locales(tmp_path / "locales")]
    seen = {}
    for number, name in enumerate(dict.fromkeys(wanted)):
        words = [sys.executable, str(program), str(tmp_path), f"ö{number}.gengeo", str(tmp_path / "said.json"), name]
        settings = os.environ | {"LC_ALL": name, "LANG": name, "PYTHONPATH": str(ROOT)}
        settings["LOCPATH"] = str(tmp_path / "locales")
        done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, check=False)
        assert done.returncode == 0, (name, done.stderr[-2000:])
        seen[name] = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    assert all(said == seen["C"] for said in seen.values())
    assert seen["C"]["ids"][0] == "Küche 0"
    counts("languages", len(seen))

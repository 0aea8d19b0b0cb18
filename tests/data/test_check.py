"""`gengeo data check`: complete directories pass, missing files are reported, and only links are made."""

import time

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.benchmarks import cvact, cvusa, university1652, vigor
from gengeo_hf.data.check import check_data
from tests.data import folders


def failures(report):
    return [str(finding) for finding in report.findings if not finding.ok]


@pytest.fixture
def published(monkeypatch):
    """Replace the published counts by those of the synthetic directories."""
    monkeypatch.setattr(cvusa, "PUBLISHED", {"train": 60, "test": 20})
    monkeypatch.setattr(cvact, "PUBLISHED", {"train": 60, "val": 12, "test": 32})
    monkeypatch.setattr(vigor, "TILES", dict.fromkeys(folders.CITIES, 48))
    monkeypatch.setattr(vigor, "PANORAMAS", dict.fromkeys(folders.CITIES, 35))
    monkeypatch.setattr(university1652, "TILES", {"train": 12, "test": 9})
    monkeypatch.setattr(university1652, "PUBLISHED", {("train", "drone"): 24, ("test", "drone"): 12})


def test_check_data_complete_directories_pass(tmp_path, published):
    folders.make_cvusa(tmp_path / "cvusa", gps=44_516)
    folders.make_vigor(tmp_path / "vigor")
    folders.make_university(tmp_path / "university1652")
    folders.make_cvact(tmp_path / "cvact")  # one training pair has no images, as in the published data
    for name in ("cvusa", "cvact", "vigor", "university1652"):
        report = check_data(name, tmp_path / name)
        assert report.ok, failures(report)


def test_data_check_incomplete_cvusa_reports_findings_and_fix_makes_links(tmp_path, gengeo):
    root = folders.make_cvusa(tmp_path / "CVUSA")
    (root / "streetview/panos/0000006.jpg").unlink()
    (root / "bingmap/19/0000001.jpg").write_bytes(b"")
    (root / "split_locations/all.csv").rename(root / "all.csv")
    code, out, err = gengeo("data", "check", "cvusa", tmp_path)
    assert code == 1 and not err
    for words in (
        "1 files of 0 bytes, first 0000001.jpg",
        "pairs of test: 20 (expected 8,884)",
        "0000006.jpg does not",
        "GPS lines: 200 (expected 44,516 or more)",
        "--fix would create 1 link",
        "differ in size",
    ):
        assert words in out, words
    before = set(tmp_path.rglob("*"))
    code, out, _ = gengeo("data", "check", "cvusa", tmp_path, "--fix")
    made = set(tmp_path.rglob("*")) - before
    assert made == {root / "split_locations/all.csv"} and (root / "split_locations/all.csv").is_symlink()
    assert (root / "split_locations/all.csv").read_text() == (root / "all.csv").read_text()
    code, out, _ = gengeo("data", "check", "cvusa", tmp_path, "--fix")
    assert "linked" not in out and "GPS (all.csv): split_locations/all.csv" in out


@pytest.mark.parametrize("layout", ["original", "sample4geo"])
def test_check_data_vigor_makes_links_for_the_other_layout(tmp_path, published, layout):
    root = folders.make_vigor(tmp_path, layout=layout)
    before = {path: path.stat().st_ino for path in root.rglob("*") if path.is_file()}
    report = check_data("vigor", root)
    assert len(report.make_links()) == 8
    assert (root / "ground/Seattle").samefile(root / "Seattle/panorama")
    assert all(path.stat().st_ino == number for path, number in before.items())
    assert not check_data("vigor-same", root).links and not report.make_links()
    (root / "splits/Chicago/pano_label_balanced.txt").unlink()
    assert any("Chicago, pano_label_balanced: not found" in line for line in failures(check_data("vigor", root)))


def test_data_check_own_table_reports_broken_image(tmp_path, gengeo):
    from tests.data.test_own import make_table

    path = make_table(tmp_path)
    code, out, _ = gengeo("data", "check", "table", path)
    assert code == 0 and "everything is there" in out and "with a position" in out
    (tmp_path / "g/000.jpg").write_bytes(b"nothing")
    code, out, _ = gengeo("data", "check", "table", path)
    assert code == 1 and "not an image" in out
    with pytest.raises(GenGeoError, match="cvact, cvcities, cvusa"):
        check_data("imagenet", tmp_path)
    assert gengeo("data", "check", "cvusa", tmp_path)[0] == 1  # the directory does not hold this data set


def test_data_check_accepts_options_of_the_loader(tmp_path, gengeo, published):
    from tests.data.test_own import make_table

    text = make_table(tmp_path / "own").read_text()
    path = tmp_path / "own/pairs.csv"
    path.write_text(text.replace("aerial,lat", "overview,lat").replace("city", "split").replace("Stuttgart", "train"))
    assert gengeo("data", "check", "table", path)[0] == 1
    path.write_text(path.read_text().replace("train", "", 1))
    code, out, _ = gengeo("data", "check", "table", path, "columns.aerial=overview")
    assert code == 0 and "29 photos" in out and "1 rows belong to no split" in out and "no 'test'" in out
    folder = folders.make_cvusa(tmp_path / "cvusa", gps=44_516)
    code, out, err = gengeo("data", "check", "cvusa", folder, "validation_by=id")
    assert code == 0 and "validation" in out, out + err
    code, out, _ = gengeo("data", "check", "cvusa", folder, "validation_by=moon")
    assert code == 1 and "validation_by must be" in out


def test_data_commands_help_contains_example(gengeo):
    for command in ("check", "show", "export"):
        code, out, _ = gengeo("data", command, "--help")
        assert code == 0 and "example" in out.lower()


def test_data_show_writes_contact_sheet(tmp_path, gengeo):
    from PIL import Image

    root = folders.make_cvusa(tmp_path / "CVUSA", train=range(1, 4), test=range(5, 9))
    out = tmp_path / "pairs.png"
    code, text, err = gengeo("data", "show", "cvusa:test", root, "--out", out, "--pairs", 3)
    assert code == 0 and "3 of 4 pairs" in text, err
    with Image.open(out) as sheet:
        assert sheet.size[1] > 3 * 160


@pytest.mark.slow
def test_check_data_with_100000_files_takes_less_than_30_s(tmp_path):
    numbers = range(1, 50_001)
    names = [f"{number:07d}.jpg" for number in numbers]
    folders.link_names(folders.picture(tmp_path / "g.jpg", 224, 1232), tmp_path / "streetview/panos", names)
    folders.link_names(folders.picture(tmp_path / "a.jpg", 750, 750), tmp_path / "bingmap/19", names)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train-19zl.csv").write_text("\n".join(map(folders.cvusa_row, numbers)))
    start = time.process_time()  # processor time does not depend on other programs
    report = check_data("cvusa", tmp_path)
    assert time.process_time() - start < 30
    assert any("50,000 of 50,000 pairs have both images" in str(finding) for finding in report.findings)

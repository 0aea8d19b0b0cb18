"""Sources and licences of training data in model cards, and evaluation results in the format of the Hub."""

import json

import pytest
import yaml

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.sources import DataSource, DataSources, sources_of, write_sources
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.hub.data_rights import data_rows, hub_ids, share_alike, sources_in
from gengeo_hf.hub.eval_results import write_eval_results
from gengeo_hf.hub.export import export_folder

PHOTOS = DataSource("photos", "Mapillary contributors", "CC-BY-SA-4.0", "Photos: Mapillary contributors / 2026")
AERIAL = DataSource("aerial imagery", "Open Data DC", "CC-BY-4.0", "Open Data DC | OCTO", acquired="2021")
SET = DataSources("Just Zoom In", (PHOTOS, AERIAL), {"dataset": "pcvlab/justzoomin", "photos": 12})


def summary(protocol, queries, gallery):
    return {
        "protocol": find_protocol(protocol).as_dict(),
        "dataset": {"name": f"{protocol}/test", "queries": queries, "gallery": gallery, "complete": False},
        "metrics": {"recall@1": 0.25, "within_50m": 0.5},
        "rules": {"ties": "pessimistic"},
        "model": {},
    }


def test_card_names_sources_licences_and_share_alike_of_the_training_data(tiny_checkpoint, tmp_path):
    record = {"trained_on": "justzoomin/train", "data_sources": [SET.as_dict()]}
    (tiny_checkpoint / "gengeo_training.json").write_text(json.dumps(record))
    card = (export_folder(tiny_checkpoint, tmp_path / "out") / "README.md").read_text()
    assert "[CC-BY-SA-4.0](https://creativecommons.org/licenses/by-sa/4.0/)" in card
    assert "Photos: Mapillary contributors / 2026" in card
    assert "Open Data DC \\| OCTO" in card
    assert "Whether weights are adapted material" in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["datasets"] == ["pcvlab/justzoomin"]


def test_card_without_sources_has_no_data_section(tiny_checkpoint, tmp_path):
    card = (export_folder(tiny_checkpoint, tmp_path / "out") / "README.md").read_text()
    assert "### Data" not in card
    assert "adapted material" not in card


def test_share_alike_text_only_for_share_alike_licences():
    assert share_alike({"data_sources": [DataSources("a", (AERIAL,)).as_dict()]}) == ""
    assert "CC-BY-SA-4.0" in share_alike({"data_sources": [SET.as_dict()]})
    assert DataSource("maps", "OSM", "ODbL-1.0", "").is_share_alike
    assert not DataSource("photos", "x", "USA public domain", "").is_share_alike
    assert sources_in({}) == [] and hub_ids({}) == [] and data_rows({}) == []


def test_sources_of_a_mixture_are_those_of_its_parts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_sources(tmp_path / name, DataSources(name, (PHOTOS,)))
    parts = [f"table {tmp_path / 'a'}", f"table:train {tmp_path / 'b'}", "world-urban"]
    assert [one.name for one in sources_of("mixture", None, {"parts": parts})] == ["a", "b"]
    assert [one.name for one in sources_of("table", tmp_path / "a", {})] == ["a"]
    assert sources_of("world-urban", None, {}) == []


def test_eval_results_are_written_only_for_data_sets_on_hub(tmp_path):
    results = [summary("justzoomin", 200, 150), summary("cvusa", 8884, 8884)]
    assert write_eval_results(tmp_path, ["0-a", "1-b"], results) == [".eval_results/0-a.yaml"]
    entries = yaml.safe_load((tmp_path / ".eval_results/0-a.yaml").read_text())
    assert [(entry["dataset"]["task_id"], entry["value"]) for entry in entries] == [
        ("justzoomin/recall@1", 25.0),
        ("justzoomin/within_50m", 50.0),
    ]
    assert entries[0]["dataset"]["id"] == "pcvlab/justzoomin"
    assert "200 of 30,956 queries" in entries[0]["notes"]


def test_sources_in_damaged_record_raises():
    with pytest.raises(GenGeoError, match="training record"):
        sources_in({"data_sources": [{"format": "other"}]})


def test_published_pairs_carry_their_sources_on(tmp_path, monkeypatch):
    from gengeo_hf.data import load_pairs
    from gengeo_hf.hub import repository
    from tests.acquire.jz_city import noise

    for name in ("photo.jpg", "tile.jpg"):
        noise(len(name), 16, 16).save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text("ground,aerial,split\nphoto.jpg,tile.jpg,test\n")
    sent = {}

    def upload(files, *_, **__):
        sent.update({name: path.read_text() for name, path in files.items() if path.suffix in (".md", ".json")})
        return "an address"

    monkeypatch.setattr(repository, "upload", upload)
    repository.push_dataset(load_pairs("table", tmp_path / "pairs.csv", "test"), "me/pairs", "test", sources=[SET])
    assert "must be distributed under CC-BY-SA-4.0" in sent["README.md"]
    assert json.loads(sent["SOURCES.json"]) == json.loads(json.dumps(SET.as_dict()))

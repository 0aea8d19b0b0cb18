"""`evaluate` and `gengeo evaluate`: the same result after interruptions, from stored descriptors, in processes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gengeo_hf.cli import gengeo
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding import engine
from gengeo_hf.evaluation import run as script
from gengeo_hf.evaluation.ground_truth import GroundTruth, pair_hashes
from gengeo_hf.evaluation.protocols import find_protocol, view_headings
from gengeo_hf.evaluation.results import Result
from tests.training.random_pairs import random_pairs

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    """Evaluate on 40 random pairs with shards of 8 rows."""
    monkeypatch.setattr(script, "encode_to_store", functools.partial(script.encode_to_store, shard_rows=8))

    def run(out="x.json", protocol="world-urban", **more):
        result = script.evaluate(
            tiny_checkpoint,
            random_pairs(40, seed=1),
            protocol,
            descriptors=tmp_path / "descriptors",
            device="cpu",
            **more,
        )
        result.save(tmp_path / out)
        return result

    return run


def shards(folder):
    return sorted(folder.glob("**/descriptors/**/*.safetensors"))


def test_result_states_its_data_and_model_and_loads_unchanged(run, tmp_path):
    result = run(name="tiny")
    assert "do not compare with published numbers" in script.format_summary(result)
    loaded = Result.load(tmp_path / "x.json")
    assert loaded.summary == json.loads(json.dumps(result.summary))
    assert loaded.summary["model"]["name"] == "tiny"
    assert loaded.summary["protocol"]["name"] == "world-urban"
    assert len(loaded.summary["model"]["fingerprint"]) == 64
    assert loaded.summary["dataset"] | {"fingerprint": ""} == {
        "name": "random/train",
        "queries": 40,
        "gallery": 40,
        "complete": False,
        "fingerprint": "",
    }
    for name, values in loaded.outcomes.items():
        assert loaded.summary["metrics"][name] == values.mean()
    assert {"recall@1", "recall@1%"} <= set(loaded.outcomes)
    rank, tiles = loaded.queries["rank"].to_numpy(), loaded.queries["top_tiles"].to_pylist()
    for place, positive, best in zip(rank, loaded.queries["positive"].to_pylist(), tiles, strict=True):
        assert best.index(positive) == place if place < 5 else positive not in best


def test_evaluate_after_an_interruption_resumes_and_encodes_damaged_shards_again(run, tmp_path, monkeypatch):
    run(out="whole.json")
    files = shards(tmp_path)
    assert len(files) == 10
    before = {file: file.read_bytes() for file in files}
    files[1].unlink()
    files[3].write_bytes(before[files[3]][:-100])
    files[7].write_bytes(before[files[6]])  # another shard's content has the right size
    made = []
    plain = engine.DescriptorStore.write
    monkeypatch.setattr(engine.DescriptorStore, "write", lambda s, n, d: (made.append(s.path(n)), plain(s, n, d)))
    run(out="again.json")
    assert files[1] in made and files[3] in made and len(made) <= 3
    assert {f: f.read_bytes() for f in files if f in made} == {f: before[f] for f in made}


def test_evaluate_with_another_view_size_or_field_of_view_encodes_again(run, tmp_path):
    first = run(out="a.json").summary
    assert len(shards(tmp_path)) == 10
    other = run(aerial_size="42x42", out="b.json").summary
    assert first["model"]["fingerprint"] != other["model"]["fingerprint"]
    assert len(shards(tmp_path)) == 20
    limited = run(out="c.json", protocol="world-urban-fov180-unknown").summary
    assert len(shards(tmp_path)) == 25  # the tiles are encoded already
    assert limited["protocol"]["fov"] == limited["settings"]["fov_shown"] == 180
    assert limited["metrics"] != first["metrics"]
    again = run(out="d.json", protocol="world-urban-fov180-unknown").summary
    assert again == limited


def test_evaluate_with_fov_360_and_known_heading_equals_the_whole_panorama(run):
    assert run().summary["metrics"] == run(protocol="world-urban-fov360-known").summary["metrics"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"protocol": "mars"}, "unknown protocol 'mars'"),
        ({"protocol": "cvusa-fov33-known"}, "must be one of"),
        ({"ground_size": "30x112"}, "multiples of 14"),
        ({"ground_size": "wide"}, "HxW"),
        ({"ties": "lucky"}, "ties must be one of"),
        ({"protocol": "world-urban-fov90-known"}, "SALAD needs at least 5 tokens"),
    ],
)
def test_evaluate_with_invalid_arguments_raises_one_line(run, more, message):
    with pytest.raises(GenGeoError, match=message) as error:
        run(**more)
    assert "\n" not in str(error.value)


def test_check_limited_view_takes_only_whole_panoramas():
    protocol = find_protocol("cvusa-fov90-known")
    script.check_limited_view(protocol, [360.0, 361.0])
    script.check_limited_view(find_protocol("cvusa"), [None, 90.0])  # nothing is cropped
    for fields in ([360.0, 359.9], [359.9, 360.0], [360.0, None], [None, 360.0]):
        with pytest.raises(GenGeoError, match="field of view is smaller or unknown"):
            script.check_limited_view(protocol, fields)
    script.check_limited_view(find_protocol("cvusa-fov360-unknown"), [360.0, 361.0])


def test_evaluate_in_memory_equals_evaluate_with_stored_descriptors(run, tiny_checkpoint):
    kept = run().summary
    assert script.evaluate(tiny_checkpoint, random_pairs(40, seed=1), "world-urban", device="cpu").summary == kept


@pytest.mark.parametrize(
    ("protocol", "data", "message"),
    [
        (None, None, "nothing to evaluate on"),
        ("cvusa", "cvact:test x", "protocol cvusa is for the data set cvusa, found 'cvact'"),
        ("cvusa", "cvusa:validation x", "is for the split test, found 'validation'"),
        ("cvusa", "{file}", 'for files of it write "cvusa {file}"'),
    ],
)
def test_choose_protocol_of_other_data_raises_an_error(protocol, data, message, tmp_path):
    (tmp_path / "x").touch()
    notation = None if data is None else script.parse_data(data.format(file=tmp_path / "x"))
    with pytest.raises(GenGeoError) as error:
        script.choose_protocol(protocol, notation)
    assert message.format(file=tmp_path / "x") in str(error.value)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("cvusa x", "cvusa"),
        ("cvact:val x", "cvact-val"),
        ("cvact:test x", "cvact-test"),
        ("vigor-cross:validation x", "vigor-cross@validation"),
        ("table:all x", "table:all"),
        ("webdataset x", "webdataset:test"),
    ],
)
def test_choose_protocol_without_a_name_takes_the_published_one_of_the_split(data, name):
    assert script.choose_protocol(None, script.parse_data(data)).name == name


def test_command_with_json_prints_only_one_object_in_percent(tiny_checkpoint, tmp_path):
    arguments = ["evaluate", "--model", str(tiny_checkpoint), "--data", f"world-urban {tmp_path} num_pairs=6", "--json"]
    done = CliRunner().invoke(gengeo, [*arguments, "--out", str(tmp_path / "x.json"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    saved = Result.load(tmp_path / "x.json")
    assert found == saved.percent() and found["protocol"] == "world-urban" and found["queries"] == 6
    assert found["R@1"] == pytest.approx(100 * saved.metrics["recall@1"], abs=1e-3)
    low, high = found["R@1_interval"]
    assert 0 <= low <= found["R@1"] <= high <= 100
    assert {"R@5", "R@10", "R@1%", "R@1_within_25m", "R@1_within_50m", "R@1_within_100m"} <= found.keys()
    assert found["median_error_m"] == pytest.approx(saved.metrics["median_error_m"], abs=1e-3)


def test_evaluate_on_training_pairs_raises_an_error_except_on_the_training_split(tiny_model, tiny_processor):
    from gengeo_hf.encoding.encoder import Encoder

    trained, other = random_pairs(40, seed=1), random_pairs(12, seed=1)
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    encoder.training_record = {
        "training_pairs": pair_hashes(trained),
        "settings": {"data": {"train": {"validation_share": 0.05}}},
    }
    truth = GroundTruth.from_dataset(trained)
    assert truth.count_known_pairs(pair_hashes(trained)) == 40
    expected = len(set(trained.queries["query_id"]) & set(other.queries["query_id"]))
    same = GroundTruth.from_dataset(other).count_known_pairs(pair_hashes(trained))
    assert same in (0, expected)  # the positions of a smaller set may differ
    with pytest.raises(GenGeoError, match=r"40 of 40 queries .* trained on.*validation_share=0.05"):
        script.evaluate(encoder, trained, "table")
    result = script.evaluate(encoder, trained)  # its split is train
    assert "40 of 40 queries are pairs that the model was trained on" in result.notes


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["world-urban", "world-urban-fov180-unknown"])
def test_evaluate_with_two_processes_equals_one_process(tiny_checkpoint, tmp_path, protocol):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import functools
            import os
            import sys
            sys.path.insert(0, {str(REPOSITORY)!r})
            from gengeo_hf.evaluation import run as script
            from pathlib import Path
            from tests.training.random_pairs import random_pairs
            script.encode_to_store = functools.partial(script.encode_to_store, shard_rows=8)
            model, protocol, out = sys.argv[1:]
            state = script.process_state()
            result = script.evaluate(
                model, random_pairs(40, seed=1), protocol, descriptors=Path(out).parent / "descriptors", device="cpu"
            )
            if state.is_main_process:
                result.save(out)
            assert state.num_processes == int(os.environ["WORLD_SIZE"])
            """
        )
    )
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        out = tmp_path / str(count) / "x.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command += [str(program), str(tiny_checkpoint), protocol, str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (tmp_path / str(count) for count in (1, 2))
    assert (one / "x.json").read_bytes() == (two / "x.json").read_bytes()
    assert pq.read_table(one / "x.queries.parquet").equals(pq.read_table(two / "x.queries.parquet"))
    for file in shards(one):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


def test_limited_view_keeps_scale_and_heading(tiny_model, tiny_processor):
    from gengeo_hf.encoding.encoder import Encoder

    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=2)
    random = np.random.default_rng(0)
    panoramas = [random.integers(0, 256, (28, 112, 3), dtype=np.uint8) for _ in range(3)]
    crop = script.limited_view(180, np.array([0.0, 90.0, 180.0]), encoder.patch)
    looked = engine.encode_images(encoder, panoramas, "ground", transform=crop)
    columns = [np.arange(28, 84), np.arange(56, 112), np.r_[84:112, 0:28]]  # 56 of 112 columns: north, east, south
    for image, wanted, found in zip(panoramas, columns, looked, strict=True):
        pixels = tiny_processor([image], view="ground", return_tensors="pt")["pixel_values"][..., wanted]
        np.testing.assert_allclose(found, tiny_model(pixels, view="ground").pooler_output[0].detach(), atol=1e-5)


def test_encode_to_store_of_crops_is_the_same_for_any_number_of_processes(tiny_model, tiny_processor, tmp_path):
    from gengeo_hf.data.loading import GroundImages
    from gengeo_hf.encoding.encoder import Encoder

    encoder, pairs = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=4), random_pairs(20)
    photos, ids = GroundImages(pairs), pairs.queries["query_id"][:]
    headings = view_headings(find_protocol("world-urban-fov180-unknown"), 20, seed=3)
    given = {"transform": script.limited_view(180, headings, encoder.patch), "transform_key": 3, "shard_rows": 4}
    alone = engine.encode_to_store(encoder, photos, "ground", ids, tmp_path / "one", **given)
    for process in (1, 0):  # the second process may be first
        shared = engine.encode_to_store(
            encoder, photos, "ground", ids, tmp_path / "two", process=process, processes=2, **given
        )
        assert sum(shared.read(n) is not None for n in range(5)) == (2 if process else 5)
    np.testing.assert_array_equal(alone.load(), shared.load())
    other = engine.encode_to_store(encoder, photos, "ground", ids, tmp_path / "two", **(given | {"transform_key": 4}))
    assert other.folder != shared.folder


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    from gengeo_hf.encoding.encoder import Encoder

    return Encoder(tiny_model, tiny_processor, device="cpu")  # patches of 14 pixels


def test_view_sizes_are_those_given_else_those_of_the_model(encoder):
    own = {"ground": {"height": 28, "width": 112}, "aerial": {"height": 56, "width": 56}}
    assert script.view_sizes(encoder, None, None) == own
    assert script.view_sizes(encoder, "14X140", None) == own | {"ground": {"height": 14, "width": 140}}
    assert script.view_sizes(encoder, None, "42x70") == own | {"aerial": {"height": 42, "width": 70}}


@pytest.mark.parametrize(
    "size", ["28", "28x28x28", "28x30", "30x28", "0x28", "28x0", "x28", "28x-28", "28x2.8", "15x15"]
)
def test_view_sizes_of_other_forms_raise_an_error(encoder, size):
    with pytest.raises(GenGeoError, match=r"--aerial-size must be HxW in multiples of 14 pixels"):
        script.view_sizes(encoder, None, size)


def test_evaluate_by_default_has_seed_0_no_flip_and_the_name_of_the_directory(tiny_checkpoint, encoder, capfd):
    pairs = random_pairs(6, seed=1)
    summary = script.evaluate(tiny_checkpoint, pairs).summary
    assert summary["model"]["name"] == tiny_checkpoint.name
    settings = summary["settings"]
    assert settings["seed"] == 0 and settings["data"] == pairs.name and settings["loader"] == {}
    assert "adaptation" not in settings and "training_pairs" not in settings
    encoded = script.encode_data(encoder, pairs)
    assert (encoded.settings["seed"], encoded.model["name"]) == (0, "model")
    assert encoded.ground.shape == (6, encoder.dim)
    assert "img/s" not in capfd.readouterr().err


def test_encoded_data_cannot_be_changed(encoder):
    encoded = script.encode_data(encoder, random_pairs(2, seed=1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoded.device = None


def test_evaluate_with_an_encode_function_uses_it_for_both_views(encoder):
    calls = []

    def encode(images, view):
        calls.append((len(images), view))
        return np.eye(6, dtype=np.float32)

    pairs = random_pairs(6, seed=1)
    found = script.evaluate(encoder, pairs, encode=encode)
    assert calls == [(6, "ground"), (6, "aerial")] and found.metrics["recall@1"] == 1
    assert found.summary["settings"]["images"] == {}
    for adapted in ({"flip": True}, {"centering": "gallery"}):
        with pytest.raises(GenGeoError, match="cannot be combined with encode"):
            script.evaluate(encoder, pairs, encode=encode, **adapted)


def test_choose_protocol_of_loaded_data_or_an_unnamed_split():
    assert script.choose_protocol(None, random_pairs(2, name="cvusa/test")).name == "cvusa"
    assert script.choose_protocol(None, random_pairs(2, name="world/x/train")).name == "world/x:train"
    assert script.choose_protocol(None, random_pairs(2, name="alone")).dataset == "alone"
    assert script.choose_protocol("cvusa", script.parse_data("cvusa x")).name == "cvusa"
    assert script.choose_protocol("cvusa", script.parse_data("cvusa:test x")).split == "test"
    assert script.choose_protocol("cvusa", None).name == "cvusa"
    own = find_protocol("cvusa")
    assert script.choose_protocol(own, random_pairs(2)) is own


def test_model_name_is_that_of_the_directory_or_of_the_run(encoder, tmp_path):
    assert script.model_name(tmp_path / "run" / "model", encoder) == "run"
    assert script.model_name(tmp_path / "run" / "other", encoder) == "other"
    assert script.model_name("/model", encoder) == "model"
    assert script.model_name(encoder, encoder) == "model"
    encoder.training_record = {"settings": {"output": "runs/mine"}}
    assert script.model_name(encoder, encoder) == "mine"


def test_model_summary_names_the_training_data_of_the_record(encoder):
    record = {"trained_on": "cvusa/train", "validated_on": "cvusa/validation"}
    for settings, name in ((None, "cvusa/train"), ({"data": {}}, "cvusa/train"), ({"data": {"name": "mix"}}, "mix")):
        encoder.training_record = record | {"settings": settings}
        found = script.model_summary(encoder, "x")
        assert (found["name"], found["trained_on"], found["validated_on"]) == ("x", name, "cvusa/validation")
        assert found["descriptor_dim"] == encoder.dim and found["fingerprint"] == encoder.fingerprint


@pytest.mark.parametrize("record", [{}, {"settings": None}, {"settings": {"data": {"train": None}}}])
def test_training_overlap_of_other_records_states_no_options(record):
    pairs = random_pairs(3, seed=1)
    truth = GroundTruth.from_dataset(pairs)
    stored = record | {"training_pairs": pair_hashes(pairs)}
    with pytest.raises(GenGeoError, match=r"3 of 3 queries .* Options of the training data were: none;"):
        script.training_overlap(stored, truth, find_protocol("cvusa"))
    for split in ("train", "all"):
        assert script.training_overlap(stored, truth, dataclasses.replace(find_protocol("cvusa"), split=split)) == 3
    assert script.training_overlap(record, truth, find_protocol("cvusa")) == 0


def test_format_summary_aligns_metrics_in_percent_and_metres():
    summary = {
        "dataset": {"name": "few/test", "queries": 1234, "gallery": 56_789, "complete": True},
        "model": {"name": "stub", "trained_on": None},
        "protocol": {"name": "mine", "trained_on": [], "note": "Own data."},
        "settings": {},
        "metrics": {"recall@1": 0.12345, "median_error_m": 1234.567},
        "intervals": {"recall@1": [0.1, 0.2], "median_error_m": [0.5, 2000.0]},
    }
    assert script.format_summary(Result(summary, pa.table({}))).splitlines() == [
        "stub on few/test: 1,234 queries, 56,789 tiles, protocol mine",
        "  recall@1            12.35 %   (10.00 to 20.00)",
        "  median_error_m   1,234.57 m   (0.50 to 2,000.00)",
        "  Own data.",
    ]

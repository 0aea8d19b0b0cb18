"""`gengeo evaluate`: one result, whatever was stopped, cached or shared out."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding import engine as describe
from gengeo_hf.evaluation import run as script
from gengeo_hf.evaluation.results import Result
from tests.training.made_up import made_up_pairs

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    """Evaluate on 40 made-up pairs with shards of 8 rows."""
    monkeypatch.setattr(script, "load_pairs", lambda *given, **options: made_up_pairs(40, seed=1))
    plain = script.describe_view
    monkeypatch.setattr(script, "describe_view", lambda *given, **named: plain(*given, **named, shard_rows=8))

    def run(*more, out="x.json", protocol="world-urban"):
        given = ["--model", str(tiny_checkpoint), "--protocol", protocol, "--out", str(tmp_path / out), "--cpu", *more]
        return script.main(script.parse(given))

    return run


def shards(folder):
    return sorted(folder.glob("**/descriptors/**/*.safetensors"))


def test_a_result_says_what_it_is_and_reads_back(run, tmp_path, capsys):
    result = run("--name", "tiny")
    assert "do not compare with published numbers" in capsys.readouterr().out
    loaded = Result.load(tmp_path / "x.json")
    assert loaded.summary == json.loads(json.dumps(result.summary))
    assert loaded.summary["model"]["name"] == "tiny"
    assert loaded.summary["protocol"]["name"] == "world-urban"
    assert len(loaded.summary["model"]["fingerprint"]) == 64
    assert loaded.summary["dataset"] | {"fingerprint": ""} == {
        "name": "made-up/train", "queries": 40, "gallery": 40, "complete": False, "fingerprint": "",
    }  # fmt: skip
    for name, values in loaded.outcomes.items():
        assert loaded.summary["metrics"][name] == values.mean()
    assert {"recall@1", "recall@1%"} <= set(loaded.outcomes)
    rank, tiles = loaded.queries["rank"].to_numpy(), loaded.queries["top_tiles"].to_pylist()
    for place, positive, best in zip(rank, loaded.queries["positive"].to_pylist(), tiles, strict=True):
        assert best.index(positive) == place if place < 5 else positive not in best


def test_a_stopped_run_goes_on_and_a_damaged_shard_is_made_again(run, tmp_path, monkeypatch):
    run(out="whole.json")
    files = shards(tmp_path)
    assert len(files) == 10
    before = {file: file.read_bytes() for file in files}
    files[1].unlink()
    files[3].write_bytes(before[files[3]][:-100])
    files[7].write_bytes(before[files[6]])  # a shard in the place of another is as long, and wrong
    made = []
    plain = describe.DescriptorStore.write
    monkeypatch.setattr(describe.DescriptorStore, "write", lambda s, n, d: (made.append(s.path(n)), plain(s, n, d)))
    run(out="again.json")
    assert files[1] in made and files[3] in made and len(made) <= 3
    assert {f: f.read_bytes() for f in files if f in made} == {f: before[f] for f in made}


def test_another_view_size_or_field_of_view_is_described_anew(run, tmp_path):
    first = run(out="a.json").summary
    assert len(shards(tmp_path)) == 10
    other = run("--aerial-size", "42x42", out="b.json").summary
    assert first["model"]["fingerprint"] != other["model"]["fingerprint"]
    assert len(shards(tmp_path)) == 20
    limited = run(out="c.json", protocol="world-urban-fov180-unknown").summary
    assert len(shards(tmp_path)) == 25  # the tiles are described already
    assert limited["protocol"]["fov"] == 180
    assert limited["metrics"] != first["metrics"]
    again = run(out="d.json", protocol="world-urban-fov180-unknown").summary
    assert again == limited


def test_the_whole_circle_to_the_north_is_the_panorama_itself(run):
    assert run().summary["metrics"] == run(protocol="world-urban-fov360-known").summary["metrics"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"protocol": "mars"}, "unknown protocol 'mars'"),
        ({"protocol": "cvusa-fov33-known"}, "must be one of"),
        ({"more": ["--ground-size", "30x112"]}, "multiples of 14"),
        ({"more": ["--ground-size", "wide"]}, "HxW"),
        ({"protocol": "world-urban-fov90-known"}, "more tokens than clusters"),
    ],
)
def test_bad_orders_are_one_line(run, more, words):
    with pytest.raises(GenGeoError, match=words) as error:
        run(*more.pop("more", []), **more)
    assert "\n" not in str(error.value)


def test_a_photo_cannot_be_cut(tmp_path):
    protocol = script.find_protocol("cvusa-fov90-known")
    script.check_cut(protocol, [360.0, 360.0])
    script.check_cut(script.find_protocol("cvusa"), [None, 90.0])  # nothing is cut
    for fields in ([360.0, 90.0], [360.0, None]):
        with pytest.raises(GenGeoError, match="field of view"):
            script.check_cut(protocol, fields)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["world-urban", "world-urban-fov180-unknown"])
def test_two_processes_give_the_same_numbers_as_one(tiny_checkpoint, tmp_path, protocol):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import functools
            import os
            import sys
            sys.path.insert(0, {str(REPOSITORY)!r})
            from gengeo_hf.evaluation import run as script
            from accelerate.state import PartialState
            from tests.training.made_up import made_up_pairs
            script.load_pairs = lambda *given, **options: made_up_pairs(40, seed=1)
            script.describe_view = functools.partial(script.describe_view, shard_rows=8)
            script.main(script.parse(sys.argv[1:]))
            assert PartialState().num_processes == int(os.environ["WORLD_SIZE"])
            """
        )
    )
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        out = tmp_path / str(count) / "x.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command += [
            str(program),
            "--model",
            str(tiny_checkpoint),
            "--protocol",
            protocol,
            "--out",
            str(out),
            "--cpu",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (tmp_path / str(count) for count in (1, 2))
    assert (one / "x.json").read_bytes() == (two / "x.json").read_bytes()
    assert pq.read_table(one / "x.queries.parquet").equals(pq.read_table(two / "x.queries.parquet"))
    for file in shards(one):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


def test_limited_views_keep_their_scale_and_direction(tiny_model, tiny_processor):
    from gengeo_hf.encoding.encoder import Encoder

    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=2)
    random = np.random.default_rng(0)
    panoramas = [random.integers(0, 256, (28, 112, 3), dtype=np.uint8) for _ in range(3)]
    looked = describe.encode_limited(encoder, panoramas, 180, np.array([0.0, 90.0, 180.0]))
    columns = [np.arange(28, 84), np.arange(56, 112), np.r_[84:112, 0:28]]  # 56 of 112 columns: north, east, south
    for image, wanted, found in zip(panoramas, columns, looked, strict=True):
        pixels = tiny_processor([image], view="ground", return_tensors="pt")["pixel_values"][..., wanted]
        np.testing.assert_allclose(found, tiny_model(pixels, view="ground").pooler_output[0].detach(), atol=1e-5)


def test_cuts_are_the_same_however_the_shards_are_shared_out(tiny_model, tiny_processor, tmp_path):
    from gengeo_hf.data.loading import GroundImages
    from gengeo_hf.encoding.encoder import Encoder

    encoder, pairs = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=4), made_up_pairs(20)
    photos, ids = GroundImages(pairs), pairs.queries["query_id"][:]
    protocol = script.find_protocol("world-urban-fov180-unknown")
    given = {"fov": 180, "headings": describe.cut_headings(protocol, 20, seed=3), "shard_rows": 4}
    alone = describe.describe_view(encoder, photos, "ground", ids, tmp_path / "one", **given)
    for process in (1, 0):  # the second process may be first
        shared = describe.describe_view(
            encoder, photos, "ground", ids, tmp_path / "two", process=process, processes=2, **given
        )
        assert sum(shared.read(n) is not None for n in range(5)) == (2 if process else 5)
    np.testing.assert_array_equal(alone.load(), shared.load())
    other = describe.cut_headings(protocol, 20, seed=4)
    assert (
        describe.describe_view(encoder, photos, "ground", ids, tmp_path / "two", **(given | {"headings": other})).folder
        != shared.folder
    )

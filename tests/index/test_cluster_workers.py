"""Distribution of the parts of a build over workers, with a stand-in for Ray that runs tasks in this process."""

import contextlib
import itertools
from types import SimpleNamespace

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex, cluster, work
from gengeo_hf.index.cluster import build_on_ray
from tests.index.test_merge import rows
from tests.stubs import ListSource, StubEncoder


class LostError(Exception):
    """What the stand-in raises for a lost worker."""


class Ray:
    """Runs one task for each `wait`, the oldest first.

    Args:
        machines: Resources of the machines.
        lose: Function of the method and its arguments; a returned text is the reason for the loss of the worker.
    """

    exceptions = SimpleNamespace(RayError=LostError)

    def __init__(self, machines=({"CPU": 4.0},), lose=lambda method, *arguments: None):
        self.machines, self.lose = machines, lose
        self.actors, self.killed, self.calls, self.options_of_actors, self.silent = 0, 0, [], None, 0

    def nodes(self):
        return [{"Alive": not machine.get("dead"), "Resources": machine} for machine in self.machines]

    def remote(self, kind):
        def task(worker, method):
            return SimpleNamespace(remote=lambda *arguments: (next(NUMBERS), worker, method, arguments))

        def start():
            self.actors += 1
            worker = kind()
            return SimpleNamespace(open=task(worker, "open"), build=task(worker, "build"))

        def options(**given):
            self.options_of_actors = given
            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, references, timeout):
        if self.silent:
            self.silent -= 1
            return [], references
        return [min(references, key=lambda reference: reference[0])], []

    def get(self, reference):
        _, worker, method, arguments = reference
        self.calls.append((method, *arguments))
        if reason := self.lose(method, *arguments):
            raise LostError(reason)
        return getattr(worker, method)(*arguments)

    def kill(self, actor):
        self.killed += 1


NUMBERS = itertools.count()


@pytest.fixture
def connect(monkeypatch):
    """Use a stand-in for Ray; parts of twelve tiles, units of six."""
    monkeypatch.setattr(cluster, "PART_TILES", 12)
    monkeypatch.setattr(work, "SHARD", 6)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def use(ray):
        ray.connected = []

        def connected(address, workers):
            ray.connected.append((address, workers))
            return contextlib.nullcontext(ray)

        monkeypatch.setattr(cluster, "connect_ray", connected)
        return ray

    return use


def imagery():
    return ListSource(40, broken=[3], empty=[20])


def stop_at_the_first_part(method, *_):
    if method == "build":
        error = LostError("task")
        error.cause = GenGeoError("enough")
        raise error


def opener(workers):
    return StubEncoder(), imagery(), {"readers": 1}


@pytest.mark.parametrize(
    ("machines", "options", "workers", "needs"),
    [
        (({"CPU": 8.0}, {"CPU": 4.0}), {}, 2, (4, 0)),
        (({"CPU": 8.0}, {"CPU": 4.0}), {"workers": 5}, 5, (1, 0)),  # three on one machine
        (({"CPU": 8.0}, {"CPU": 6.0}), {"workers": 3}, 3, (3, 0)),
        (({"CPU": 8.0}, {"CPU": 2.0, "dead": True}, {"GPU": 3.0}), {}, 1, (8, 0)),
        (({"CPU": 16.0, "GPU": 2.0}, {"CPU": 9.0, "GPU": 3.0}, {"CPU": 1.0}), {}, 5, (3, 1)),
        (({"CPU": 16.0, "GPU": 2.0}, {"CPU": 9.0, "GPU": 3.0}), {"workers": 2}, 2, (3, 1)),
        (({"CPU": 16.0, "GPU": 2.0}, {"CPU": 9.0, "GPU": 3.0}), {"use_gpus": False}, 2, (9, 0)),
        (({"CPU": 1.0},), {"workers": 4}, 4, (1, 0)),
    ],
)
def test_workers_are_one_for_each_gpu_or_machine_and_share_its_cpus(
    connect, tmp_path, machines, options, workers, needs
):
    ray = connect(Ray(machines, lose=stop_at_the_first_part))
    with pytest.raises(GenGeoError, match="enough"):
        build_on_ray(opener, tmp_path / "x.gengeo", "noise", **options)
    assert ray.actors == workers
    assert ray.options_of_actors == {"scheduling_strategy": "SPREAD", "num_cpus": needs[0], "num_gpus": needs[1]}
    assert ray.connected == [(None, options.get("workers", 1))]


def test_build_on_ray_without_machines_with_cpus_raises_an_error(connect, tmp_path):
    connect(Ray(({"GPU": 1.0},)))
    with pytest.raises(GenGeoError, match="has no machine with CPUs"):
        build_on_ray(opener, tmp_path / "x.gengeo", "noise")
    assert not list(tmp_path.iterdir())


def test_build_on_ray_of_four_parts_equals_one_build(connect, tmp_path, capfd):
    ray, notes = connect(Ray()), []
    path = tmp_path / "x.gengeo"
    report = build_on_ray(opener, path, "noise", workers=2, address="host:1", note=notes.append, progress=True)
    whole = GeoIndex.build(StubEncoder(), imagery(), tmp_path / "whole.gengeo")
    assert rows(GeoIndex.load(path)) == rows(whole)
    assert (report.tiles, report.no_data, report.broken_count, report.was_complete) == (38, 1, 1, False)
    assert report.seconds > 0 and report.tiles_per_second * report.seconds == pytest.approx(40)
    assert notes == ["workers: 2, each computes with thumbnails"] and ray.connected == [("host:1", 2)]
    assert sorted(call[2:] for call in ray.calls if call[0] == "build") == [(number, 4) for number in range(4)]
    assert ray.actors == 2 and ray.killed == 1 and "40/40" in capfd.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["whole.gengeo", "x.gengeo"]
    again = build_on_ray(opener, path, "noise", workers=1)
    assert again.was_complete and capfd.readouterr().err == ""
    with pytest.raises(GenGeoError, match="--overwrite"):
        build_on_ray(lambda workers: (StubEncoder("b"), imagery(), {}), path, "noise", workers=1)
    other = build_on_ray(lambda workers: (StubEncoder("b"), imagery(), {}), path, "noise", workers=1, overwrite=True)
    assert other.tiles == 38 and GeoIndex.load(path).manifest.model.fingerprint == StubEncoder("b").fingerprint


def losing_part_2(times):
    """Return a function that loses the worker of part 2 some times."""
    lost = []

    def lose(method, *arguments):
        if method == "build" and arguments[1] == 2 and len(lost) < times:
            lost.append(arguments)
            return "\n  out of memory \nmore"
        return None

    return lose


def test_part_that_is_lost_three_times_is_assigned_to_other_workers(connect, tmp_path):
    ray, notes = connect(Ray(lose=losing_part_2(3))), []
    assert build_on_ray(opener, tmp_path / "x.gengeo", "noise", workers=2, note=notes.append).tiles == 38
    text = "part 2 of 4 was lost (LostError: out of memory); it is assigned to another worker"
    assert notes[1:] == [text] * 3 and ray.actors == 2 + 3


def test_part_that_is_lost_four_times_raises_an_error_and_finished_parts_are_kept(connect, tmp_path):
    path, notes = tmp_path / "x.gengeo", []
    connect(Ray(lose=losing_part_2(4)))
    with pytest.raises(GenGeoError, match="part 2 of 4 was lost 4 times, last: LostError: out of memory"):
        build_on_ray(opener, path, "noise", workers=2)
    ray = connect(Ray())
    report = build_on_ray(opener, path, "noise", workers=1, note=notes.append)
    assert notes[1] == "3 of 4 parts are already finished"
    assert [call[2:] for call in ray.calls if call[0] == "build"] == [(2, 4)]
    assert report.tiles == 38 and report.tiles_per_second * report.seconds == pytest.approx(12)


@pytest.mark.parametrize(("workers", "starts"), [(1, 4), (3, 12)])
def test_workers_that_cannot_start_are_tried_four_times_each(connect, tmp_path, workers, starts):
    ray = connect(Ray(lose=lambda method, *_: "no driver" if method == "open" else None))
    with pytest.raises(GenGeoError, match="no worker could be started on Ray, last: LostError: no driver"):
        build_on_ray(opener, tmp_path / "x.gengeo", "noise", workers=workers)
    assert [call[0] for call in ray.calls] == ["open"] * starts and ray.killed == starts


def test_worker_with_other_imagery_raises_an_error(connect, tmp_path):
    counts = iter((40, 41))
    connect(Ray())
    with pytest.raises(GenGeoError, match=r"different models or imagery \(41 and 40 tiles\)"):
        build_on_ray(lambda workers: (StubEncoder(), ListSource(next(counts)), {}), tmp_path / "x", "noise", workers=2)


def test_error_of_a_worker_is_raised_at_once(connect, tmp_path):
    error = LostError("task")
    error.cause = GenGeoError("the model is broken")

    def lose(method, *_):
        raise error

    ray = connect(Ray(lose=lose))
    with pytest.raises(GenGeoError, match="the model is broken"):
        build_on_ray(opener, tmp_path / "x", "noise", workers=2)
    assert len(ray.calls) == 1


def test_wait_for_a_worker_is_noted_only_until_parts_are_built(connect, tmp_path):
    ray, notes = connect(Ray(({"CPU": 7.0},))), []
    ray.silent = 2

    def slow(workers):
        ray.silent = 1  # also before the first part is complete
        return opener(workers)

    build_on_ray(slow, tmp_path / "x", "noise", workers=1, note=notes.append)
    assert notes[:2] == ["waiting for Ray to start a worker with 7 CPUs and 0 GPUs"] * 2 and len(notes) == 3


def test_build_on_ray_of_tiles_without_data_raises_an_error(connect, tmp_path):
    connect(Ray())
    source = ListSource(14, empty=range(14))
    with pytest.raises(GenGeoError, match="none of the 14 tiles of noise could be read or holds data"):
        build_on_ray(lambda workers: (StubEncoder(), source, {}), tmp_path / "x", "noise", workers=1)
    assert not list(tmp_path.iterdir())


def test_options_of_a_build_are_part_of_the_key_of_its_parts(connect, tmp_path):
    """A worker whose thumbnails have another size has another key; 128 pixels are the default."""
    sizes = iter(({}, {"thumbnail_pixels": 128}))
    connect(Ray())
    report = build_on_ray(lambda workers: (StubEncoder(), imagery(), next(sizes)), tmp_path / "x", "noise", workers=2)
    assert report.tiles == 38

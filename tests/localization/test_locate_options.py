"""Options of `GeoLocalizer`: numbers of places, batches, priors, thresholds and headings."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex, Hit
from gengeo_hf.localization import GeoLocalizer, Motion
from gengeo_hf.localization.answers import Answer, Place
from gengeo_hf.localization.confidence import Calibration
from tests.localization.photo_files import save_with_position
from tests.stubs import ListSource, StubEncoder


class Counting(StubEncoder):
    """Records the number of images of each call."""

    def encode(self, images, view, **options):
        self.batches = [*getattr(self, "batches", []), len(images)]
        return super().encode(images, view, **options)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """An index of 100 tiles that do not overlap, with its source."""
    source = ListSource(100)
    lons = 24.0 + np.arange(100) / 50
    columns = {"lon": lons, "west": lons - 0.001, "east": lons + 0.001}
    table = source.table
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [values.tolist()])
    source.table = table
    return GeoIndex.build(StubEncoder(), source, tmp_path_factory.mktemp("wide") / "idx"), source


def photos_of(source, rows):
    return [source.images[row] for row in rows]


def test_locate_gives_five_places_by_default_and_as_many_as_requested(wide):
    index, source = wide
    localizer = GeoLocalizer(StubEncoder(), index)
    photo = source.images[3]
    assert [place.rank for place in localizer.locate(photo).places] == [1, 2, 3, 4, 5]
    (answer,) = localizer.locate_many([photo])
    assert len(answer.places) == 5 and answer.known and answer.places[0].tile_id == "noise-3"
    for top in (1, 85, 100):
        for merge in (True, False):
            found = localizer.locate(photo, top=top, merge=merge).places
            assert [place.rank for place in found] == list(range(1, top + 1))


def test_locate_many_encodes_32_photos_together_by_default(wide):
    index, source = wide
    for options, batches in (({}, [32, 1]), ({"batch_size": 20}, [20, 13])):
        encoder = Counting()
        answers = list(GeoLocalizer(encoder, index).locate_many(photos_of(source, range(33)), **options))
        assert encoder.batches == batches
        assert [answer.best.tile_id for answer in answers] == [f"noise-{row}" for row in range(33)]


def test_locate_searches_the_same_number_of_tiles_for_up_to_ten_places(wide, monkeypatch):
    index, source = wide
    requested, search = [], index.search

    def recorded(descriptors, k, *more):
        requested.append(k)
        return search(descriptors, k, *more)

    monkeypatch.setattr(index, "search", recorded)
    localizer = GeoLocalizer(StubEncoder(), index)
    for top in (1, 10, 11, 20):
        localizer.locate(source.images[0], top=top)
    least = requested[0]
    assert requested == [least, least, least * 11 // 10, least * 2]
    localizer.locate(source.images[0], top=7, merge=False)
    assert requested[-1] == 7


class Recorded(GeoLocalizer):
    """Answers of a drive whose options are recorded."""

    def __init__(self):
        self.options = []

    def locate_many(self, photos, **options):
        self.options.append(options)
        for number, _ in enumerate(photos):
            far = Place(1, 10.0 + number, 25.0, 0.9, "far", uncertainty_m=5.0)
            yield Answer(str(number), [far, *(Place(2, 60.0, 25.0 + row, 0.88, f"t{row}") for row in range(25))])


def test_locate_of_a_sequence_chooses_from_at_least_20_places():
    localizer = Recorded()
    frames = [Image.new("RGB", (9, 9))] * 3
    track = localizer.locate(frames, sequence=True)
    assert localizer.options == [{"top": 20}] and [len(answer.places) for answer in track] == [5, 5, 5]
    assert all(answer.known for answer in track)  # without a threshold
    assert not any(answer.known for answer in localizer.locate(frames, sequence=True, threshold=0.5))
    localizer.locate(frames, sequence=True, top=22, motion=Motion(top_speed=3.0), batch_size=2)
    assert localizer.options[-1] == {"top": 22, "batch_size": 2}
    with pytest.raises(GenGeoError, match="give a list of photos"):
        localizer.locate(frames[0], sequence=True)


def test_answer_with_the_confidence_of_the_threshold_is_known(wide):
    index, source = wide
    half = Calibration(0.0, 0.0, 0.0, 50.0, StubEncoder().fingerprint, 100, 20, 0.0)  # 0.5 for every photo
    localizer = GeoLocalizer(StubEncoder(), index, calibration=half)
    for threshold, known in ((0.0, True), (0.5, True), (0.51, False)):
        answer = localizer.locate(source.images[3], threshold=threshold)
        assert answer.best.confidence == 0.5 and answer.known is known
    nowhere = localizer.locate(source.images[3], threshold=0.5, near=(10.0, 10.0, 100.0))
    assert nowhere.known and not nowhere.places and "the nearest is" in nowhere.notes[-1]


def test_locate_many_searches_each_photo_around_its_own_position(wide, tmp_path):
    index, source = wide
    lat = source.table["lat"][0].as_py()
    at = [(lat, 24.0 + 10 / 50), None, (lat, 24.0 + 80 / 50)]
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, position in zip(paths, at, strict=True):
        if position:
            save_with_position(path, source.images[30], *position)
        else:
            source.images[30].save(path)
    localizer = GeoLocalizer(StubEncoder(), index)
    found = list(localizer.locate_many(paths, exif_radius_m=500.0))
    assert [answer.best.tile_id for answer in found] == ["noise-10", "noise-30", "noise-80"]
    assert [len(answer.places) for answer in found] == [1, 5, 1]
    assert [answer.exif_is_prior for answer in found] == [True, False, True]
    two = localizer.locate_many(paths[::2], exif_radius_m=500.0)
    assert [answer.best.tile_id for answer in two] == ["noise-10", "noise-80"]
    plain = list(localizer.locate_many(paths))
    assert {answer.best.tile_id for answer in plain} == {"noise-30"} and not any(a.exif_is_prior for a in plain)


def test_search_photo_gives_the_most_similar_tiles(wide, tmp_path):
    index, source = wide
    localizer = GeoLocalizer(StubEncoder(), index)
    photo, hits = localizer.search_photo(source.images[7], CameraView(), 4)
    assert photo.image is not None and len(hits) == 4 and hits[0].tile_id == "noise-7"
    (tmp_path / "bad.png").write_bytes(b"x")
    assert localizer.search_photo(tmp_path / "bad.png", CameraView(), 4) is None


class Panoramas(StubEncoder):
    """Encoder of a model of panoramas, which encodes a photo without a heading in eight turns."""

    ground_camera = "panorama"
    ground_vertical_fov = 90.0


def hit(name, score):
    return Hit(name, score, 60.0, 25.0, None, "", "")


def test_locate_with_an_unknown_heading_takes_the_best_score_of_each_tile_and_its_heading(wide, monkeypatch):
    turns = [[hit("a", 0.5), hit("b", 0.4)], [hit("b", 0.9), hit("c", 0.5), hit("a", 0.5)], *[[]] * 6]
    index, _ = wide
    monkeypatch.setattr(index, "search", lambda descriptors, *given: turns[: len(descriptors)])
    localizer, photo = GeoLocalizer(Panoramas(), index), Image.new("RGB", (64, 16))
    unknown = CameraView(fov=360.0, heading="unknown")
    _, hits = localizer.search_photo(photo, unknown, 2)
    assert [(one.tile_id, one.score) for one in hits] == [("b", 0.9), ("a", 0.5)]
    places = localizer.locate(photo, camera=unknown, merge=False).places
    # Of equal scores, the first tile by id and the first heading are used.
    assert [(place.tile_id, place.heading) for place in places] == [("b", 45.0), ("a", 0.0), ("c", 45.0)]
    _, hits = localizer.search_photo(photo, CameraView(fov=360.0, heading=0.0), 1)
    assert hits == turns[0]  # as the index returned them

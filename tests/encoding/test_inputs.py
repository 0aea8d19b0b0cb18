"""Arguments of an encoder's public methods: one image or many, in every form."""

import http.server
import io
import threading

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.serving.batching import BatchingEncoder
from tests.stubs import StubEncoder


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    return Encoder(tiny_model, tiny_processor, device="cpu", batch_size=2)


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8))


@pytest.fixture
def file(image, tmp_path):
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_encode_one_image_in_any_form_gives_one_vector(encoder, image, file):
    pixels = np.asarray(image)
    column = datasets.Dataset.from_dict({"image": [str(file)]}).cast_column("image", datasets.Image())
    expected = encoder.encode_ground(image)
    assert expected.shape == (24,)
    forms = [
        str(file),
        file,
        file.read_bytes(),
        bytearray(file.read_bytes()),
        io.BytesIO(file.read_bytes()),
        pixels,
        torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        {"bytes": file.read_bytes(), "path": None},
        {"bytes": None, "path": str(file)},
        column[0]["image"],
    ]
    for form in forms:
        np.testing.assert_allclose(encoder.encode_ground(form), expected, atol=1e-5, err_msg=str(type(form)))
    np.testing.assert_allclose(encoder.encode_ground(column["image"]), expected[None], atol=1e-5)


def test_encode_many_images_gives_matrix_in_their_order(encoder, image, file):
    others = [image.rotate(angle) for angle in (0, 90, 180)]
    each = np.stack([encoder.encode_aerial(one) for one in others])
    for given in (others, tuple(others), iter(others), (one for one in others)):
        np.testing.assert_allclose(encoder.encode_aerial(given), each, atol=1e-5)
    batch = np.stack([np.asarray(one) for one in (image, image)])
    assert encoder.encode_aerial(batch).shape == (2, 24)
    assert encoder.encode_aerial(torch.from_numpy(batch).permute(0, 3, 1, 2)).shape == (2, 24)
    assert encoder.encode_aerial([]).shape == (0, 24)
    np.testing.assert_allclose(encoder.encode([str(file)], "aerial"), each[:1], atol=1e-5)


def test_encode_call_options_set_batch_size_and_bar(encoder, image, monkeypatch, capsys):
    sizes = []
    compute = encoder.encode_pixels
    monkeypatch.setattr(
        encoder, "encode_pixels", lambda pixels, view: sizes.append(len(pixels)) or compute(pixels, view)
    )
    encoder.encode_ground([image] * 5)
    encoder.encode_ground([image] * 5, batch_size=4, show_progress_bar=True)
    assert sizes == [2, 2, 1, 4, 1]
    assert "encode ground" in capsys.readouterr().err
    with pytest.raises(GenGeoError, match="batch_size is 0"):
        encoder.encode_ground(image, batch_size=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.jpg", "there is no image photo.jpg"),
        (["photo.jpg"], "there is no image photo.jpg"),
        (7, "an image is a int; expected a path"),
        ([None], "an image is a NoneType; expected a path"),
        ({"file": "a"}, "expected bytes or path"),
    ],
)
def test_encode_of_other_objects_raises_one_line(encoder, images, message):
    with pytest.raises(GenGeoError, match=message):
        encoder.encode_ground(images)


@pytest.mark.parametrize("view", ["sky", ["ground"], None])
def test_encode_with_an_unknown_view_raises_one_line(encoder, image, view):
    with pytest.raises(GenGeoError, match='expected "ground" for photos or "aerial" for tiles'):
        encoder.encode(image, view)


def test_encode_own_size_keeps_pixels(encoder):
    strip = Image.fromarray(np.random.default_rng(1).integers(0, 255, (28, 56, 3), np.uint8))
    pixels = encoder.processor(strip, view="ground", do_resize=False, return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (28, 56)
    expected = encoder.encode_pixels(pixels, "ground")[0]
    np.testing.assert_array_equal(encoder.encode(strip, "ground", resize=False), expected)


def test_similarity_is_the_cosine_of_all_pairs(encoder, image):
    one = encoder.encode_ground(image)
    many = encoder.encode_aerial([image, image.rotate(90), image.rotate(180)])
    assert encoder.similarity(one, many).shape == (3,)
    np.testing.assert_allclose(encoder.similarity(many, many), many @ many.T)
    np.testing.assert_allclose(encoder.similarity(one, one), 1, atol=1e-6)
    with pytest.raises(GenGeoError, match="24 and 8 values"):
        encoder.similarity(one, many[:, :8])


def test_encode_address_is_fetched_by_python_calls_only(encoder, image, file):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/photo.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(file.read_bytes())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        np.testing.assert_allclose(encoder.encode_ground(f"{home}/photo.png"), encoder.encode_ground(file), atol=1e-6)
        with pytest.raises(GenGeoError, match="404"):
            encoder.encode_ground(f"{home}/other.png")
        with pytest.raises(GenGeoError, match="web address"):  # an untrusted table may contain any address
            list(encoder.encode_stream([f"{home}/photo.png"], "ground"))
        server.shutdown()
    with pytest.raises(GenGeoError, match="cannot be fetched"):
        encoder.encode_ground(f"{home}/photo.png")


def test_encoders_have_all_members_of_the_protocol(encoder):
    stub = StubEncoder()
    batching = BatchingEncoder(stub)
    for one in (encoder, stub, batching):
        assert isinstance(one, EncoderProtocol)
        optional = ("truncate_dim", "ground_camera", "ground_vertical_fov")
        members = [name for name in vars(EncoderProtocol) if not name.startswith("_")]
        assert len(members) == 13
        assert all(getattr(one, name) is not None or name in optional for name in members)
    batching.close()

"""A page without a server: onnxruntime-web encodes a photo in the browser and searches a small index there.

The runtime is not a part of the package: it is downloaded by npm when the page is written, in a pinned version whose
checksum is verified, and kept in the user's cache.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, atomic_folder, check_replaceable, write_json, write_text
from gengeo_hf.hub.card import ASSETS

PAGE = ASSETS.parent / "static_space"
RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
CARD = "---\ntitle: GenGeo\nsdk: static\npinned: false\n---\n\nLocates a photo in the browser: nothing is uploaded.\n"
MAX_TILES = 100_000  # 100 MB of descriptors, which fit into the memory of a phone


def write_static_space(
    out: str | Path, model: str | Path, index: str | Path, *, runtime: str | Path | None = None, overwrite: bool = False
) -> float:
    """Write a page that locates photos in the browser: upload the directory as a static Space, or serve its files.

    Photos are only resized: the page does not project them to the canvas of a panorama model, and tries no headings.

    Args:
        out: Directory to write.
        model: Directory of `gengeo export --int8`.
        index: Index directory made with that model.
        runtime: Path of the npm package of onnxruntime-web; None downloads it, or takes the copy in the cache.
        overwrite: Whether to replace an earlier page.

    Returns:
        Size of the page in megabytes.

    Raises:
        GenGeoError: The model has no int8 graphs, another model made the index, the index is too large, or the runtime
            cannot be downloaded or is not the pinned version.
    """
    from gengeo_hf.encoding.checkpoints import caveat_of
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex

    check_replaceable(out, "space", overwrite)
    gallery = GeoIndex.load(index)
    encoder = Encoder.from_pretrained(model, backend="onnx", compute_dtype="int8")
    if encoder.dim != gallery.manifest.dim:
        encoder.truncate(int(gallery.manifest.dim))
    gallery.check_model(encoder)
    if len(gallery) > MAX_TILES:
        raise GenGeoError(f"{index} holds {len(gallery):,} tiles: a page in the browser can have {MAX_TILES:,} at most")
    graphs: Any = encoder.source
    package = Path(runtime) if runtime is not None else _cached_runtime()
    with atomic_folder(out, "space") as folder:
        _unpack_runtime(package, folder / "ort")
        shutil.copyfile(graphs.graph("ground"), folder / "model.onnx")
        _write_index(gallery, folder)
        for path in PAGE.iterdir():
            shutil.copyfile(path, folder / path.name)
        size, settings = encoder.view_sizes["ground"], encoder.processor.to_dict()
        megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        facts = {
            **size,
            "dim": encoder.dim,
            "mean": settings["image_mean"],
            "std": settings["image_std"],
            "fingerprint": encoder.fingerprint,
            "caveat": caveat_of(encoder.training_record),
            "rights": "; ".join(
                dict.fromkeys(filter(None, (source.attribution for source in gallery.manifest.sources)))
            ),
            "megabytes": megabytes,
        }
        write_json(folder / "model.json", facts)
        write_text(folder / "README.md", CARD)
    return megabytes


def _write_index(gallery: Any, folder: Path) -> None:
    """Write ids and positions of the tiles, and descriptors as int8 with one factor for each tile."""
    vectors = np.asarray(gallery.descriptors, np.float32)
    factors = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
    np.rint(vectors / factors).astype(np.int8).tofile(folder / "codes.bin")
    factors.astype("<f4").tofile(folder / "factors.bin")
    tiles = gallery.tiles
    columns = {"id": tiles["tile_id"], "lat": tiles["lat"], "lon": tiles["lon"]}
    write_json(folder / "tiles.json", {name: column.to_pylist() for name, column in columns.items()})


def _cached_runtime() -> Path:
    """Path of the npm package in the user's cache; npm downloads it if it is missing.

    Raises:
        GenGeoError: npm is not installed, or the download fails.
    """
    cached = Path.home() / ".cache" / "gengeo_hf" / f"{RUNTIME}-{RUNTIME_VERSION}.tgz"
    if cached.is_file() and _sha512(cached) == RUNTIME_SHA512:
        return cached
    npm = shutil.which("npm")
    if npm is None:
        raise GenGeoError(f"npm is not installed: install it, or give --runtime {RUNTIME}-{RUNTIME_VERSION}.tgz")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--pack-destination", folder]
        found = subprocess.run(command, capture_output=True, text=True)
        package = next(Path(folder).glob("*.tgz"), None)
        if found.returncode or package is None:
            reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise GenGeoError(f"npm cannot download {RUNTIME} {RUNTIME_VERSION} ({reason}): check the network")
        _check_runtime(package)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(cached) as partial:
            shutil.copyfile(package, partial)
    return cached


def _check_runtime(package: Path) -> None:
    """Check that a file is the pinned npm package.

    Raises:
        GenGeoError: The file is missing, or its checksum differs.
    """
    if not package.is_file():
        raise GenGeoError(f"{package} is not there: give the npm package {RUNTIME}-{RUNTIME_VERSION}.tgz")
    if _sha512(package) != RUNTIME_SHA512:
        raise GenGeoError(f"{package} is not {RUNTIME} {RUNTIME_VERSION} as npm published it: its checksum differs")


def _unpack_runtime(package: Path, folder: Path) -> None:
    """Write the three files of the runtime that the page loads, and its licence."""
    _check_runtime(package)
    folder.mkdir()
    with tarfile.open(package) as archive:
        for name in RUNTIME_FILES:
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise GenGeoError(f"{package} does not hold dist/{name}")
            (folder / name).write_bytes(member.read())
    write_text(folder / "LICENSE", "onnxruntime-web, Copyright (c) Microsoft Corporation, MIT licence.\n")


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()

"""A page without a server: onnxruntime-web encodes a photo in the browser and searches a small index there.

The runtime is fetched from npm when the page is written, in a pinned version whose checksum is compared, and kept in
the user's cache; the package does not hold it.
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
MOST_TILES = 100_000  # 100 MB of descriptors, which a phone can still hold


def write_static_space(
    out: str | Path, model: str | Path, index: str | Path, *, runtime: str | Path | None = None, overwrite: bool = False
) -> float:
    """Write a page that locates photos in the browser: upload the directory as a static Space, or serve it as files.

    Photos are encoded as they are: the page does not unroll them to a panorama model's canvas, nor try headings.

    Args:
        out: Directory to write.
        model: Directory of `gengeo export --int8`.
        index: Index directory made with that model.
        runtime: The npm package of onnxruntime-web, where it was fetched before; None fetches it.
        overwrite: Replace an earlier page.

    Returns:
        Megabytes that a visitor loads.

    Raises:
        GenGeoError: The model has no int8 graphs, the index is of another model or too large, or the runtime cannot be
            fetched or is not the pinned one.
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
    if len(gallery) > MOST_TILES:
        raise GenGeoError(f"{index} holds {len(gallery):,} tiles: a page in a browser takes {MOST_TILES:,} at most")
    graphs: Any = encoder.source
    package = Path(runtime) if runtime is not None else _fetched_runtime()
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
    """Ids and positions of the tiles, and descriptors as int8 with one factor for each tile."""
    vectors = np.asarray(gallery.descriptors, np.float32)
    factors = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
    np.rint(vectors / factors).astype(np.int8).tofile(folder / "codes.bin")
    factors.astype("<f4").tofile(folder / "factors.bin")
    tiles = gallery.tiles
    columns = {"id": tiles["tile_id"], "lat": tiles["lat"], "lon": tiles["lon"]}
    write_json(folder / "tiles.json", {name: column.to_pylist() for name, column in columns.items()})


def _fetched_runtime() -> Path:
    """The npm package in the user's cache, fetched by npm where it is not there yet."""
    kept = Path.home() / ".cache" / "gengeo_hf" / f"{RUNTIME}-{RUNTIME_VERSION}.tgz"
    if kept.is_file() and _sha512(kept) == RUNTIME_SHA512:
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise GenGeoError(f"npm is not installed: install it, or give --runtime {RUNTIME}-{RUNTIME_VERSION}.tgz")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--pack-destination", folder]
        found = subprocess.run(command, capture_output=True, text=True)
        package = next(Path(folder).glob("*.tgz"), None)
        if found.returncode or package is None:
            why = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise GenGeoError(f"npm cannot fetch {RUNTIME} {RUNTIME_VERSION} ({why}): check the network")
        _check_runtime(package)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as partial:
            shutil.copyfile(package, partial)
    return kept


def _check_runtime(package: Path) -> None:
    """Refuse a package that is not the pinned one.

    Raises:
        GenGeoError: It is missing, or other bytes.
    """
    if not package.is_file():
        raise GenGeoError(f"{package} is not there: give the npm package {RUNTIME}-{RUNTIME_VERSION}.tgz")
    if _sha512(package) != RUNTIME_SHA512:
        raise GenGeoError(f"{package} is not {RUNTIME} {RUNTIME_VERSION} as npm published it: its checksum differs")


def _unpack_runtime(package: Path, folder: Path) -> None:
    """The three files of the runtime that the page loads, and its licence."""
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

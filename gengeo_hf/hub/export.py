"""Export of directories that work without this package: a checkpoint with code and card, and a Space that uses it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, check_replaceable, write_json, write_text
from gengeo_hf.hub.card import ASSETS, model_card, read_results
from gengeo_hf.hub.eval_results import write_eval_results
from gengeo_hf.hub.published import without_local_paths

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder

SPACE_SDK = "6.31.0"
POSE_HEADS = "pose"  # directory of the heads of `gengeo pose fit`, one for each heading prior
EXPORT_RECORD = "gengeo_export.json"  # the fingerprint, for readers without this package
REQUIREMENTS = "torch\ntransformers>=5.18\npillow\nnumpy\n"  # 5.18: AutoImageProcessor without torchvision


def export_folder(
    checkpoint: str | Path,
    out: str | Path,
    *,
    results: Sequence[str | Path] = (),
    examples: Sequence[str | Path] = (),
    license: str | None = None,
    repository: str | None = None,
    onnx: bool = False,
    calibrate: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a checkpoint that loads without this package (`trust_remote_code=True`), with card and endpoint handler.

    Args:
        checkpoint: Directory or Hub id of a GenGeo model. An ONNX export in the directory is copied.
        out: Directory to write, completely or not at all.
        results: JSON files of `gengeo evaluate`, shown in the card and copied to `results/`.
        examples: Images for the widget of the card, written to `examples/` without EXIF data, which may have positions.
        license: Identifier of the licence of the weights, for example "apache-2.0"; None states in the card that there
            is none.
        repository: Hub id that the code in the card loads; None takes the name of the directory.
        onnx: Whether to write ONNX graphs of both views to `onnx/`.
        calibrate: Images to calibrate int8 graphs: a directory of photos, or a data set whose pairs also measure R@1,
            see `gengeo_hf.hub.int8`; ONNX graphs are then written too. None writes no int8 graphs.
        overwrite: Whether to replace an earlier export.

    Returns:
        Path of the written directory.

    Raises:
        GenGeoError: The checkpoint is not a GenGeo model, another model made a result, an example is not an image,
            `out` has other contents, or `out` is an earlier export and `overwrite` is False.
    """
    from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder

    check_replaceable(out, "export", overwrite)
    if Path(checkpoint).is_dir() and Path(out).resolve() == Path(checkpoint).resolve():
        raise GenGeoError(f"{out} is the checkpoint itself: give another directory")
    summaries = read_results(results)
    _check_examples(examples)
    encoder = Encoder.from_pretrained(checkpoint, device="cpu")
    _check_results(summaries, encoder.processor, encoder.fingerprint)
    with atomic_folder(out, "export") as folder:
        encoder.model.save_pretrained(folder)
        encoder.processor.save_pretrained(folder)
        record = without_local_paths(encoder.training_record)
        if record:
            write_json(folder / TRAINING_RECORD, record)
        write_json(folder / EXPORT_RECORD, {"fingerprint": encoder.fingerprint, "dim": encoder.dim})
        stems = [f"{number}-{Path(path).stem}" for number, path in enumerate(results)]
        for stem, summary in zip(stems, summaries, strict=True):
            write_json(folder / "results" / f"{stem}.json", without_local_paths(summary))
        write_eval_results(folder, stems, summaries)
        names = _write_examples(examples, folder / "examples")
        for name in ("handler.py", "CODE_LICENSE"):
            shutil.copyfile(ASSETS / name, folder / name)
        write_text(folder / "requirements.txt", REQUIREMENTS)
        card = model_card(
            encoder.model,
            encoder.processor,
            name=(repository or Path(out).name).rpartition("/")[2],
            repository=repository or f"./{Path(out).name}",
            record=record,
            results=without_local_paths(summaries),
            license=license,
            # A local directory has no URLs for a widget.
            examples=[_file_url(repository, f"examples/{name}") for name in names] if repository else [],
        )
        write_text(folder / "README.md", card)
        if (heads := Path(checkpoint) / POSE_HEADS).is_dir():
            shutil.copytree(
                heads, folder / POSE_HEADS, ignore=shutil.ignore_patterns("*.partial", "gengeo_output.json")
            )
        _add_onnx(encoder, checkpoint, folder, make=onnx or calibrate is not None)
        if calibrate is not None:
            from gengeo_hf.hub.calibration_images import CalibrationImages
            from gengeo_hf.hub.int8 import export_int8

            export_int8(encoder.model, folder, CalibrationImages(calibrate, encoder.processor))
    return Path(out)


def _add_onnx(encoder: "Encoder", checkpoint: str | Path, folder: Path, make: bool) -> None:
    """Export ONNX graphs, or copy those of the checkpoint. Called last, because it converts the weights to float32."""
    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST, WEIGHTS, ExportedGraphs
    from gengeo_hf.encoding.fingerprint import fingerprint

    present = Path(checkpoint) / FOLDER
    if make:
        from gengeo_hf.hub.onnx import export_onnx

        export_onnx(encoder.model, encoder.processor, folder / FOLDER, folder / WEIGHTS)
    elif (present / MANIFEST).is_file():
        # Graphs have float32 values, also for weights of another dtype.
        expected = fingerprint(encoder.model.float(), encoder.processor)
        if ExportedGraphs(present, encoder.processor).fingerprint() != expected:
            raise GenGeoError(f"{present} was exported from other weights: export again with --onnx, or delete it")
        shutil.copytree(present, folder / FOLDER)


def _file_url(repository: str, path: str) -> str:
    """URL of a file of a model repository."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, path)


def _check_examples(examples: Sequence[str | Path]) -> None:
    """Check that the examples are images, before the model is loaded."""
    from gengeo_hf.common.images import open_image

    for path in examples:
        open_image(path)


def _write_examples(examples: Sequence[str | Path], folder: Path) -> list[str]:
    """Write the images to a directory as new JPEG files, without metadata such as positions.

    Returns:
        Names of the files, with a number that keeps equal names apart.
    """
    from gengeo_hf.common.images import open_image

    names = [f"{number}-{Path(path).stem}.jpg" for number, path in enumerate(examples)]
    for path, name in zip(examples, names, strict=True):
        folder.mkdir(exist_ok=True)
        open_image(path).save(folder / name, quality=95)
    return names


def _check_results(summaries: Sequence[dict[str, Any]], processor: Any, fingerprint: str) -> None:
    """Check that this model made the results. At other image sizes the fingerprint differs, so it is not compared."""
    for summary in summaries:
        stated = summary.get("model", {}).get("fingerprint")
        same_sizes = summary.get("settings", {}).get("view_sizes", processor.view_sizes) == processor.view_sizes
        if stated and same_sizes and stated != fingerprint:
            raise GenGeoError(
                f"the result on {summary['dataset'].get('name')} was made with another model ({stated[:12]}, "
                f"this one is {fingerprint[:12]}): evaluate this checkpoint, or leave the result out"
            )


def write_space(out: str | Path, model: str, index: str | None = None, *, overwrite: bool = False) -> Path:
    """Write a Gradio Space that works without this package.

    Args:
        out: Directory to write.
        model: Hub id of a published GenGeo model.
        index: Hub id of a published index; None ranks images that the visitor uploads.
        overwrite: Whether to replace an earlier Space.

    Returns:
        Path of the written directory.

    Raises:
        GenGeoError: `out` has other contents, or `out` is an earlier Space and `overwrite` is False.
    """
    from huggingface_hub import SpaceCard, SpaceCardData

    check_replaceable(out, "space", overwrite)
    with atomic_folder(out, "space") as folder:
        for name in ("app.py", "requirements.txt"):
            shutil.copyfile(ASSETS / "space" / name, folder / name)
        write_json(folder / "space.json", {"model": model, "index": index})
        data = SpaceCardData(
            title="GenGeo",
            sdk="gradio",
            sdk_version=SPACE_SDK,
            python_version="3.11",
            app_file="app.py",
            license="apache-2.0",
            models=[model],
            datasets=[index] if index else None,
        )
        card = SpaceCard(f"---\n{data.to_yaml()}\n---\n\nWhich aerial image shows the place of a photo? See {model}.\n")
        write_text(folder / "README.md", str(card))
    return Path(out)

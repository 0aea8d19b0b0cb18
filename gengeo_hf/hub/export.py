"""Directories that load without this package: a checkpoint with its code and card, and a page (Space) that uses one."""

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
POSE_HEADS = "pose"  # heads of `gengeo pose fit`, one directory for each heading prior
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
    """Write a folder that loads without this package (`trust_remote_code=True`), with card and endpoint handler.

    Args:
        checkpoint: folder or Hub id of a GenGeo model. An ONNX export in such a folder comes along.
        out: folder to write; it appears whole or not at all.
        results: JSON files of gengeo evaluate, shown in the card and copied to `results/`.
        examples: images for the card's widget, written to `examples/` without their EXIF (positions!).
        license: identifier of the weights' licence, for example "apache-2.0"; with None the card says that none was
            stated, and whom to ask.
        repository: what the card tells users to load; default: the name of the folder.
        onnx: also write ONNX graphs of both views to `onnx/`.
        calibrate: also write int8 graphs, calibrated on these images: a directory of photos, or a data set whose pairs
            also judge R@1; see `gengeo_hf.hub.int8`. It writes the ONNX graphs as well.
        overwrite: replace an earlier export.

    Raises:
        GenGeoError: the checkpoint is no GenGeo, a result was made by another model, an example is no image, or `out`
            holds something else, or an earlier export while `overwrite` is False.
    """
    from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder

    check_replaceable(out, "export", overwrite)
    if Path(checkpoint).is_dir() and Path(out).resolve() == Path(checkpoint).resolve():
        raise GenGeoError(f"{out} is the checkpoint itself: give another folder")
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
            # A folder has no address that a widget could show.
            examples=[_address(repository, f"examples/{name}") for name in names] if repository else [],
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
    """Take the checkpoint's ONNX export along, or make one. Last: it turns the weights into float32."""
    from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST, WEIGHTS, ExportedGraphs
    from gengeo_hf.encoding.fingerprint import fingerprint

    present = Path(checkpoint) / FOLDER
    if make:
        from gengeo_hf.hub.onnx import export_onnx

        export_onnx(encoder.model, encoder.processor, folder / FOLDER, folder / WEIGHTS)
    elif (present / MANIFEST).is_file():
        # Graphs hold float32 values, whatever the weights are.
        ours = fingerprint(encoder.model.float(), encoder.processor)
        if ExportedGraphs(present, encoder.processor).fingerprint() != ours:
            raise GenGeoError(f"{present} was exported from other weights: export again with --onnx, or delete it")
        shutil.copytree(present, folder / FOLDER)


def _address(repository: str, path: str) -> str:
    """Where a file of a model repository can be fetched."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, path)


def _check_examples(examples: Sequence[str | Path]) -> None:
    """Refuse what is no image, before anything is loaded."""
    from gengeo_hf.common.images import open_image

    for path in examples:
        open_image(path)


def _write_examples(examples: Sequence[str | Path], folder: Path) -> list[str]:
    """Write the images into a folder; gives their names there, which a number keeps apart.

    Anew, as JPEG: what a camera wrote beside the pixels, where it stood among it, is not published.
    """
    from gengeo_hf.common.images import open_image

    names = [f"{number}-{Path(path).stem}.jpg" for number, path in enumerate(examples)]
    for path, name in zip(examples, names, strict=True):
        folder.mkdir(exist_ok=True)
        open_image(path).save(folder / name, quality=95)
    return names


def _check_results(summaries: Sequence[dict[str, Any]], processor: Any, fingerprint: str) -> None:
    """Refuse numbers of another model. At other image sizes the fingerprint says nothing about the weights."""
    for summary in summaries:
        stated = summary.get("model", {}).get("fingerprint")
        same_sizes = summary.get("settings", {}).get("view_sizes", processor.view_sizes) == processor.view_sizes
        if stated and same_sizes and stated != fingerprint:
            raise GenGeoError(
                f"the result on {summary['dataset'].get('name')} was made with another model ({stated[:12]}, "
                f"this one is {fingerprint[:12]}): evaluate this checkpoint, or leave the result out"
            )


def write_space(out: str | Path, model: str, index: str | None = None, *, overwrite: bool = False) -> Path:
    """Write a Gradio Space that needs nothing of this package.

    Args:
        out: folder to write.
        model: Hub id of a published GenGeo.
        index: Hub id of a published index, or None to rank images that the visitor uploads.
        overwrite: replace an earlier Space.

    Raises:
        GenGeoError: `out` holds something else, or an earlier Space while `overwrite` is False.
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

"""Evaluate a checkpoint by a protocol, top to bottom: data, descriptors, ranks, one JSON result.

Before: a model in Hub format and the images. After: `results/x.json` and `results/x.queries.parquet`, for
`gengeo table`, `gengeo compare` and the pictures.

    gengeo evaluate --model runs/cvusa/model --protocol cvusa-to-cvact --data CVACT --out results/x.json

On several GPUs put `accelerate launch` before it: each process describes its share of the images into one folder,
which all must see. The numbers are the same for any number of processes. A run that was stopped goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import OmegaConf

from gengeo_hf.common.errors import GenGeoError, told_in_one_line
from gengeo_hf.data import load_pairs
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.engine import cut_headings, describe_view
from gengeo_hf.evaluation.protocols import Protocol, find_protocol, protocol_names
from gengeo_hf.evaluation.ranks import TIES
from gengeo_hf.evaluation.results import Result, Truth, judge


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate a GenGeo checkpoint by a published protocol.",
        epilog="protocols: " + ", ".join(protocol_names()) + ". Each also with a limited field of view: "
        "<protocol>-fov<360|180|90|70>-<known|unknown>, where the heading of the photo is known or not, and as "
        "<protocol>@validation, the part of the training data on which a checkpoint may be picked (`gengeo best`). "
        "What each one means is in gengeo_hf/assets/protocols.yaml.",
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    parser.add_argument("--protocol", required=True, help="what to compare, by which rules; see below")
    parser.add_argument("--data", help="folder of the dataset; the synthetic worlds need none")
    parser.add_argument("--out", required=True, type=Path, help="the JSON file to write")
    parser.add_argument("--name", help="what tables call the model; default: the name of its folder")
    parser.add_argument("--descriptors", type=Path, help="folder to keep descriptors in; default: beside --out")
    parser.add_argument("--ties", choices=TIES, default="pessimistic", help="who wins when two tiles score the same")
    parser.add_argument("--ground-size", metavar="HxW", help="pixels, for example 294x588; default: the model's own")
    parser.add_argument("--aerial-size", metavar="HxW", help="pixels, for example 294x294; default: the model's own")
    parser.add_argument("--batch-size", type=int, default=32, help="images in one forward pass")
    parser.add_argument("--seed", type=int, default=0, help="of random headings and of the bootstrap")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU unused")
    parser.add_argument(
        "options", nargs="*", metavar="key=value", help="passed to the dataset's loader, for example num_pairs=100"
    )
    given = parser.parse_args(arguments)
    if given.out.suffix != ".json":
        parser.error(f"--out must end in .json, found {given.out.name}")
    if wrong := [item for item in given.options if "=" not in item]:
        parser.error(f"expected key=value, found {wrong[0]}")
    return given


def main(given: argparse.Namespace) -> Result | None:
    """Evaluate; the main process returns the result."""
    protocol = find_protocol(given.protocol)
    accelerator = Accelerator(cpu=given.cpu)
    encoder = Encoder.from_pretrained(given.model, device=accelerator.device, batch_size=given.batch_size)
    encoder.processor.view_sizes = view_sizes(encoder, given.ground_size, given.aerial_size)

    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given.options))
    with accelerator.main_process_first():  # the first builds a synthetic world, the others find it
        data = load_pairs(protocol.dataset, given.data, split=protocol.split, **options)
    truth = Truth.from_dataset(data)

    # Descriptors: shards on disk, shared out among the processes, kept for the next protocol.
    root = given.descriptors or given.out.parent / "descriptors"
    share: dict[str, Any] = {
        "process": accelerator.process_index,
        "processes": accelerator.num_processes,
        "progress": accelerator.is_main_process,
    }
    check_cut(protocol, data.queries["fov"][:])
    directions = cut_headings(protocol, len(truth.query_ids), given.seed)
    ground = describe_view(
        encoder, GroundImages(data), "ground", truth.query_ids, root, fov=protocol.fov, headings=directions, **share
    )
    aerial = describe_view(encoder, AerialImages(data), "aerial", truth.tile_ids, root, **share)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return None

    result = judge(
        ground.load(),
        aerial.load(),
        truth,
        protocol,
        model=describe_model(encoder, given),
        settings={
            "view_sizes": encoder.processor.view_sizes,
            "loader": options,
            "seed": given.seed,
            "images": {"ground": ground.images, "aerial": aerial.images},
        },
        ties=given.ties,
        seed=given.seed,
        device=encoder.device,
    )
    result.save(given.out)
    print(report(result, given.out))
    return result


def view_sizes(encoder: Encoder, ground: str | None, aerial: str | None) -> dict[str, dict[str, int]]:
    """The sizes to evaluate at: the model's own, or those asked for."""
    sizes = {view: dict(encoder.processor.view_sizes[view]) for view in ("ground", "aerial")}
    patch = encoder.patch
    for view, text in (("ground", ground), ("aerial", aerial)):
        if text is None:
            continue
        numbers = text.lower().split("x")
        if len(numbers) != 2 or not all(n.isdigit() and int(n) and int(n) % patch == 0 for n in numbers):
            raise GenGeoError(f"--{view}-size must be HxW in multiples of {patch} pixels, found {text!r}")
        sizes[view] = {"height": int(numbers[0]), "width": int(numbers[1])}
    return sizes


def check_cut(protocol: Protocol, fields: list[float | None]) -> None:
    """Refuse to cut what is no panorama, or is not known to be one."""
    if protocol.limited and any(field is None or field < 360 for field in fields):
        raise GenGeoError(
            f"{protocol.name} cuts panoramas, but {protocol.dataset} holds photos whose field of view is smaller or "
            "unknown; a table says fov=360 of its panoramas"
        )


def describe_model(encoder: Encoder, given: argparse.Namespace) -> dict[str, Any]:
    """What the result says about the model."""
    record = encoder.training_record
    named = (record.get("settings") or {}).get("data", {}).get("name")
    return {
        "name": given.name or Path(given.model).resolve().name,
        "fingerprint": encoder.fingerprint,
        "descriptor_dim": encoder.dim,
        "trained_on": named or record.get("trained_on"),
        "validated_on": record.get("validated_on"),
    }


def report(result: Result, path: Path) -> str:
    """What the terminal shows."""
    summary = result.summary
    data, model, metrics = (summary[key] for key in ("dataset", "model", "metrics"))
    lines = [f"{model['name']} on {data['name']}: {data['queries']:,} queries, {data['gallery']:,} tiles"]
    width = max(map(len, summary["intervals"]))
    for name, (low, high) in summary["intervals"].items():
        scale, unit = (1, "m") if name.endswith("_m") else (100, "%")
        lines.append(
            f"  {name:{width}} {scale * metrics[name]:10,.2f} {unit}   ({scale * low:,.2f} to {scale * high:,.2f})"
        )
    if not data["complete"]:
        published = summary["protocol"]
        lines.append(
            f"  not the whole set of {published['queries']:,} queries and {published['gallery']:,} tiles: "
            "do not compare with published numbers"
        )
    expected = summary["protocol"]["trained_on"]
    if expected and model["trained_on"] not in expected:
        lines.append(f"  the model was trained on {model['trained_on'] or 'unknown data'}, not as the protocol says")
    if note := summary["protocol"]["note"]:
        lines.append(f"  {note}")
    return "\n".join([*lines, f"wrote {path}"])


if __name__ == "__main__":
    with told_in_one_line("stopped; the same command goes on from the descriptors that are finished"):
        main(parse())

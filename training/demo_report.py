"""Report page of the demo: recall, learning curves, answers, attributions, pose, a map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.common.html import Figure, Page, Section, Table, write_page
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain import (
    clusters_figure,
    explain_match,
    explain_preference,
    match_figure,
    preference_figure,
    regions_figure,
    selection_figure,
    top_patches,
)
from gengeo_hf.localization.localizer import Answer

RIGHT, WRONG, INK, SOFT = (11, 110, 79), (179, 38, 30), (28, 36, 48), (91, 102, 117)
KS = ("recall@1", "recall@5", "recall@10", "recall@1%")


def write_demo_report(
    folder: Path,
    world: Any,
    encoder: Encoder,
    answers: list[Answer],
    results: dict[str, dict[str, float]],
    map_page: str,
    next_commands: str,
    machine: str,
) -> None:
    """Write `report.html`.

    Args:
        folder: Directory of the demo.
        world: Test split of the urban domain.
        encoder: Encoder of the trained model.
        answers: Answers for some test photos.
        results: Metrics by name of the evaluation, the urban domain first.
        map_page: HTML page of the map.
        next_commands: Commands to show at the end.
        machine: Summary of the machine.
    """
    main = next(iter(results))
    headline = [
        (f"{results[main][key]:.1%}", label) for key, label in zip(KS, ("R@1", "R@5", "R@10", "R@1%"), strict=True)
    ]
    rows = [[name, *(f"{row[k]:.1%}" for k in KS), f"{row['gallery_size']:,}"] for name, row in results.items()]
    random_recall = 1 / results[main]["gallery_size"]
    page = Page(
        title="Where was this photo taken?",
        lead=f"A small GenGeo model, trained from random weights on the synthetic urban world, and evaluated on "
        f"{len(world.queries):,} photos of other regions.",
        notice="All data on this page are synthetic: generated regions with coordinates in the Atlantic. The page "
        "shows that the workflow runs, and not how well a model locates real photos.",
        headline=headline,
        table=Table(
            ["synthetic world", "R@1", "R@5", "R@10", "R@1%", "tiles"],
            rows,
            note=f"R@k: fraction of photos whose true tile is among the k most similar ones. Random guessing has R@1 "
            f"{random_recall:.1%}. Ties count against the model.",
        ),
        sections=[
            Section("Training", figures=[curves(folder / "run" / "log.jsonl")]),
            Section(
                "Photos and their five most similar tiles",
                "Each row is a panorama (north in the middle) and the most similar tiles, best first, with their "
                "cosine similarity. The true tile is green, others are red.",
                [answer_figure(world, answer) for answer in answers],
            ),
            Section(
                "Kept mass of the patches",
                "Bright patches contribute to the descriptor, dark ones are rejected by the dustbin.",
                [kept_figure(encoder, world, answers[:2])],
            ),
            Section(
                "Attribution of a match to patches",
                "Exact contributions of pairs of patches to the score of a photo and its true tile. gengeo explain "
                "draws this figure for any pair.",
                [figure for answer in answers[:2] for figure in match_figures(encoder, world, answer)],
            ),
            Section(
                "Position and heading inside the tile",
                "A pose head on the frozen model, in the off-centre domain, which is not in the training data of "
                "either. Green: true position. Red: estimate. Yellow: probability of each position.",
                [Figure(Image.open(folder / "pose.png"), pose_caption(folder / "pose.json"))],
            ),
            Section(
                "A wrong tile compared with the true tile",
                "Contributions of each part of the photo to the scores of the two tiles.",
                [worst_answer_figure(encoder, world)],
            ),
            Section(
                "Patches of the clusters",
                "A cluster of one kind of object shows this object in both views; a cluster of one direction has one "
                "bright spot in its map.",
                [cluster_figure(encoder, world)],
            ),
            Section(
                "Map",
                "True positions and the places found. The map needs no network: its imagery is that of the synthetic "
                "world.",
                map=map_page,
            ),
        ],
        next_commands=next_commands.strip(),
        footer=f"Made by make demo on {machine}.",
    )
    write_page(page, folder / "report.html")


def pose_caption(path: Path) -> str:
    """Return the caption of the pose figure with the results of the pose head."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"Median error in the true tile: {found['median_m']:.1f} m (centre of the tile: "
        f"{found['centre_median_m']:.1f} m); {found['within_5_m']:.0f} % of the photos are within 5 m. In the whole "
        f"gallery, {found['fused_within_10_m']:.1f} % of the photos are within 10 m, and "
        f"{found['centre_within_10_m']:.1f} % with the centre of the best tile."
    )


def curves(log: Path) -> Figure:
    """Plot the loss of the logged steps and the recall on the validation split."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    loss = np.array([(line["step"], line["loss"]) for line in lines if "loss" in line]).reshape(-1, 2)
    recall = np.array(
        [(line["step"], line["validation/recall@1"]) for line in lines if "validation/recall@1" in line]
    ).reshape(-1, 2)
    figure, left = pyplot.subplots(figsize=(10, 3.2), dpi=110, layout="constrained")
    left.plot(*loss.T, color="#8a94a3", linewidth=1.3)
    left.set(xlabel="step", ylabel="training loss (InfoNCE)")
    left.yaxis.label.set_color("#5b6675")
    right = left.twinx()
    right.plot(recall[:, 0], 100 * recall[:, 1], color="#0b6e4f", marker="o", markersize=4, linewidth=2)
    right.set(ylabel="R@1 on the validation split (%)", ylim=(0, 102))
    right.yaxis.label.set_color("#0b6e4f")
    for axis in (left, right):
        axis.spines[["top"]].set_visible(False)
    mined = next((line["step"] for line in lines if "batches/hardest_negative" in line), None)
    if mined is not None:
        left.axvline(mined, color="#d99a00", linewidth=1, linestyle="--")
        left.text(
            mined, left.get_ylim()[1], " from here on, visual hard negatives", va="top", fontsize=8, color="#9a6d00"
        )
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())  # type: ignore[attr-defined]
    pyplot.close(figure)
    return Figure(
        picture,
        "Grey: training loss, which rises when batches change from geographic neighbours to tiles that the model "
        "confuses. Green: R@1 on the validation split.",
    )


def answer_figure(world: Any, answer: Answer, height: int = 150) -> Figure:
    """Draw a panorama and its five best tiles; the true tile is green."""
    query_row = query_of(world, answer)
    truth = world.queries[query_row]["positive"]
    ground = scaled(GroundImages(world)[query_row], height)
    tiles = AerialImages(world)
    row_of = {tile: row for row, tile in enumerate(world.gallery["tile_id"][:])}
    gap, label = 10, 26
    sheet = Image.new("RGB", (ground.width + len(answer.places) * (height + gap), height + label), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    sheet.paste(ground, (0, 0))
    draw.text((0, height + 6), "photo, north in the middle", SOFT, font)
    for number, place in enumerate(answer.places):
        x = ground.width + gap + number * (height + gap)
        right = place.tile_id == truth
        colour = RIGHT if right else WRONG
        sheet.paste(scaled(tiles[row_of[place.tile_id]], height), (x, 0))
        draw.rectangle((x, 0, x + height - 1, height - 1), outline=colour, width=5)
        label_text = f"{place.rank}. {'true tile' if right else 'other'}  {place.score:.2f}"
        draw.text((x, height + 6), label_text, colour, font)
    ranks = [place.rank for place in answer.places if place.tile_id == truth]
    found = f"true tile at rank {ranks[0]}" if ranks else "true tile not among the first five"
    return Figure(sheet, f"{Path(answer.photo).stem}: {found}; error of the best: {answer.exif_distance_m:.0f} m.")


def pair(world: Any, query_row: int) -> tuple[Image.Image, Image.Image]:
    """Return a panorama and its true tile."""
    return GroundImages(world)[query_row], AerialImages(world)[int(world.positive_rows()[query_row])]


def kept_figure(encoder: Encoder, world: Any, answers: list[Answer]) -> Figure:
    """Draw panoramas and true tiles, their feature norms, and the kept mass of the patches."""
    pairs = [pair(world, query_of(world, answer)) for answer in answers]
    return Figure(
        selection_figure(encoder, pairs, [Path(answer.photo).stem for answer in answers], side=130),
        "Three rows for each photo and its true tile: the images, the norm of the features of each patch, and the kept "
        "mass of each patch (gengeo figure selection, Figures 4-6 of the paper).",
    )


def match_figures(encoder: Encoder, world: Any, answer: Answer) -> tuple[Figure, Figure]:
    """Draw the strongest links between a panorama and its true tile, and the clusters around the first link."""
    match = explain_match(encoder, *pair(world, query_of(world, answer)))
    links = Figure(match_figure(match), f"{Path(answer.photo).stem}: the score is {match.score:.3f}.")
    patches = match.strongest(1)[0][:2]
    boxes = [around(side.grid, patch) for side, patch in zip((match.ground, match.aerial), patches, strict=True)]
    regions = Figure(
        regions_figure(match.ground, boxes[0], match.aerial, boxes[1]),
        "The patches around both ends of the first link, and their clusters (gengeo figure regions, Figure 7 of the "
        "paper).",
    )
    return links, regions


def around(grid: tuple[int, int], patch: int) -> tuple[float, float, float, float]:
    """Return the box of a patch and its neighbours: left, top, right, bottom as fractions of width and height."""
    row, column = divmod(patch, grid[1])
    left, top = max(0, column - 1) / grid[1], max(0, row - 1) / grid[0]
    return left, top, min(grid[1], column + 2) / grid[1], min(grid[0], row + 2) / grid[0]


def worst_answer_figure(encoder: Encoder, world: Any) -> Figure:
    """Compare the best wrong tile and the true tile of the photo with the largest difference of their scores."""
    photos, tiles, truth = GroundImages(world), AerialImages(world), world.positive_rows()
    scores = encoder.encode(photos, "ground") @ encoder.encode(tiles, "aerial").T
    rows = np.arange(len(scores))
    true_scores = scores[rows, truth]
    scores[rows, truth] = -np.inf
    row = int((scores.max(axis=1) - true_scores).argmax())
    preference = explain_preference(encoder, photos[row], tiles[int(scores[row].argmax())], tiles[int(truth[row])])
    what = "Answer with the largest error" if preference.gap > 0 else "No answer is wrong; smallest margin"
    return Figure(
        preference_figure(preference, ("the best other tile", "the true tile")),
        f"{what}: {world.queries[row]['query_id']} (gengeo explain --instead-of).",
    )


def cluster_figure(encoder: Encoder, world: Any, count: int = 100) -> Figure:
    """Draw the patches with the largest mass in each cluster, in both views."""
    (ground, ground_plan), (aerial, aerial_plan) = (
        top_patches(encoder, images[:count], view, 6)  # type: ignore[arg-type]  # a Literal in a loop
        for images, view in ((GroundImages(world), "ground"), (AerialImages(world), "aerial"))
    )
    return Figure(
        clusters_figure(ground, aerial, (ground_plan, aerial_plan), most=8),
        f"Over {min(count, len(world.queries))} photos and as many tiles (gengeo figure clusters).",
    )


def query_of(world: Any, answer: Answer) -> int:
    """Return the row of the photo of an answer; the demo names files by query id."""
    names = [name.replace("/", "-") for name in world.queries["query_id"][:]]
    return names.index(Path(answer.photo).stem)


def scaled(image: Image.Image, height: int) -> Image.Image:
    """Resize an image to a height, keeping its aspect ratio."""
    width = round(image.width * height / image.height)
    return image.resize((width, height), Image.Resampling.BICUBIC)

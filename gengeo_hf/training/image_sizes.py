"""Notes about a training that enlarges the images of the synthetic world.

The loader of the synthetic world renders images at its default sizes unless its options set others. The image processor
resizes them to `data.ground_size` and `data.aerial_size`, so that larger values of these alone add no detail.
"""

from gengeo_hf.common.images import image_header
from gengeo_hf.common.schema import WORLD_AREA, CrossViewDataset
from gengeo_hf.data.loading import ImageColumn
from gengeo_hf.training.settings import Settings


def enlargement_notes(settings: Settings, train: CrossViewDataset, validation: CrossViewDataset) -> list[str]:
    """Return notes about synthetic images that are smaller than the sizes of the settings, with the options to set.

    Args:
        settings: Settings of the run.
        train: Training pairs.
        validation: Validation pairs.

    Returns:
        One line for each view with such images. Views with a transform (`data.ground_view`, `data.aerial_view`) are
        skipped, since the sizes are those of the transformed images.
    """
    data = settings.data
    notes = []
    for view, (high, wide), transform in (
        ("ground", data.ground_size, data.ground_view),
        ("aerial", data.aerial_size, data.aerial_view),
    ):
        smaller = {}  # split -> size of its smallest images
        for split, dataset in (("train", train), ("validation", validation)) if transform is None else ():
            sizes = [size for size in _drawn_sizes(dataset, view) if size[0] < high or size[1] < wide]
            if sizes:
                smaller[split] = min(sizes)
        if smaller:
            height, width = min(smaller.values())
            size = f"{view}_size=[{high},{wide}]"
            options = " ".join(_option(data.name, split, size) for split in smaller)
            notes.append(
                f"{view} images of {height} x {width} pixels are enlarged to data.{size}, which adds no detail: to "
                f"render larger images, add {options}"
            )
    return notes


def _option(name: str, split: str, size: str) -> str:
    """Return the option that sets the size of rendered images, for example `data.train.ground_size=[84,336]`."""
    if name.startswith("world-"):
        return f"data.{split}.{size}"
    return f"{size} to each synthetic data set of data.{split}"  # a mixture, or an export


def _drawn_sizes(dataset: CrossViewDataset, view: str) -> set[tuple[int, int]]:
    """Return height and width of one image of each synthetic world in a data set; unreadable images are skipped."""
    table = dataset.queries if view == "ground" else dataset.gallery
    rows: dict[str, int] = {}
    for row, area in enumerate(table["area"][:]):
        if WORLD_AREA.fullmatch(area or ""):
            rows.setdefault(area.rpartition("-")[0], row)  # the first region of each world
    sizes = set()
    for source in ImageColumn(table, view).sources(list(rows.values())) if rows else ():
        try:
            width, height = image_header(source).size
        except (OSError, AttributeError):
            continue  # reported where images are decoded
        sizes.add((height, width))
    return sizes

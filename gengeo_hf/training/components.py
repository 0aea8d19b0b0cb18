"""The parts of a run, made from its settings: model, preprocessing, augmentation, averaged weights."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import logging as library_logging

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.common.transfer import first_line, refuse_missing_folder
from gengeo_hf.data import PairSource
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.aggregators import AGGREGATORS
from gengeo_hf.model.backbones import patch_sides, transformer_blocks
from gengeo_hf.model.view_transforms import parse_view
from gengeo_hf.training.descriptors import normalise
from gengeo_hf.training.initialization import start_netvlad
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.throughput import training_flops


def check_words(settings: Settings) -> None:
    """Refuse a tracker or a compiler that this machine does not have, before anything is loaded.

    Raises:
        GenGeoError: With the names that exist.
    """
    tracker, backend = settings.tracker, settings.optimisation.compile
    if tracker is not None and tracker not in (known := [str(name) for name in LoggerType]):
        raise GenGeoError(f"tracker={tracker} is unknown; Accelerate knows {', '.join(known)}")
    if tracker not in (None, "all") and tracker not in (here := [str(name) for name in get_available_trackers()]):
        raise GenGeoError(f"tracker={tracker} is not installed: pip install {tracker}, or one of {', '.join(here)}")
    if backend is not None and backend not in (known := sorted(torch._dynamo.list_backends(exclude_tags=()))):
        raise GenGeoError(f"optimisation.compile={backend} is unknown; torch.compile knows {', '.join(known)}")


def build_config(settings: Settings) -> GenGeoConfig:
    """The model's configuration.

    Raises:
        GenGeoError: an unknown field of GenGeoConfig (a misspelt one would be stored and ignored), or a wrong value.
    """
    fields = settings.model.config
    if unknown := sorted(set(fields) - set(GenGeoConfig.__dataclass_fields__)):
        raise GenGeoError(f"model.config has no field {unknown[0]!r}; GenGeoConfig's docstring lists the fields")
    try:
        config = GenGeoConfig(**fields)
        for name, value in _token_counts(config, settings, config).items():
            setattr(config, name, value)
        return config
    except (ValueError, StrictDataclassError) as error:
        raise GenGeoError(f"model.config: {' '.join(str(error).split())}") from error


def build_model(settings: Settings) -> GenGeoModel:
    """A model from random weights, from a backbone, or from a GenGeo checkpoint.

    Raises:
        GenGeoError: `model.init` cannot be loaded, or more blocks would be trained than there are.
    """
    config, init = build_config(settings), settings.model.init
    if init is None:
        if config.aerial_keep is not None:
            raise GenGeoError(
                "model.config.aerial_keep needs a guide that has learned: set model.init to a model that was trained "
                "without it"
            )
        model = GenGeoModel(config)
    else:
        refuse_missing_folder("model.init", init)
        try:
            model = _load_start(init, config, settings)
        except Exception as error:  # a folder of something else raises whatever its reader happens to meet
            if (why := first_line(error)).startswith("the checkpoint"):  # complete as it is
                raise GenGeoError(f"model.init: {why}") from error
            raise GenGeoError(
                f"model.init={init} cannot be loaded ({why}): fetch or save it again, or give the directory or Hub id "
                "of another DINOv2, ConvNeXt or GenGeo checkpoint"
            ) from error
    blocks, wanted = len(transformer_blocks(model.backbone)), model.config.trainable_blocks
    if wanted is not None and wanted > blocks:
        raise GenGeoError(f"model.config.trainable_blocks={wanted}, but the backbone has {blocks} blocks")
    return model


def _load_start(init: str, config: GenGeoConfig, settings: Settings) -> GenGeoModel:
    """The model that a checkpoint starts; of a ConvNeXt with more stages than are wanted the first ones."""
    stored: Any = GenGeoConfig.from_pretrained(init)
    fields = dict(settings.model.config)
    wanted: Any = fields.get("backbone_config") or {}
    backbone = stored.backbone_config
    if wanted.get("num_stages", math.inf) >= getattr(backbone, "num_stages", 0):
        counts = _token_counts(config, settings, stored if "backbone_config" not in fields else config)
        with _without_load_report(init):
            loaded: GenGeoModel = GenGeoModel.from_pretrained(init, dtype=torch.float32, **{**fields, **counts})
        return loaded
    whole, model = AutoModel.from_pretrained(init, dtype=torch.float32).state_dict(), GenGeoModel(config)
    for part in model.backbones:
        own = part.state_dict()
        # The final norm is that of another width; it starts anew.
        taken = {name: whole[name] for name in own if name in whole and whole[name].shape == own[name].shape}
        part.load_state_dict({**own, **taken})
    return model


@contextlib.contextmanager
def _without_load_report(init: str) -> Iterator[None]:
    """Silence transformers' table of missing and unknown weights: `GenGeoModel` refuses GenGeo checkpoints with any."""
    stored, _ = PreTrainedConfig.get_config_dict(init)
    verbosity = library_logging.get_verbosity()
    if stored.get("model_type") == GenGeoConfig.model_type:
        library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)


def _token_counts(config: GenGeoConfig, settings: Settings, of: GenGeoConfig) -> dict[str, Any]:
    """`token_counts` for an aggregator that is tied to the number of tokens, from the sizes of the images."""
    if not AGGREGATORS[config.aggregator].needs_token_counts or "token_counts" in settings.model.config:
        return {}
    high, wide = patch_sides(of.backbone_config)
    sizes = {"ground": settings.data.ground_size, "aerial": settings.data.aerial_size}
    return {"token_counts": {view: (size[0] // high) * (size[1] // wide) for view, size in sizes.items()}}


def count_operations(
    model: GenGeoModel, processor: GenGeoImageProcessor, accelerator: Accelerator, settings: Settings
) -> float:
    """`training_flops`, which is also the first time that the model sees images of the run's sizes.

    With `augment.options.input_scales` it is the mean over the scales, as if operations went with the pixels.

    Raises:
        GenGeoError: The model cannot take images of these sizes.
    """
    scales = (settings.augment.enabled and settings.augment.options.get("input_scales")) or [1.0]
    try:
        return training_flops(model, processor, accelerator) * float(np.mean(np.square(scales)))
    except ValueError as error:
        raise GenGeoError(f"data.ground_size, data.aerial_size: {' '.join(str(error).split())}") from error


START_PAIRS, AT_ONCE = 250, 25  # whose images start a NetVLAD, and how many are read at a time


def start_head(model: GenGeoModel, settings: Settings, pairs: PairSource, processor: GenGeoImageProcessor) -> bool:
    """Begin a NetVLAD head at clusters of the tokens of training images; random centroids learn poorly.

    All processes do the same, since images and seed are the same.

    Args:
        model: on its device, changed in place.
        settings: of the run.
        pairs: of the training set.
        processor: for the range of the pixels.

    Returns:
        False for a model that needs no such start: another head, or a NetVLAD that `model.init` has trained.

    Raises:
        GenGeoError: there are too few training images for the clusters.
    """
    init = settings.model.init
    if model.config.aggregator != "netvlad" or (init and GenGeoConfig.from_pretrained(init).aggregator == "netvlad"):
        return False
    rows = np.unique(np.linspace(0, len(pairs) - 1, START_PAIRS).astype(int))

    def images(*views: str) -> Iterator[torch.Tensor]:
        for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
            batch = pairs.__getitems__(some.tolist())
            yield from (normalise(batch[view], processor) for view in views)

    if model.config.share_aggregator:
        start_netvlad(model, images("ground", "aerial"), seed=settings.seed)
    else:
        for view in ("ground", "aerial"):
            start_netvlad(model, images(view), view=view, seed=settings.seed)
    return True


def build_processor(settings: Settings) -> GenGeoImageProcessor:
    """The preprocessing that is saved with the model."""
    sizes = {"ground": settings.data.ground_size, "aerial": settings.data.aerial_size}
    return GenGeoImageProcessor(
        view_sizes={view: {"height": height, "width": width} for view, (height, width) in sizes.items()},
        view_transforms=_checked_views(settings) or None,
    )


def _checked_views(settings: Settings) -> dict[str, str]:
    """The views that images are changed to.

    Raises:
        GenGeoError: a view is unknown, or `data.auxiliary_view` is.
    """
    given = {"ground": settings.data.ground_view, "aerial": settings.data.aerial_view}
    try:
        for view, text in (*given.items(), ("ground", settings.data.auxiliary_view)):
            if text is not None:
                parse_view(text, view)
    except ValueError as error:
        raise GenGeoError(f"data: {error}") from error
    return {view: text for view, text in given.items() if text is not None}


def build_pairs(settings: Settings, dataset: CrossViewDataset, processor: GenGeoImageProcessor) -> PairSource:
    """The training pairs with what the terms of the loss need beside both views.

    Raises:
        GenGeoError: the data lack a view or positions.
    """
    terms, data = settings.loss.terms, settings.data
    auxiliary = None
    if data.auxiliary_view is not None:
        height, width = data.auxiliary_size
        sizes = {"ground": {"height": height, "width": width}}
        auxiliary = GenGeoImageProcessor(view_sizes=sizes, view_transforms={"ground": data.auxiliary_view})
    position = terms.get("position")
    with_positions = "position" in terms and not (position or {}).get("centred", False)
    return PairSource(dataset, processor, auxiliary=auxiliary, with_positions=with_positions)


def build_augmentation(settings: Settings, patch: int = 14) -> Augmentation | None:
    """Augmentation of the training images, or None where it is turned off or has no options.

    Args:
        settings: of the run.
        patch: width in pixels of a token of the model; photos cut from panoramas are a multiple of it wide.

    Raises:
        GenGeoError: an unknown option.
    """
    options = settings.augment.options
    if unknown := sorted(set(options) - set(Augmentation.__dataclass_fields__)):
        known = ", ".join(Augmentation.__dataclass_fields__)
        raise GenGeoError(f"augment.options has no {unknown[0]!r}; it knows {known}")
    if not (options and settings.augment.enabled):
        return None
    data = settings.data
    forms = {"ground_is_map": data.ground_view is not None, "aerial_is_polar": data.aerial_view is not None}
    augmentation = Augmentation(**{"multiple_of": patch, **forms, **options})
    aggregator = settings.model.config.get("aggregator", "salad")
    if augmentation.fov is not None and AGGREGATORS[aggregator].needs_token_counts:
        raise GenGeoError(
            f"augment.options.fov changes the number of tokens, and the {aggregator} aggregator is tied to it: leave "
            "fov out"
        )
    if data.auxiliary_view is not None and (augmentation.fov is not None or augmentation.unknown_heading):
        raise GenGeoError(
            f"data.auxiliary_view {data.auxiliary_view} needs whole panoramas: leave fov and unknown_heading out"
        )
    return augmentation


def check_smallest_images(
    augmentation: Augmentation | None, model: GenGeoModel, processor: GenGeoImageProcessor
) -> None:
    """Refuse an augmentation that makes images too small for the head; else the run would end at one of its steps.

    Args:
        augmentation: Of the training images; None changes nothing.
        model: The model that is trained.
        processor: Its preprocessing, which states the size of each view's images.

    Raises:
        GenGeoError: Some image would have fewer tokens than the head needs.
    """
    if augmentation is None:
        return
    heads: Any = model.heads.values()
    fewest = max(int(head.aggregator.fewest_tokens) for head in heads)
    high, wide = patch_sides(model.config.backbone_config)
    for view, size in processor.view_sizes.items():
        height, width = augmentation.smallest(view, size["height"], size["width"])
        tokens = (height // high) * (width // wide)
        if tokens < fewest:
            raise GenGeoError(
                f"augment.options make {view} images as small as {height} x {width} pixels, {tokens} tokens, and the "
                f"head needs at least {fewest}: raise fov or input_scales, use larger images, or fewer clusters"
            )


class Average:
    """An exponential moving average of the trained parameters, which often generalises better than the last step.

    Args:
        model: its parameters that require gradients are averaged, in float32.
        decay: share that stays at each step, below 1; early on less stays, (1 + step) / (10 + step), so that the random
            start is soon forgotten.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise GenGeoError(f"optimisation.ema must lie between 0 and 1, found {decay}")
        self.model, self.decay = model, decay
        self.values = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the present weights after optimizer step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(self.model.named_parameters())
        for name, value in self.values.items():
            value.lerp_(parameters[name].float(), 1 - decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Put the averaged weights into the model, and the trained ones back afterwards."""
        parameters = dict(self.model.named_parameters())
        trained = {name: parameters[name].detach().clone() for name in self.values}
        for name, value in self.values.items():
            parameters[name].copy_(value)
        try:
            yield
        finally:
            for name, value in trained.items():
                parameters[name].copy_(value)


def weights_in_use(average: Average | None) -> contextlib.AbstractContextManager[None]:
    """The weights that are evaluated and saved: the averaged ones where there are any."""
    return average.in_place() if average is not None else contextlib.nullcontext()

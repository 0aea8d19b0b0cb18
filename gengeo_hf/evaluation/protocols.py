"""Evaluation protocols: the data set, split and rules of an evaluation.

`assets/protocols.yaml` holds the published protocols. A data set without one is evaluated by `default_protocol`: recall
over its whole gallery.
"""

import dataclasses
import functools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.views import cropped_width
from gengeo_hf.evaluation.metrics import Rounding
from gengeo_hf.evaluation.ranks import Ties

_FILE = Path(__file__).parents[1] / "assets" / "protocols.yaml"
_NAME = re.compile(r"^(?P<base>.+?)(?P<validation>@validation)?(-fov(?P<degrees>\d+)-(?P<heading>known|unknown))?$")


@dataclass(frozen=True)
class Protocol:
    """Data set, split and rules of an evaluation.

    Args:
        name: Name of the protocol.
        dataset: Name of the data set for `gengeo_hf.data.load_pairs`.
        split: Split of the data set, for example "test"; CVACT has "val" and "test".
        trained_on: Names of the data sets on which the model of the published numbers was trained.
        queries: Size of the published query set; None where nothing is published.
        gallery: Size of the published gallery; None where nothing is published.
        ground_size: Size of ground images in the paper, "HxW" in pixels, for example "154x770"; None where unknown.
        aerial_size: Size of tiles in the paper, as `ground_size`.
        ks: Values of k for recall@k.
        rounding: Rule for recall@1%, see `one_percent_k`.
        published_ties: Tie rule of the published numbers.
        near_rule_m: Metres within which any tile counts as right; None disables this rule.
        offset_edges_m: Inner edges in metres of the breakdown by distance between query and tile centre.
        prior_radii_m: Radii in metres of searches around the true position.
        fov: Horizontal field of view in degrees that panoramas are cropped to; 360 keeps them.
        heading: "known": crops face north; "unknown": their heading is random.
        trapezoid_ap: Also compute average precision by the trapezoid rule of University-1652.
        note: Caveat that results show.
        hub_id: Id of the data set on the Hub, `organisation/name`; "" if it is not there.
    """

    name: str
    dataset: str
    split: str
    trained_on: tuple[str, ...]
    queries: int | None
    gallery: int | None
    ground_size: str | None = None
    aerial_size: str | None = None
    ks: tuple[int, ...] = (1, 5, 10)
    rounding: Rounding = "floor"
    published_ties: Ties = "sample4geo"
    near_rule_m: float | None = None
    offset_edges_m: tuple[float, ...] = ()
    prior_radii_m: tuple[float, ...] = ()
    fov: int = 360
    heading: str = "known"
    trapezoid_ap: bool = False
    note: str = ""
    hub_id: str = ""

    @property
    def has_limited_view(self) -> bool:
        """Whether panoramas are cropped or turned before they are encoded."""
        return self.fov < 360 or self.heading == "unknown"

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def with_rounding(self, rounding: Rounding) -> "Protocol":
        """Return this protocol with another rule for recall@1%, which is added to its name."""
        if rounding == self.rounding:
            return self
        return dataclasses.replace(self, rounding=rounding, name=f"{self.name} (1%: {rounding})")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """Restore a protocol from a result.

        Args:
            values: Values of `as_dict`, possibly from another version; unknown keys are ignored.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**given)


def protocol_names() -> list[str]:
    """Names of all protocols without a limited field of view."""
    return list(_contents()["protocols"])


def find_protocol(name: str) -> Protocol:
    """Find a protocol by name: `cvusa`, `cvusa@validation`, `cvusa-fov90-unknown`, `cvusa@validation-fov90-known`.

    Raises:
        GenGeoError: There is no protocol of this name.
    """
    contents = _contents()
    match = _NAME.match(name)
    if match is None or match["base"] not in contents["protocols"]:
        raise GenGeoError(
            f"unknown protocol {name!r}; known are {', '.join(protocol_names())}, "
            "each also as <name>@validation and as <name>-fov<degrees>-<known|unknown>"
        )
    base = contents["protocols"][match["base"]]
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in base.items()}
    protocol = Protocol(name=name, **given)
    notes = [protocol.note]
    if match["validation"]:
        protocol = dataclasses.replace(protocol, split="validation", queries=None, gallery=None, hub_id="")
        notes = [contents["validation"]["note"]]
    if match["degrees"]:
        degrees, allowed = int(match["degrees"]), contents["limited_view"]["degrees"]
        if degrees not in allowed:
            raise GenGeoError(f"the field of view must be one of {allowed} degrees, found {degrees}")
        protocol = dataclasses.replace(protocol, fov=degrees, heading=match["heading"])
        notes.append(contents["limited_view"][match["heading"]])
    return dataclasses.replace(protocol, note=" ".join(note for note in notes if note))


def default_protocol(dataset: str, split: str) -> Protocol:
    """The protocol of a data set for which the caller gives none.

    Args:
        dataset: Name of the data set.
        split: Name of the split.

    Returns:
        The published protocol of this data set and split if there is one; else recall over the whole gallery, with
        errors in metres where positions are known.
    """
    published = _contents()["protocols"]
    for name, values in published.items():
        if values["dataset"] == dataset and split in (values["split"], "validation"):
            return find_protocol(name if split == values["split"] else f"{name}@validation")
    note = (
        _contents()["validation"]["note"]
        if split == "validation"
        else "Own data: no published numbers to compare with."
    )
    return Protocol(f"{dataset}:{split}", dataset, split, (), None, None, prior_radii_m=(250, 500, 1000), note=note)


def view_headings(protocol: Protocol, count: int, seed: int) -> np.ndarray | None:
    """Draw the heading of each query's crop.

    Args:
        protocol: Protocol with or without a limited field of view.
        count: Number of queries, in the order of the data set's table.
        seed: Seed of the random headings.

    Returns:
        float64 (count,) degrees clockwise from north; None if crops face north or panoramas are not cropped.
    """
    if not protocol.has_limited_view or protocol.heading == "known":
        return None
    return np.random.default_rng(seed).uniform(0, 360, count)


@functools.cache
def _contents() -> dict[str, Any]:
    """Read the file of protocols once."""
    contents: Any = OmegaConf.to_container(OmegaConf.load(_FILE))
    return dict(contents)


def fov_shown(protocol: Protocol, width: int, patch: int) -> float:
    """Field of view in degrees of the crops of a protocol; warns if whole patches change it by more than 5 percent."""
    shown = 360 * cropped_width(width, protocol.fov, patch) / width
    if abs(shown - protocol.fov) > 0.05 * protocol.fov:
        warnings.warn(
            f"{protocol.name}: crops of {protocol.fov} degrees show {shown:.0f} degrees, whole patches of {patch} of "
            f"{width} pixels; larger images come closer (--ground-size)",
            stacklevel=2,
        )
    return shown

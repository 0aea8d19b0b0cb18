"""Properties of a model in memory that an encoder needs: widths, patch, fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gengeo_hf.encoding.fingerprint import fingerprint

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel


class LoadedModel:
    """A model in memory with the members of `ExportedGraphs`."""

    def __init__(self, model: GenGeoModel, processor: GenGeoImageProcessor) -> None:
        self.model, self.processor = model, processor
        self._fingerprint: str | None = None

    @property
    def whole_dim(self) -> int:
        """Number of values of a descriptor that is not truncated."""
        head: Any = next(iter(self.model.heads.values()))
        return int(head.width_out)

    @property
    def truncate_dim(self) -> int | None:
        """Number of values to which descriptors are truncated; None if they are not."""
        width: int | None = self.model.config.truncate_dim
        return width

    @property
    def patch(self) -> int:
        """Width of a patch in pixels."""
        return self.patch_sides[1]

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        from gengeo_hf.model.backbones import patch_sides

        return patch_sides(self.model.config.backbone_config)

    @property
    def fewest_tokens(self) -> int:
        """Minimum number of tokens of an image."""
        heads: Any = self.model.heads.values()
        return max(int(head.aggregator.fewest_tokens) for head in heads)

    @property
    def ground_view(self) -> tuple[str | None, float | None]:
        """`ground_camera` and `ground_vertical_fov` of the model's configuration."""
        config = self.model.config
        return config.ground_camera, config.ground_vertical_fov

    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model, self.processor)
        return self._fingerprint

    def truncate(self, dim: int) -> None:
        """Truncate the model's descriptors to their first `dim` values."""
        width = dim if dim < self.whole_dim else None  # full width has the fingerprint without truncation
        self.model.config.truncate_dim = width
        for head in self.model.heads.values():
            head.truncate_dim = width  # type: ignore[assignment]  # a plain attribute of GenGeoHead
        self._fingerprint = None

"""A model in memory, as an encoder must know it: widths, patch, fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gengeo_hf.encoding.fingerprint import fingerprint

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel


class LoadedModel:
    """A model in memory with the members that `ExportedGraphs` has for exported files."""

    def __init__(self, model: GenGeoModel, processor: GenGeoImageProcessor) -> None:
        self.model, self.processor = model, processor
        self._fingerprint: str | None = None

    @property
    def whole_dim(self) -> int:
        """Number of values of a whole descriptor."""
        head: Any = next(iter(self.model.heads.values()))
        return int(head.width_out)

    @property
    def truncate_dim(self) -> int | None:
        """Number of values that descriptors are truncated to, None for whole ones."""
        width: int | None = self.model.config.truncate_dim
        return width

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return self.patch_sides[1]

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width in pixels of what becomes one token."""
        from gengeo_hf.model.backbones import patch_sides

        return patch_sides(self.model.config.backbone_config)

    @property
    def fewest_tokens(self) -> int:
        """Tokens that an image must have at least."""
        heads: Any = self.model.heads.values()
        return max(int(head.aggregator.fewest_tokens) for head in heads)

    @property
    def ground_view(self) -> tuple[str | None, float | None]:
        """`ground_camera` and `ground_vertical_fov` of the model's configuration."""
        config = self.model.config
        return config.ground_camera, config.ground_vertical_fov

    def fingerprint(self) -> str:
        """Hash of the weights and the preprocessing."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model, self.processor)
        return self._fingerprint

    def truncate(self, dim: int) -> None:
        """Truncate descriptors to their first `dim` values, also those of the model itself."""
        width = dim if dim < self.whole_dim else None  # so that the fingerprint is that of the whole model
        self.model.config.truncate_dim = width
        for head in self.model.heads.values():
            head.truncate_dim = width  # type: ignore[assignment]  # a plain attribute of GenGeoHead
        self._fingerprint = None

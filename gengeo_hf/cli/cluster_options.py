"""Options of `gengeo index` on a Ray cluster, and what its workers need to know."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console

if TYPE_CHECKING:
    from gengeo_hf.encoding.adaptation import Adaptation
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import TilingOptions
    from gengeo_hf.imagery.tiles import TileSource
    from gengeo_hf.index.build import BuildReport

CLUSTER = "Cluster"
LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker opens: sent to it by pickle, and called there.

    Args:
        source: Imagery as the user wrote it.
        tiling: How it is cut.
        model: Checkpoint directory or Hub id.
        loading: Further arguments of `Encoder.from_pretrained`.
        adaptation: Fitted before, so that all workers have the same means.
        build: Options of `build_index`.
    """

    source: str
    tiling: "TilingOptions"
    model: str
    loading: dict[str, Any]
    adaptation: "Adaptation | None"
    build: dict[str, Any]

    def __call__(self, workers: int) -> "tuple[Encoder, TileSource, dict[str, Any]]":
        """Encoder, imagery and options of `build_index`; all workers together ask servers as often as one would."""
        from gengeo_hf.encoding.adaptation import AdaptedEncoder
        from gengeo_hf.encoding.encoder import Encoder
        from gengeo_hf.imagery import open_imagery

        client = self.tiling.net.client
        share = replace(client, rate=client.rate / workers, connections=max(1, client.connections // workers))
        imagery = open_imagery(self.source, replace(self.tiling, net=replace(self.tiling.net, client=share)))
        encoder = Encoder.from_pretrained(self.model, **self.loading)
        if self.adaptation is not None:
            encoder = AdaptedEncoder(encoder, self.adaptation)
        return encoder, imagery, self.build


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where tiles are encoded."""

    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray",
            help="What encodes: this process, or the workers of Ray (extra `ray`), each with whole parts of the index. "
            "Output, model and imagery then lie on storage that all machines share.",
            rich_help_panel=CLUSTER,
        ),
    ] = LOCAL
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Head of the Ray cluster; auto: the Ray of this machine. Default: RAY_ADDRESS, else a Ray of its own.",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ray processes that encode. Default: one for each GPU, or for each machine where there are none.",
            rich_help_panel=CLUSTER,
        ),
    ] = None

    @property
    def uses_ray(self) -> bool:
        """Whether Ray was asked for."""
        return self.engine == RAY

    def check(self, **excluded: Any) -> None:
        """Refuse options that do not go together.

        Args:
            excluded: Options that Ray cannot do, by name; true ones were given.

        Raises:
            UsageError: An unknown engine, or options that do not go together.
        """
        if self.engine not in (LOCAL, RAY):
            raise console.UsageError(f"--engine must be local or ray, found {self.engine!r}")
        if not self.uses_ray and (self.ray_address or self.workers):
            raise console.UsageError("--ray-address and --workers need --engine ray")
        hints = {
            "add": "build an index apart and add the whole",
            "shard": "Ray divides the work itself",
            "pose_features": "give the same command again without --engine, which encodes nothing twice",
            "retry_missing": "give it without --engine: few tiles are left",
        }
        for name, given in excluded.items():
            if self.uses_ray and given:
                raise console.UsageError(
                    f"--engine ray and --{name.replace('_', '-')} exclude one another: {hints[name]}"
                )

    def build(self, setup: WorkerSetup, out: Path, name: str, overwrite: bool) -> "BuildReport":
        """Build the index on Ray.

        Args:
            setup: What workers open.
            out: Index directory.
            name: Of the imagery.
            overwrite: Replace an index that is there.

        Raises:
            GenGeoError: See `gengeo_hf.index.cluster.build_on_ray`.
        """
        from gengeo_hf.index.cluster import build_on_ray

        return build_on_ray(
            setup,
            out,
            name,
            address=self.ray_address,
            workers=self.workers,
            use_gpus=setup.loading.get("device") != "cpu",
            overwrite=overwrite,
            progress=console.shows_progress(),
            note=console.note,
        )

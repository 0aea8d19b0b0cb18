"""Options of `gengeo index` on a Ray cluster, and the setup of its workers."""

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
    """Encoder, imagery and options of a worker: pickled, sent to the worker and called there.

    Args:
        source: Imagery, as given on the command line.
        tiling: Tiles of the imagery.
        model: Checkpoint directory or Hub id.
        loading: Further arguments of `Encoder.from_pretrained`.
        adaptation: Adaptation of the encoder, fitted before so that all workers have the same; None for none.
        build: Options of `build_index`.
    """

    source: str
    tiling: "TilingOptions"
    model: str
    loading: dict[str, Any]
    adaptation: "Adaptation | None"
    build: dict[str, Any]

    def __call__(self, workers: int) -> "tuple[Encoder, TileSource, dict[str, Any]]":
        """Open the encoder and the imagery; all workers together keep the limits of requests of one process.

        Args:
            workers: Number of workers.

        Returns:
            Encoder, imagery, and options of `build_index`.
        """
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
    """Where the tiles are encoded: in this process or on a Ray cluster."""

    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray",
            help="Where tiles are encoded: local (this process) or ray (workers of Ray, extra `ray`). With ray, "
            "output, model and imagery must be on storage that all machines share.",
            rich_help_panel=CLUSTER,
        ),
    ] = LOCAL
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Head of the Ray cluster; auto: the Ray of this machine. Default: RAY_ADDRESS, else a new Ray.",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of Ray processes that encode. Default: one per GPU, or one per machine without GPUs.",
            rich_help_panel=CLUSTER,
        ),
    ] = None

    @property
    def uses_ray(self) -> bool:
        """Whether the engine is Ray."""
        return self.engine == RAY

    def check(self, **excluded: Any) -> None:
        """Check the combination of options.

        Args:
            excluded: Values of options that Ray does not support, by name; true values are given options.

        Raises:
            UsageError: The engine is unknown, or options exclude one another.
        """
        if self.engine not in (LOCAL, RAY):
            raise console.UsageError(f"--engine must be local or ray, found {self.engine!r}")
        if not self.uses_ray and (self.ray_address or self.workers):
            raise console.UsageError("--ray-address and --workers need --engine ray")
        hints = {
            "add": "build a new index and add it",
            "shard": "Ray divides the work itself",
            "pose_features": "run the command again without --engine; tiles are not encoded twice",
            "retry_missing": "run it without --engine, because few tiles are left",
        }
        for name, given in excluded.items():
            if self.uses_ray and given:
                raise console.UsageError(
                    f"--engine ray and --{name.replace('_', '-')} exclude one another: {hints[name]}"
                )

    def build(self, setup: WorkerSetup, out: Path, name: str, overwrite: bool) -> "BuildReport":
        """Build the index on Ray.

        Args:
            setup: Encoder, imagery and options of the workers.
            out: Index directory to write.
            name: Name of the imagery.
            overwrite: Whether to replace an existing index.

        Returns:
            Report of the build.

        Raises:
            GenGeoError: The build fails, see `gengeo_hf.index.cluster.build_on_ray`.
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

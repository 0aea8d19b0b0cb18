"""Scenes of a region for the ray caster: one for each view, because the two views have different cars."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.common.errors import MissingExtraError
from gengeo_hf.world.domains import DOMAINS, domain_named
from gengeo_hf.world.geography import SPLITS, LocalFrame, region_frame
from gengeo_hf.world.layout import VIEWS, Layout, make_layout
from gengeo_hf.world.mesh import Mesh, car_mesh, join, static_mesh


@dataclass
class Hits:
    """What rays met. Rows are the rays that met something, in the order of the rays.

    Args:
        ray: (n,) number of the ray. point, normal, direction: (n, 3); the normal faces the ray's origin.
        distance: (n,) metres. kind, owner, side: (n,) as in `mesh.Mesh`.
        footprint: (n,) width of the ray on a surface that faces it, metres: finer patterns must fade.
    """

    ray: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    direction: np.ndarray
    distance: np.ndarray
    kind: np.ndarray
    owner: np.ndarray
    side: np.ndarray
    footprint: np.ndarray

    def only(self, rows: np.ndarray) -> "Hits":
        """The hits of some rows.

        Args:
            rows: integers (k,) or bool (n,).
        """
        return Hits(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class RegionScene:
    """The scenes of both views of one region.

    Args:
        layout: what stands in the region.
        frame: where the region lies on Earth.
    """

    def __init__(self, layout: Layout, frame: LocalFrame) -> None:
        self.layout, self.frame = layout, frame
        shared = static_mesh(layout)
        self.meshes = {view: join([shared, car_mesh(layout.cars[view])]) for view in VIEWS}
        self.casters = {view: _caster(mesh) for view, mesh in self.meshes.items()}

    def trace(self, view: str, origin: np.ndarray, direction: np.ndarray, spread: float, width: float = 0.0) -> Hits:
        """The first thing that each ray meets.

        Args:
            view: whose cars.
            origin, direction: (n, 3) float32, directions of length 1.
            spread: radians between neighbouring rays; `width`: metres between them at their origin.
        """
        found = self.casters[view].run(origin, direction, query="INTERSECT", output=True)
        ray = np.flatnonzero(found["primID"] >= 0)
        triangle, distance, direction = found["primID"][ray], found["tfar"][ray], direction[ray]
        normal = found["Ng"][ray]
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + np.float32(1e-12)
        normal *= -np.sign(np.einsum("ij,ij->i", normal, direction))[:, None]
        mesh = self.meshes[view]
        return Hits(
            ray,
            origin[ray] + direction * distance[:, None],
            normal,
            direction,
            distance,
            mesh.kind[triangle],
            mesh.owner[triangle],
            mesh.side[triangle],
            distance * np.float32(spread) + np.float32(width),
        )

    def shaded(self, view: str, point: np.ndarray, towards: np.ndarray) -> np.ndarray:
        """Whether something stands between each point (n, 3) and a light in direction `towards` (3,).

        Args:
            view: "ground" or "aerial": whose cars.
            point: metres; where the light must arrive.
            towards: of length 1.

        Returns:
            bool (n,)
        """
        direction = np.ascontiguousarray(np.broadcast_to(towards.astype(np.float32), point.shape))
        return self.casters[view].run(np.ascontiguousarray(point), direction, query="OCCLUDED") >= 0


def _caster(mesh: Mesh) -> Any:
    """An Embree scene of a mesh."""
    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh
    except ImportError as error:
        raise MissingExtraError("embreex", "world", "draw the synthetic world") from error
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    return scene


@functools.lru_cache(maxsize=2)
def region_scene(domain: str, split: str, seed: int, region: int) -> RegionScene:
    """The scene of a region; a pure function of its arguments, the last two stay in memory.

    Raises:
        GenGeoError: unknown domain or split, or a region number beyond the split's room.
        MissingExtraError: embreex is not installed.
    """
    index = list(DOMAINS).index(domain_named(domain).name)
    frame = region_frame(index, split, region)
    key = (seed, index, SPLITS.index(split), region)
    return RegionScene(make_layout(DOMAINS[domain], key), frame)

"""Ray-casting scenes of a region, one for each view, because the views have different cars."""

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
    """Hits of n rays, in the order of the rays; rays without a hit are omitted.

    Args:
        ray: Index of the ray, shape (n,).
        point: Hit point in metres, shape (n, 3).
        normal: Unit normal that faces the origin of the ray, shape (n, 3).
        direction: Direction of the ray, shape (n, 3).
        distance: Length of the ray in metres, shape (n,).
        kind, owner, side: Kind, row and side of the object as in `mesh.Mesh`, shape (n,).
        footprint: Width of the ray on a perpendicular surface in metres, shape (n,); finer patterns must fade.
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
        """Select rows.

        Args:
            rows: Indices (k,) or bool mask (n,).
        """
        return Hits(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class RegionScene:
    """The scenes of both views of one region.

    Args:
        layout: Layout of the region.
        frame: Position of the region on Earth.
    """

    def __init__(self, layout: Layout, frame: LocalFrame) -> None:
        self.layout, self.frame = layout, frame
        shared = static_mesh(layout)
        self.meshes = {view: join([shared, car_mesh(layout.cars[view])]) for view in VIEWS}
        self.casters = {view: _caster(mesh) for view, mesh in self.meshes.items()}

    def trace(self, view: str, origin: np.ndarray, direction: np.ndarray, spread: float, width: float = 0.0) -> Hits:
        """Find the first surface that each ray hits.

        Args:
            view: View, "ground" or "aerial", which decides about the cars.
            origin: Origins of the rays in metres, float32 (n, 3).
            direction: Unit vectors, float32 (n, 3).
            spread: Angle between neighbouring rays in radians.
            width: Distance between neighbouring rays at their origin in metres.
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
        """Test whether points are in the shadow of a distant light.

        Args:
            view: View, "ground" or "aerial", which decides about the cars.
            point: Points in metres, shape (n, 3).
            towards: Unit vector towards the light, shape (3,).

        Returns:
            Bool array of shape (n,), True in the shadow.
        """
        direction = np.ascontiguousarray(np.broadcast_to(towards.astype(np.float32), point.shape))
        return self.casters[view].run(np.ascontiguousarray(point), direction, query="OCCLUDED") >= 0


def _caster(mesh: Mesh) -> Any:
    """Build an Embree scene from a mesh."""
    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh
    except ImportError as error:
        raise MissingExtraError("embreex", "world", "render the synthetic world") from error
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    return scene


@functools.lru_cache(maxsize=2)
def region_scene(domain: str, split: str, seed: int, region: int) -> RegionScene:
    """Build the scene of a region; a pure function of its arguments that keeps the last two scenes in memory.

    Raises:
        GenGeoError: The domain or split is unknown, or the region number is too large.
        MissingExtraError: The package embreex is not installed.
    """
    index = list(DOMAINS).index(domain_named(domain).name)
    frame = region_frame(index, split, region)
    key = (seed, index, SPLITS.index(split), region)
    return RegionScene(make_layout(DOMAINS[domain], key), frame)

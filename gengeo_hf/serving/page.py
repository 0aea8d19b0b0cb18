"""The page behind `gengeo app`: drop a photo, see the places, the tiles, and what the head kept of both views.

It works without internet: no script, font or tile comes from elsewhere, and the photo does not leave the machine that
runs the page.
"""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported

import gradio as gr
from fastapi import FastAPI
from PIL import Image

from gengeo_hf.common.camera import parse_camera
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.units import parse_metres, parse_near
from gengeo_hf.localization.localizer import Place, to_geojson
from gengeo_hf.localization.maps import answers_map, map_frame
from gengeo_hf.serving import fragments as words
from gengeo_hf.serving import server
from gengeo_hf.serving.decoding import BudgetError
from gengeo_hf.serving.heatmaps import Seen, agreement, clusters, contrast, see
from gengeo_hf.serving.locator import LocateQuery, Locator, read_photo
from gengeo_hf.serving.page_uploads import UploadPathsMiddleware, uploads_directory
from gengeo_hf.serving.server import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAP_HEIGHT = 520
EXAMPLES = 6
SHOWN_PIXELS = 1024  # pictures on the page, longest side
MAX_FILE = "40mb"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")  # named as text: gradio's own fonts are fetched
STYLE = Path(__file__).parents[1] / "assets" / "page.css"
AS_FILE, PANORAMA, ORDINARY = KINDS = ("as its file tells", "panorama", "ordinary photo")
FROM_FILE = "as its file states, else north"
NORTH = "north"
HEADINGS: dict[str, float | str] = {FROM_FILE: "exif", NORTH: 0.0, "unknown: try eight": "unknown"}
KEEP_FILES_S = 3600  # uploads are deleted after an hour
TO_THE_ANSWER = "() => document.getElementById('answer').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
# For screen readers: answers are announced, pictures say what they show. Components have no option for it.
FOR_READERS = """() => {
  document.getElementById('answer').setAttribute('aria-live', 'polite');
  const texts = {
    'preview': 'your photo', 'kept-photo': 'heat map: which parts of your photo counted in its descriptor',
    'kept-tile': 'heat map: which parts of the chosen aerial tile counted in its descriptor',
    'agreement': 'photo and tile side by side, with the parts that agree marked',
    'contrast': 'photo, best tile and chosen tile, with the parts that speak for the best one marked',
    'clusters': 'heat maps: where each cluster of the model looks', 'tiles': 'aerial tile', 'examples': 'example photo',
  };
  const describe = () => {
    for (const [id, text] of Object.entries(texts))
      document.querySelectorAll('#' + id + ' img').forEach((image, row) => {
        image.alt = id === 'tiles' || id === 'examples' ? text + ' ' + (row + 1) : text;
      });
  };
  new MutationObserver(describe).observe(document.body, {childList: true, subtree: true});
  describe();
}"""
ROW: dict[str, Any] = {  # of pictures that are clicked
    "show_label": False,
    "allow_preview": False,
    "object_fit": "cover",
    "buttons": [],
    "interactive": False,
    "height": "auto",
}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


@dataclass
class Shown:
    """What the page shows for one photo, kept while its places are clicked."""

    places: list[Place]
    photo: Seen
    pictures: dict[str, bytes] = field(default_factory=dict)  # JPEGs by tile id

    @property
    def with_picture(self) -> list[Place]:
        """Places in the order of the row of tiles."""
        return [place for place in self.places if place.tile_id in self.pictures]


def build_page(locator: Locator, examples: Sequence[Path] = ()) -> gr.Blocks:
    """The page, not yet served.

    Args:
        locator: model and index.
        examples: photos that are offered to try.
    """
    with gr.Blocks(title="GenGeo: where was this photo taken?", delete_cache=(KEEP_FILES_S, KEEP_FILES_S)) as page:
        gr.HTML(words.heading(locator))
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                photo = gr.File(label="Photo", elem_id="photo", height=130)
                if examples:
                    _examples(examples, photo)
                preview = gr.Image(
                    label="Your photo",
                    show_label=False,
                    interactive=False,
                    visible=False,
                    elem_id="preview",
                    buttons=[],
                )
                settings = _settings(locator)
                button = gr.Button("Locate", variant="primary", elem_id="locate")
            with gr.Column(scale=5, min_width=320):
                banner = gr.HTML(words.welcome(), elem_id="answer")
                with gr.Column(visible=False) as results:
                    result = _results()
        shown = gr.State(time_to_live=KEEP_FILES_S)
        asked: dict[str, Any] = {
            "fn": lambda path, *values: _answer(locator, path, *values),
            "inputs": [photo, *settings],
            "outputs": [preview, banner, results, *result, shown],
        }
        button.click(**asked, api_name="locate", show_progress="minimal")
        photo.change(**asked, **QUIET).then(None, js=TO_THE_ANSWER, **QUIET)
        tiles, seen = result[1], result[2:]
        tiles.select(_chooser(locator), shown, seen, **QUIET)
        page.load(None, js=FOR_READERS, **QUIET)
    page.queue(max_size=64)
    return page


def show(
    locator: Locator,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = False,
    examples: Sequence[Path] = (),
    access: Access | None = None,
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        locator: model and index.
        host: address to listen on.
        port: 0 takes a free one.
        browser: open it.
        examples: photos to offer; the first six are shown.
        access: who may ask; None answers loopback names and IP addresses.

    Raises:
        GenGeoError: the port is taken, or an example is not a photo.
    """
    access = access or Access()
    with uploads_directory() as uploads, server.listen(host, port) as (listening, address):
        app = page_app(build_page(locator, examples[:EXAMPLES]), uploads, access.root_path)
        print(f"{address} shows the page; stop it with Ctrl-C", flush=True)
        if browser:
            webbrowser.open(address)
        server.run(app, access, host, listening)


def page_app(page: gr.Blocks, uploads: Path, root_path: str = "") -> ASGIApp:
    """The page as an ASGI application.

    Args:
        page: of `build_page`.
        uploads: directory of `uploads_directory`.
        root_path: path prefix that a proxy removes.
    """
    theme = gr.themes.Soft(
        primary_hue="blue", neutral_hue="slate", font=list(SYSTEM_FONTS), font_mono=["ui-monospace", "monospace"]
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="",
        ssr_mode=False,
        show_error=True,
        footer_links=["settings"],
        theme=theme,
        css=STYLE.read_text(encoding="utf-8"),
        max_file_size=MAX_FILE,
        enable_monitoring=False,
        root_path=root_path or None,
    )
    return UploadPathsMiddleware(app, uploads)


def _settings(locator: Locator) -> list[Any]:
    """Fields that `_question` takes, in its order."""
    calibrated = locator.localizer.calibration is not None
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        top = gr.Slider(1, 10, 5, step=1, label="Places", info="How many to show")
        near = gr.Textbox(
            "",
            label="Search only near",
            placeholder="60.1699, 24.9384",
            info="Latitude, longitude in degrees; or with a radius: 60.17,24.94,2km",
            max_lines=1,
            elem_id="near",
        )
        radius = gr.Textbox("2km", label="Within", info="For example 500m or 2km", max_lines=1)
        gps = gr.Checkbox(label="Search only near the photo's own GPS position, where it has one")
        kind = gr.Radio(list(KINDS), value=AS_FILE, label="Kind of photo", info="A panorama shows all directions")
        fov = gr.Slider(
            10, 180, 65, step=1, label="Field of view", info="Degrees from its left to its right edge", visible=False
        )
        heading = gr.Radio(
            list(HEADINGS), value=FROM_FILE, label="Middle of the panorama", info="Where it looks to", visible=False
        )
        threshold = gr.Slider(
            0,
            1,
            words.DOUBTFUL if calibrated else 0,
            step=0.05,
            label="Don't know below",
            info="Confidence that an answer needs",
            visible=calibrated,
        )
        kind.change(
            lambda chosen: [gr.update(visible=chosen == ORDINARY), gr.update(visible=chosen == PANORAMA)],
            kind,
            [fov, heading],
            **QUIET,
        )
    return [top, near, radius, gps, kind, fov, heading, threshold]


def _examples(paths: Sequence[Path], photo: gr.File) -> None:
    """Small pictures of photos; a click on one asks about it."""
    gr.HTML(words.section("Or try one of these"))
    small = [read_photo(path) for path in paths]
    for image in small:
        image.thumbnail((320, 320))
    row = gr.Gallery(small, columns=3, elem_id="examples", **ROW)

    def take(event: gr.SelectData) -> str:
        return str(paths[int(event.index)])

    row.select(take, None, photo, **QUIET)


def _results() -> list[Any]:
    """Map, tiles, and what the model looked at: title, photo, tile, and the pictures of `_why`."""
    ground_map = gr.HTML(elem_id="map")
    gr.HTML(words.section("Best places", "Click a tile to see what the model compared."))
    tiles = gr.Gallery(columns=5, elem_id="tiles", **ROW)
    title = gr.HTML(elem_id="kept")
    with gr.Row():
        photo = gr.Image(label="Photo", interactive=False, buttons=[], elem_id="kept-photo", min_width=240)
        tile = gr.Image(label="Tile", interactive=False, buttons=[], elem_id="kept-tile", min_width=240)
    with gr.Accordion("Which parts agree", open=False, elem_id="agree"):
        figure = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], elem_id="agreement")
    with gr.Accordion("Why the best place and not this one", open=False, elem_id="contrast") as other:
        versus = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"])
    with gr.Accordion("Where each cluster looks", open=False, elem_id="clusters"):
        maps = [gr.Image(show_label=False, interactive=False, buttons=["fullscreen"]) for _ in range(2)]
    return [ground_map, tiles, title, photo, tile, figure, other, versus, *maps]


def _answer(locator: Locator, path: str | None, *settings: Any) -> list[Any]:
    """Everything that changes on the page when a photo is asked about: the outputs of `build_page`, in order."""
    if not path:
        return _only(words.welcome())
    name, preview = Path(path).name, None
    try:
        question = _question(*settings)
        with locator.read(Path(path).read_bytes()) as photo:
            preview = gr.update(value=_small(photo.image), visible=True)
            small = _small(photo.image)
            if locator.outdated:  # the map must show the tiles of the index that answered
                locator.reload()
            answer, index = locator.ask(photo, question, name)
        answer = replace(answer, notes=words.page_notes(answer.notes))
        pictures = index.thumbnails([place.tile_id for place in answer.places])
    except (GenGeoError, BudgetError) as error:
        return _only(words.failure(f"{name}: {error}"), preview)
    banner = words.answer(answer, question)
    if not answer.places:
        return _only(banner, preview)
    found = [replace(answer, photo=path)]  # the map reads the photo again
    banner += words.downloads(answers_map(found, index, locator.caveat), to_geojson([answer], locator.caveat))
    frame = map_frame(answers_map(found, index), MAP_HEIGHT)  # the page has said the caveat
    state = Shown(answer.places, see(locator.encoder.encoder, small, "ground"), pictures)
    gallery = [(read_photo(pictures[place.tile_id]), words.caption(place)) for place in state.with_picture]
    row = gr.update(value=gallery, visible=bool(gallery), selected_index=0 if gallery else None)
    shown = gr.update(visible=True)
    return [preview, banner, shown, frame, row, *_seen(locator, state, 0), state]


def _only(banner: str, preview: Any = None) -> list[Any]:
    """The page with a message alone."""
    hidden = gr.update(visible=False)
    return [
        preview or gr.update(value=None, visible=False),
        banner,
        hidden,
        "",
        None,
        "",
        *[None] * 3,
        hidden,
        *[None] * 4,
    ]


def _question(
    top: float, near: str, radius: str, gps: bool, kind: str, fov: float, heading: str, threshold: float
) -> LocateQuery:
    """The settings as the locator wants them."""
    near = (near or "").strip()
    length = parse_metres(radius or "") if near or gps else 0.0
    if near.count(",") < 2:
        near = near and f"{near},{length}m"
    place = parse_near(near) if near else None
    stated = HEADINGS[heading] if kind == PANORAMA else None  # the field is hidden for other kinds
    camera = parse_camera({AS_FILE: None, PANORAMA: 360.0, ORDINARY: float(fov)}[kind], stated)
    return LocateQuery(int(top), place, length if gps else None, True, float(threshold), camera)


def _chooser(locator: Locator) -> Callable[[Shown | None, gr.SelectData], list[Any]]:
    """What happens when a tile is clicked."""

    def choose(state: Shown | None, event: gr.SelectData) -> list[Any]:
        return [gr.skip()] * 8 if state is None else _seen(locator, state, int(event.index))

    return choose


def _seen(locator: Locator, state: Shown, number: int) -> list[Any]:
    """Title, photo, tile and the pictures that tell why, for the tile at a position of the row."""
    if number >= len(state.with_picture):
        tile = Seen(note="The index keeps no pictures of its tiles, so only the photo can be looked at.")
        which = ""
    else:
        place = state.with_picture[number]
        tile = see(locator.encoder.encoder, read_photo(state.pictures[place.tile_id]), "aerial")
        which = f"place {place.rank}"
    return [
        words.kept(which, state.photo.note or tile.note),
        gr.update(value=state.photo.picture, visible=state.photo.picture is not None),
        gr.update(value=tile.picture, visible=tile.picture is not None, label=f"Tile of {which}"),
        *_why(locator, state, number, tile),
    ]


def _why(locator: Locator, state: Shown, number: int, tile: Seen) -> list[Any]:
    """Which parts agree; whether and why the best place rather than this one; where the clusters look in both views."""
    versus = None
    if 0 < number < len(state.with_picture):
        places = state.with_picture
        best = see(locator.encoder.encoder, read_photo(state.pictures[places[0].tile_id]), "aerial")
        names = (f"place {places[0].rank}", f"place {places[number].rank}")
        versus = contrast(state.photo, best, tile, names)
    shown = gr.update(visible=versus is not None)
    return [agreement(state.photo, tile), shown, versus, clusters(state.photo), clusters(tile)]


def _small(image: Image.Image) -> Image.Image:
    """The image at the size of the page."""
    copy = image.copy()
    copy.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    return copy

"""The page of `gengeo app`: from an uploaded photo to places on a map, their tiles, and attributions of both images.

The page works without internet: no script, font or tile is loaded from elsewhere, and the photo does not leave the
machine that runs the page.
"""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import of gradio, which reads it

import gradio as gr
from fastapi import FastAPI
from PIL import Image

from gengeo_hf.common.camera import parse_camera
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.units import parse_metres, parse_near
from gengeo_hf.localization.localizer import Place, to_geojson
from gengeo_hf.localization.maps import answers_map, map_frame
from gengeo_hf.serving import fragments, server
from gengeo_hf.serving.decoding import BudgetError
from gengeo_hf.serving.heatmaps import (
    ImageAttribution,
    attribute_image,
    cluster_picture,
    match_picture,
    preference_picture,
)
from gengeo_hf.serving.locator import LocateQuery, Locator, read_photo
from gengeo_hf.serving.page_uploads import UploadPathsMiddleware, uploads_directory
from gengeo_hf.serving.server import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAP_HEIGHT = 520  # pixels
MAX_EXAMPLES = 6
SHOWN_PIXELS = 1024  # longest side of pictures on the page
MAX_FILE = "40mb"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")  # the default fonts of gradio are downloaded
STYLE = Path(__file__).parents[1] / "assets" / "page.css"
AS_FILE, PANORAMA, ORDINARY = KINDS = ("as the file states", "panorama", "ordinary photo")
FROM_FILE = "as the file states, else north"
NORTH = "north"
HEADINGS: dict[str, float | str] = {FROM_FILE: "exif", NORTH: 0.0, "unknown: try eight directions": "unknown"}
KEEP_FILES_S = 3600  # seconds after which uploads are deleted
SCROLL_TO_ANSWER = "() => document.getElementById('answer').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
# For screen readers: announces answers and sets the alternative texts of pictures; gradio has no option for either.
SCREEN_READER_SCRIPT = """() => {
  document.getElementById('answer').setAttribute('aria-live', 'polite');
  const texts = {
    'preview': 'your photo', 'kept-photo': 'heat map: which parts of your photo went into its descriptor',
    'kept-tile': 'heat map: which parts of the chosen aerial tile went into its descriptor',
    'agreement': 'photo and tile, with lines between the parts that match',
    'contrast': 'photo, best tile and chosen tile, with the parts that favour each tile',
    'clusters': 'heat maps: which parts of the image each cluster of the model uses',
    'tiles': 'aerial tile', 'examples': 'example photo',
  };
  const setTexts = () => {
    for (const [id, text] of Object.entries(texts))
      document.querySelectorAll('#' + id + ' img').forEach((image, row) => {
        image.alt = id === 'tiles' || id === 'examples' ? text + ' ' + (row + 1) : text;
      });
  };
  new MutationObserver(setTexts).observe(document.body, {childList: true, subtree: true});
  setTexts();
}"""
GALLERY_OPTIONS: dict[str, Any] = {  # a row of pictures to click
    "show_label": False,
    "allow_preview": False,
    "object_fit": "cover",
    "buttons": [],
    "interactive": False,
    "height": "auto",
}
EVENT_OPTIONS: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


@dataclass
class PageState:
    """Results for one photo, kept while its places are clicked."""

    places: list[Place]
    photo: ImageAttribution
    pictures: dict[str, bytes] = field(default_factory=dict)  # JPEGs by tile id

    @property
    def with_picture(self) -> list[Place]:
        """Places whose tiles have a picture, in the order of the row of tiles."""
        return [place for place in self.places if place.tile_id in self.pictures]


def build_page(locator: Locator, examples: Sequence[Path] = ()) -> gr.Blocks:
    """Build the page, which is not yet served.

    Args:
        locator: Model and index.
        examples: Paths of example photos on the page.
    """
    with gr.Blocks(title="GenGeo: where was this photo taken?", delete_cache=(KEEP_FILES_S, KEEP_FILES_S)) as page:
        gr.HTML(fragments.heading(locator))
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
                banner = gr.HTML(fragments.welcome(), elem_id="answer")
                with gr.Column(visible=False) as results:
                    result = _results()
        state = gr.State(time_to_live=KEEP_FILES_S)
        event: dict[str, Any] = {
            "fn": lambda path, *values: _locate(locator, path, *values),
            "inputs": [photo, *settings],
            "outputs": [preview, banner, results, *result, state],
        }
        button.click(**event, api_name="locate", show_progress="minimal")
        photo.change(**event, **EVENT_OPTIONS).then(None, js=SCROLL_TO_ANSWER, **EVENT_OPTIONS)
        tiles, attributions = result[1], result[2:]
        tiles.select(_tile_handler(locator), state, attributions, **EVENT_OPTIONS)
        page.load(None, js=SCREEN_READER_SCRIPT, **EVENT_OPTIONS)
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
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        locator: Model and index.
        host: IP address or host name to listen on.
        port: TCP port; 0 chooses a free one.
        browser: Whether to open the page in a browser.
        examples: Paths of example photos; the first six are shown.
        access: Who may use the page; None allows loopback names and IP addresses.

    Raises:
        GenGeoError: The port is in use, or an example is not a photo.
    """
    access = access or Access()
    with uploads_directory() as uploads, server.listen(host, port) as (listening, address):
        app = page_app(build_page(locator, examples[:MAX_EXAMPLES]), uploads, access.root_path)
        print(f"the page is at {address}; stop it with Ctrl-C", flush=True)
        if browser:
            webbrowser.open(address)
        server.run(app, access, host, listening)


def page_app(page: gr.Blocks, uploads: Path, root_path: str = "") -> ASGIApp:
    """Make the page an ASGI application.

    Args:
        page: Page from `build_page`.
        uploads: Directory from `uploads_directory`.
        root_path: Path prefix that a proxy removes; empty without such a proxy.
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
    """Fields of the settings, in the order of the arguments of `_locate_query`."""
    calibrated = locator.localizer.calibration is not None
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        top = gr.Slider(1, 10, 5, step=1, label="Places", info="Largest number of places")
        near = gr.Textbox(
            "",
            label="Search only near",
            placeholder="60.1699, 24.9384",
            info="Latitude, longitude in degrees; or with a radius: 60.17,24.94,2km",
            max_lines=1,
            elem_id="near",
        )
        radius = gr.Textbox("2km", label="Radius", info="For example 500m or 2km", max_lines=1)
        gps = gr.Checkbox(label="Search only near the GPS position in the photo's file, where it has one")
        kind = gr.Radio(list(KINDS), value=AS_FILE, label="Kind of photo", info="A panorama shows all directions")
        fov = gr.Slider(
            10, 180, 65, step=1, label="Field of view", info="Degrees from the left to the right edge", visible=False
        )
        heading = gr.Radio(list(HEADINGS), value=FROM_FILE, label="Direction of the panorama's centre", visible=False)
        threshold = gr.Slider(
            0,
            1,
            fragments.LOW_CONFIDENCE if calibrated else 0,
            step=0.05,
            label="Minimum confidence",
            info='Below it, the answer is "Don\'t know"',
            visible=calibrated,
        )
        kind.change(
            lambda chosen: [gr.update(visible=chosen == ORDINARY), gr.update(visible=chosen == PANORAMA)],
            kind,
            [fov, heading],
            **EVENT_OPTIONS,
        )
    return [top, near, radius, gps, kind, fov, heading, threshold]


def _examples(paths: Sequence[Path], photo: gr.File) -> None:
    """A row of example photos; a click on a photo locates it."""
    gr.HTML(fragments.section("Example photos", "Click a photo to locate it."))
    thumbnails = [read_photo(path) for path in paths]
    for image in thumbnails:
        image.thumbnail((320, 320))
    row = gr.Gallery(thumbnails, columns=3, elem_id="examples", **GALLERY_OPTIONS)

    def choose(event: gr.SelectData) -> str:
        return str(paths[int(event.index)])

    row.select(choose, None, photo, **EVENT_OPTIONS)


def _results() -> list[Any]:
    """Components of the results: map, tiles, and the outputs of `_attribution_outputs`."""
    ground_map = gr.HTML(elem_id="map")
    gr.HTML(fragments.section("Best places", "Click a tile to see which parts of it and of the photo decided."))
    tiles = gr.Gallery(columns=5, elem_id="tiles", **GALLERY_OPTIONS)
    title = gr.HTML(elem_id="attribution")
    with gr.Row():
        photo = gr.Image(label="Photo", interactive=False, buttons=[], elem_id="kept-photo", min_width=240)
        tile = gr.Image(label="Tile", interactive=False, buttons=[], elem_id="kept-tile", min_width=240)
    with gr.Accordion("Which parts match", open=False, elem_id="agree"):
        figure = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], elem_id="agreement")
    with gr.Accordion("Why the best place scores higher than this one", open=False, elem_id="contrast") as other:
        versus = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"])
    with gr.Accordion("Which parts each cluster uses", open=False, elem_id="clusters"):
        maps = [gr.Image(show_label=False, interactive=False, buttons=["fullscreen"]) for _ in range(2)]
    return [ground_map, tiles, title, photo, tile, figure, other, versus, *maps]


def _locate(locator: Locator, path: str | None, *settings: Any) -> list[Any]:
    """Locate a photo: the new values of the outputs of `build_page`, in order."""
    if not path:
        return _message_only(fragments.welcome())
    name, preview = Path(path).name, None
    try:
        query = _locate_query(*settings)
        with locator.read(Path(path).read_bytes()) as photo:
            preview = gr.update(value=_resized(photo.image), visible=True)
            small = _resized(photo.image)
            if locator.outdated:  # the map must show the tiles of the index that answered
                locator.reload()
            answer, index = locator.locate(photo, query, name)
        answer = replace(answer, notes=fragments.page_notes(answer.notes))
        pictures = index.thumbnails([place.tile_id for place in answer.places])
    except (GenGeoError, BudgetError) as error:
        return _message_only(fragments.failure(f"{name}: {error}"), preview)
    banner = fragments.answer(answer, query)
    if not answer.places:
        return _message_only(banner, preview)
    found = [replace(answer, photo=path)]  # with the path from which the map reads the photo
    banner += fragments.downloads(answers_map(found, index, locator.caveat), to_geojson([answer], locator.caveat))
    frame = map_frame(answers_map(found, index), MAP_HEIGHT)  # without the caveat, which is in the head of the page
    state = PageState(answer.places, attribute_image(locator.encoder.encoder, small, "ground"), pictures)
    gallery = [(read_photo(pictures[place.tile_id]), fragments.caption(place)) for place in state.with_picture]
    row = gr.update(value=gallery, visible=bool(gallery), selected_index=0 if gallery else None)
    shown = gr.update(visible=True)
    return [preview, banner, shown, frame, row, *_attribution_outputs(locator, state, 0), state]


def _message_only(banner: str, preview: Any = None) -> list[Any]:
    """Values of the outputs of `build_page` that show a message and no results."""
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


def _locate_query(
    top: float, near: str, radius: str, gps: bool, kind: str, fov: float, heading: str, threshold: float
) -> LocateQuery:
    """Options of the localisation from the values of the settings."""
    near = (near or "").strip()
    length = parse_metres(radius or "") if near or gps else 0.0
    if near.count(",") < 2:
        near = near and f"{near},{length}m"
    place = parse_near(near) if near else None
    stated = HEADINGS[heading] if kind == PANORAMA else None  # the field is hidden for other kinds
    camera = parse_camera({AS_FILE: None, PANORAMA: 360.0, ORDINARY: float(fov)}[kind], stated)
    return LocateQuery(int(top), place, length if gps else None, True, float(threshold), camera)


def _tile_handler(locator: Locator) -> Callable[[PageState | None, gr.SelectData], list[Any]]:
    """Return the function that is called when a tile is clicked."""

    def choose(state: PageState | None, event: gr.SelectData) -> list[Any]:
        return [gr.skip()] * 8 if state is None else _attribution_outputs(locator, state, int(event.index))

    return choose


def _attribution_outputs(locator: Locator, state: PageState, index: int) -> list[Any]:
    """Heading, heat maps of photo and tile, and the pictures of `_comparison_outputs`, for a tile of the row."""
    if index >= len(state.with_picture):
        tile = ImageAttribution(note="The index stores no pictures of its tiles, so only the photo is shown.")
        place_name = ""
    else:
        place = state.with_picture[index]
        tile = attribute_image(locator.encoder.encoder, read_photo(state.pictures[place.tile_id]), "aerial")
        place_name = f"place {place.rank}"
    return [
        fragments.attribution_heading(place_name, state.photo.note or tile.note),
        gr.update(value=state.photo.picture, visible=state.photo.picture is not None),
        gr.update(value=tile.picture, visible=tile.picture is not None, label=f"Tile of {place_name}"),
        *_comparison_outputs(locator, state, index, tile),
    ]


def _comparison_outputs(locator: Locator, state: PageState, index: int, tile: ImageAttribution) -> list[Any]:
    """Pictures of matching parts, of the comparison with the best place (visibility and picture), and of clusters."""
    versus = None
    if 0 < index < len(state.with_picture):
        places = state.with_picture
        best = attribute_image(locator.encoder.encoder, read_photo(state.pictures[places[0].tile_id]), "aerial")
        names = (f"place {places[0].rank}", f"place {places[index].rank}")
        versus = preference_picture(state.photo, best, tile, names)
    shown = gr.update(visible=versus is not None)
    return [match_picture(state.photo, tile), shown, versus, cluster_picture(state.photo), cluster_picture(tile)]


def _resized(image: Image.Image) -> Image.Image:
    """A copy of the image at the size of the page."""
    copy = image.copy()
    copy.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    return copy

"""Curves and maps: the drawn data, limits, ticks and labels, against values computed by hand."""

import numpy as np
import pytest
from scipy.stats import norm

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import plots
from gengeo_hf.evaluation.distractors import DistractorCurve, GallerySize
from gengeo_hf.evaluation.pictures import COLOURS

from .formulas import wilson

METRE = np.pi / 180 * 6_371_008.8  # metres of one degree of latitude


def band(axes, number=0):
    """Edges of a filled band: x, lower and upper y."""
    vertices = axes.collections[number].get_paths()[0].vertices
    count = (len(vertices) - 3) // 2  # start, lower edge, end, upper edge from the right, start
    return vertices[1 : count + 1, 0], vertices[1 : count + 1, 1], vertices[count + 2 : -1, 1][::-1]


def ticks(axis):
    assert len(axis.get_ticklocs(minor=True)) == 0
    return list(axis.get_ticklocs()), [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_recall_curve_with_defaults_draws_shares_intervals_and_guessing_up_to_100():
    ranks = np.r_[np.zeros(40), np.full(20, 3), np.full(20, 60), np.full(20, 200)]
    figure = plots.recall_curve({"mine": ranks}, gallery_sizes={"mine": 50})
    (axes,) = figure.axes
    curve, guess = axes.lines
    ks, shares = curve.get_data()
    assert list(ks) == sorted(set(ks)) and ks[0] == 1 and ks[-1] == 100
    assert [100 * np.mean(ranks < k) for k in ks] == pytest.approx(list(shares))
    x, low, high = band(axes)
    expected = np.transpose([wilson(share / 100, 100, norm.ppf(0.975)) for share in shares])
    assert list(x) == list(ks)
    np.testing.assert_allclose([low, high], 100 * expected, rtol=1e-9)
    np.testing.assert_allclose(guess.get_ydata(), [min(100, 2 * k) for k in ks])  # k of 50 tiles
    assert guess.is_dashed() and not curve.is_dashed()
    assert axes.get_xlim() == (1, 100) and axes.get_ylim() == (0, 101) and axes.get_xscale() == "log"
    assert ticks(axes.xaxis) == ([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    assert legend(figure) == ["mine: R@1 40.0 %", "random guess, 50 tiles"]


def test_recall_curve_of_several_results_has_a_colour_each_and_one_line_of_guessing_for_each_size():
    ranks = {f"run {n}": np.arange(12) + n for n in range(7)}
    sizes = {name: 20 if n % 2 else 30 for n, name in enumerate(ranks)}
    figure = plots.recall_curve(ranks, gallery_sizes=sizes, most=6000)
    lines = figure.axes[0].lines
    colours = [line.get_color() for line in lines[:7]]
    assert len(set(colours)) == 6 and colours[6] == colours[0]  # six colours, then from the start
    assert len(lines) == 9 and len({line.get_color() for line in lines[7:]} - set(colours)) == 1
    assert legend(figure)[7:] == ["random guess, 20 tiles", "random guess, 30 tiles"]
    assert ticks(figure.axes[0].xaxis)[0] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    one = plots.recall_curve({"one": np.array([0, 1, 1])}, gallery_sizes={"one": 9}, most=1).axes[0]
    assert one.get_xlim() == (1, 2)  # an axis needs two values


def test_gallery_size_curve_draws_recall_and_interval_at_each_size():
    def curve(*sizes):
        rows = tuple(GallerySize(size, 1.0, recall, recall - 0.1, recall + 0.05) for size, recall in sizes)
        return DistractorCurve("far", 1, 0, 0, rows, "95 %")

    given = {"a": curve((60, 0.8), (600, 0.5)), "b": curve((200, 0.7), (20_000, 0.25))}
    figure = plots.gallery_size_curve(given)
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[60, 600], [200, 20_000]]
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], [[80, 50], [70, 25]])
    for number, low, high in ((0, [70, 40], [85, 55]), (1, [60, 15], [75, 30])):
        np.testing.assert_allclose(band(axes, number)[1:], [low, high])
    assert axes.lines[0].get_marker() == "o" and axes.lines[0].get_color() != axes.lines[1].get_color()
    assert ticks(axes.xaxis) == ([60, 100, 1000, 10_000, 20_000], ["60", "100", "1,000", "10,000", "20,000"])
    assert axes.get_ylim() == (0, 101) and axes.get_xscale() == "log" and legend(figure) == ["a", "b"]
    large = plots.gallery_size_curve({"a": curve((1, 0.8), (10**9, 0.5))}).axes[0]
    assert ticks(large.xaxis)[0] == [10**n for n in range(10)]


def test_error_curve_is_a_step_at_each_error_from_one_metre_to_beyond_the_largest():
    near, far = np.array([1.0, 0.5, np.nan, 40.0, np.inf]), np.array([3000.0, 2.0])
    figure = plots.error_curve({"near": near, "far": far})
    (axes,) = figure.axes
    first, second = axes.lines
    assert list(first.get_xdata()) == [1, 1, 1, 40, pytest.approx(3150)]  # 5 % beyond the largest error
    assert list(first.get_ydata()) == [50, 25, 50, 75, 75]  # of four known positions
    assert list(second.get_xdata()) == [1, 2, 3000, pytest.approx(3150)]
    assert list(second.get_ydata()) == [0, 50, 100, 100]
    assert first.get_drawstyle() == "steps-post" and axes.get_xscale() == "log"
    assert axes.get_xlim() == (1, pytest.approx(3150)) and axes.get_ylim() == (0, 101)
    assert ticks(axes.xaxis) == ([1, 10, 100, 1000], ["1 m", "10 m", "100 m", "1 km"])
    assert legend(figure) == ["near: median 20 m", "far: median 1,501 m"]
    short = plots.error_curve({"near": np.array([3.0]), "none": np.array([np.nan])})
    assert short.axes[0].get_xlim() == (1, 200) and legend(short) == ["near: median 3 m", "none: no positions"]
    assert list(short.axes[0].lines[1].get_ydata()) == [0, 0]
    around = plots.error_curve({"": np.array([2e7])}).axes[0]  # the other side of the earth
    assert ticks(around.xaxis)[1] == ["1 m", "10 m", "100 m", "1 km", "10 km", "100 km", "1000 km", "10000 km"]


def drawn(axes):
    """Lines, and positions of found, lost and wrong answers, of one panel."""
    lines, found, lost, wrong = axes.collections
    return lines.get_segments(), *(np.asarray(dots.get_offsets()) for dots in (found, lost, wrong))


def panel(east, north, to_east, to_north, error, lat=60.0, lon=25.0):
    """Map of positions given in metres from a corner."""
    north, to_north = (lat + np.asarray(values) / METRE for values in (north, to_north))
    wide = METRE * np.cos(np.radians((north.min() + north.max()) / 2))
    east, to_east = (lon + np.asarray(values) / wide for values in (east, to_east))
    (axes,) = plots.error_map(north, east, to_north, to_east, np.asarray(error, float)).axes
    return axes


def test_error_map_draws_positions_in_metres_from_the_middle():
    # Four queries in 1600 x 400 m; the third answer lies inside, the fourth too far north.
    east, north = np.array([0, 1600, 100, 300.0]), np.array([0, 100, 400, 50.0])
    to_east, to_north = east + np.array([0, 50, 500, 0]), north + np.array([10, 0, -300, 4000])
    axes = panel(east, north, to_east, to_north, [10, 50, 51, 4000])
    lines, found, lost, wrong = drawn(axes)
    np.testing.assert_allclose(found, [[-800, -200], [800, -100]], atol=0.01)  # 50 m is found, 51 m is not
    np.testing.assert_allclose(lost, [[-700, 200], [-500, -150]], atol=0.01)
    np.testing.assert_allclose(wrong, [[-200, -100]], atol=0.01)
    np.testing.assert_allclose(lines, [[[-700, 200], [-200, -100]]], atol=0.01)
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert (low, high) == (pytest.approx(-1.06 * 800), pytest.approx(1.06 * 800))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("m east of the middle", "m north")
    assert axes.get_title(loc="left") == "all queries: 2 found, 2 lost (1 answers outside this map)"
    assert legend(axes.figure) == ["found within 50 m", "lost", "wrong answer"]
    assert axes.get_aspect() == 1
    sizes = [dots.get_sizes()[0] for dots in axes.collections[1:]]
    assert sizes == [30, 36, 30]  # the crosses of lost queries are a little larger
    rgb = [tuple(int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in ("right", "wrong", "wrong")]
    edges = (
        axes.collections[1].get_facecolor(),
        axes.collections[2].get_facecolor(),
        axes.collections[3].get_edgecolor(),
    )
    assert [tuple(edge[0][:3]) for edge in edges] == [pytest.approx(colour) for colour in rgb]
    assert len(axes.collections[3].get_facecolor()) == 0  # answers are rings


@pytest.mark.parametrize(("reach", "unit", "word"), [(1999.5, 1, "m"), (2000.5, 1000, "km")])
def test_error_map_of_more_than_two_kilometres_is_in_kilometres(reach, unit, word):
    axes = panel([0, 10], [0, 2 * reach], [0, 10], [0, 2 * reach], [0, 0])
    np.testing.assert_allclose(drawn(axes)[1], np.array([[-5, -reach], [5, reach]]) / unit, rtol=1e-4)
    assert axes.get_ylim()[1] == pytest.approx(1.06 * reach / unit) and axes.get_ylabel() == f"{word} north"


def test_error_map_of_one_query_shows_a_thousandth_of_a_degree():
    axes = panel([0], [0], [0], [5], [5])
    assert axes.get_xlim() == (pytest.approx(-1.06 * METRE / 2000), pytest.approx(1.06 * METRE / 2000))
    np.testing.assert_allclose(drawn(axes)[1], [[0, 0]], atol=1e-6)


def test_error_map_without_a_known_error_raises_an_error():
    unknown = np.array([np.nan, np.inf])
    with pytest.raises(GenGeoError, match="no query has a known error in metres"):
        plots.error_map(*np.ones((4, 2)), unknown)


def test_error_map_around_the_world_measures_from_the_first_query():
    lon = np.array([0.0, 179.5, -179.5, 90.0])
    (axes,) = plots.error_map(np.zeros(4), lon, np.zeros(4), lon, np.zeros(4)).axes
    np.testing.assert_allclose(drawn(axes)[1][:, 0], lon * METRE / 1000, atol=1e-6)


def test_error_map_of_many_queries_draws_small_dots_and_at_most_300_lines():
    side = np.linspace(0, 1000, 400)
    axes = panel(side, side, side[::-1], side, np.full(400, 100.0))
    assert len(axes.collections[0].get_segments()) == 300
    assert [dots.get_sizes()[0] for dots in axes.collections[1:]] == [15, 18, 15]
    side = np.linspace(0, 1000, 4000)
    axes = panel(side, side, side, side, np.zeros(4000))
    assert [dots.get_sizes()[0] for dots in axes.collections[1:]] == [2, pytest.approx(2.4), 2]


def test_error_map_has_at_most_four_panels_of_the_largest_areas_two_in_a_row():
    counts = {"a": 2, "b": 6, "c": 3, "d": 5, None: 4, "e": 1}
    areas = [name for name, count in counts.items() for _ in range(count)]
    at, lon = np.linspace(60, 60.01, len(areas)), np.linspace(25, 25.01, len(areas))
    figure = plots.error_map(at, lon, at, lon, np.zeros(len(areas)), areas=areas)
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == [
        "b: 6 found",
        "d: 5 found",
        "all queries: 4 found",
        "c: 3 found",
    ]
    assert all(axes.get_subplotspec().get_gridspec().get_geometry() == (2, 2) for axes in figure.axes)
    three = plots.error_map(at, lon, at, lon, np.full(len(at), 30.0), areas=areas, panels=3, right_m=20).axes
    assert [axes.get_visible() for axes in three] == [True, True, True, False]
    assert legend(three[0].figure)[0] == "found within 20 m" and "6 lost" in three[0].get_title(loc="left")


def test_figures_have_a_grid_below_the_data_and_no_frame():
    figure = plots.error_curve({"near": np.array([3.0])})
    (axes,) = figure.axes
    visible = {side: spine.get_visible() for side, spine in axes.spines.items()}
    assert visible == {"left": True, "bottom": True, "top": False, "right": False}
    assert axes.get_axisbelow() is True and axes.xaxis.get_gridlines()[0].get_visible()
    assert figure.legends[0].get_frame_on() is False
    assert plots.recall_curve({"": np.zeros(3)}, gallery_sizes={}).axes[0].collections[0].get_linewidth()[0] == 0

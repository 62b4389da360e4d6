from xml.etree import ElementTree

from ale_edit.demo.curves import draw_curves, read_curve, write_curves

SVG = "{http://www.w3.org/2000/svg}"


def _points(svg):
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [tuple(float(v) for v in point.split(",")) for point in line.attrib["points"].split()]
        for line in lines
    ]


def test_a_falling_loss_goes_right_and_down_within_its_panel():
    curve = [(100.0 * i, 2.0 / i) for i in range(1, 50)]
    (points,) = _points(draw_curves({"unet": curve}))
    assert len(points) == 49
    assert all(b[0] > a[0] and b[1] > a[1] for a, b in zip(points, points[1:], strict=False))
    assert all(0 <= x <= 420 and 0 <= y <= 220 for x, y in points)


def test_the_loss_axis_is_logarithmic():
    (points,) = _points(draw_curves({"a": [(1.0, 8.0), (2.0, 4.0), (3.0, 2.0)]}))
    first, second, third = (y for _, y in points)
    assert abs((second - first) - (third - second)) < 0.2


def test_a_long_curve_is_thinned_and_a_short_or_constant_one_is_drawn():
    (long,) = _points(draw_curves({"a": [(float(i), 1.0 / i) for i in range(1, 5001)]}))
    assert len(long) <= 300
    for curve in ([(5.0, 0.0)], [(1.0, 3.0), (2.0, 3.0)]):
        assert len(_points(draw_curves({"a": curve}))[0]) == len(curve)


def test_a_table_cut_short_by_an_interruption_is_read_up_to_the_cut(tmp_path):
    path = tmp_path / "text.csv"
    path.write_text("samples,seconds,loss\n64,1,2.5\n128,2,1.25\n192,", encoding="utf-8")
    assert read_curve(path) == [(64.0, 2.5), (128.0, 1.25)]
    svg = write_curves(tmp_path).read_text(encoding="utf-8")
    assert "text: loss against samples" in svg and len(_points(svg)) == 1


def test_what_a_resumed_run_did_again_is_drawn_once(tmp_path):
    path = tmp_path / "unet.csv"
    path.write_text(
        "samples,seconds,loss\n32,1,9\n64,2,8\n96,3,7\n64,2,6\n128,4,5\n", encoding="utf-8"
    )
    assert read_curve(path) == [(32.0, 9.0), (64.0, 6.0), (128.0, 5.0)]


def test_no_curve_at_all_is_an_empty_picture(tmp_path):
    assert _points(write_curves(tmp_path).read_text(encoding="utf-8")) == []

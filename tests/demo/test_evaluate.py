import shutil

import pytest

from ale_edit.demo.evaluate import PARTS_OF_CARD, _match, _measure, _rate, evaluate
from ale_edit.demo.judge import Reading
from ale_edit.demo.scenes import make_scene
from ale_edit.demo.train import main
from ale_edit.demo.weights import FOLDER

pytestmark = pytest.mark.comfy


def _reading(o, **changed):
    return Reading(**{"shape": o.shape, "color": o.color, "material": o.material, **changed},
                   probabilities={})  # fmt: skip


def test_patches_are_matched_to_the_objects_in_any_order():
    a, b = make_scene(4, 2).objects
    assert _match([_reading(b), _reading(a)], (a, b)) == [_reading(a), _reading(b)]
    assert _match([_reading(b)], (a, b)) == [None, _reading(b)]
    assert _match([], (a, b)) == [None, None]


def test_an_attribute_of_the_other_object_is_counted_as_such():
    scene = next(s for s in map(make_scene, range(50))
                 if s.objects[0].material != s.objects[1].material)  # fmt: skip
    a, b = scene.objects
    assert _measure(_reading(a), a, scene) == (1, 1, 1, 1, 0)
    assert _measure(_reading(a, color=b.color), a, scene) == (1, 0, 1, 0, 1)
    assert _measure(_reading(a, material=b.material), a, scene) == (1, 1, 0, 0, 1)
    free = next(c for c in ("red", "green", "blue") if c not in (a.color, b.color))
    assert _measure(_reading(a, color=free), a, scene) == (1, 0, 1, 0, 0)
    assert _measure(None, a, scene) == (0, 0, 0, 0, 0)


def test_a_rate_has_the_width_of_its_sampling_error():
    mean, width = _rate([0.0, 1.0] * 200).split(" ±")
    assert float(mean) == 0.5
    assert float(width) == pytest.approx(1.96 * 0.5 / 20, abs=0.005)
    assert _rate([1.0] * 10) == "1.000 ±0.000"


def test_figures_of_some_parts(capsys):
    parts = ["files", "ground-truth", "region-control"]
    assert main(["--evaluate", *parts, "--scenes", "1"]) == 0
    text = capsys.readouterr().out
    assert "unet.safetensors" in text and "autoencoder" in text
    assert all(f"| {row} |" in text for row in ("off", "on"))


def test_an_unknown_part_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="no figures called tea.*files, ground-truth"):
        evaluate(tmp_path, 1, ["tea"])


def test_a_missing_extra_file_is_named_with_the_cure(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(FOLDER, folder)
    (folder / "lcm.safetensors").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"lcm.safetensors is missing"):
        evaluate(folder, 1, ["lcm"])
    assert "lcm" in PARTS_OF_CARD

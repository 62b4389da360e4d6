import pytest

from ale_edit.demo.gallery import gallery, write_gallery
from ale_edit.demo.scenes import BACKGROUNDS, MATERIALS


def test_the_gallery_names_every_material_and_background():
    image, labels = gallery()
    said = {text.split()[-1] for _, _, text in labels}
    assert said == {*MATERIALS, *BACKGROUNDS}
    height, width, _ = image.shape
    assert all(0 <= x < width and 0 <= y < height for x, y, _ in labels)
    for _, y, _ in labels:
        assert image[y : y + 16].min() == 1  # labels stand on white


def test_the_gallery_is_written_as_a_picture(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    path = write_gallery(tmp_path / "new" / "world.png")
    with Image.open(path) as picture:
        assert picture.size == (gallery()[0].shape[1], gallery()[0].shape[0])

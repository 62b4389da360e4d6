from dataclasses import asdict
from itertools import combinations, product

import pytest

from ale_edit.demo.scenes import (
    CHECK_SEEDS,
    COLORS,
    MATERIALS,
    SHAPES,
    TABLE_SEEDS,
    TRAINING_SEEDS,
    TUNING_SEEDS,
    is_held_out,
    make_scene,
)


def test_a_seed_always_gives_the_same_scene():
    first = make_scene(0)
    assert asdict(first) == asdict(make_scene(0))
    assert [(o.shape, o.color, o.material) for o in first.objects] == SCENE_0
    assert first != make_scene(1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_objects_differ_and_neither_touch_nor_leave_the_image(count):
    for seed in range(40):
        objects = make_scene(seed, count).objects
        assert len({o.shape for o in objects}) == len({o.color for o in objects}) == count
        for o in objects:
            assert all(o.size < c < 1 - o.size for c in o.centre)
        for a, b in combinations(objects, 2):
            gap = sum((p - q) ** 2 for p, q in zip(a.centre, b.centre, strict=True)) ** 0.5
            assert gap > a.size + b.size


def test_a_scene_without_objects_is_its_background():
    assert make_scene(3, 0).objects == ()


def test_five_objects_are_refused():
    with pytest.raises(ValueError, match="0 to 4 objects, 5 were asked for. Ask for one"):
        make_scene(0, 5)


def test_at_least_15_percent_of_triples_are_held_out_but_every_pair_is_trained():
    triples = list(product(SHAPES, COLORS, MATERIALS))
    trained = [t for t in triples if not is_held_out(*t)]
    assert 1 - len(trained) / len(triples) >= 0.15
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(t[i], t[j]) for t in trained} == {(t[i], t[j]) for t in triples}


def test_scenes_keep_to_the_triples_asked_for():
    for seed in range(30):
        trained, held_out = make_scene(seed), make_scene(seed, triples="held_out")
        assert not any(is_held_out(o.shape, o.color, o.material) for o in trained.objects)
        assert all(is_held_out(o.shape, o.color, o.material) for o in held_out.objects)


def test_published_tuning_checking_and_training_seeds_are_apart():
    ranges = (TABLE_SEEDS, TUNING_SEEDS, CHECK_SEEDS, TRAINING_SEEDS)
    assert all(a.stop <= b.start for a, b in zip(ranges, ranges[1:], strict=False))


SCENE_0 = [("box", "pink", "brick"), ("star", "red", "wood")]

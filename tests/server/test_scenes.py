"""The main job's claim: both objects right in 8 of 10 scenes, where the naive edit leaks."""

import pytest

from ale_edit.bench.scenes import run_scenes, table

pytestmark = pytest.mark.slow


def test_two_objects_are_edited_without_leaks_where_the_naive_edit_leaks(server, tmp_path):
    results = run_scenes(server.url, range(10), tmp_path)
    print(f"\n{table(results)}")
    ale, naive = results["ALE edit"], results["naive edit"]
    assert ale["scenes_right"] >= 8
    assert naive["scenes_right"] < ale["scenes_right"]
    assert naive["objects_leaked"] >= 3 > ale["objects_leaked"]
    assert ale["background_psnr"] > naive["background_psnr"]

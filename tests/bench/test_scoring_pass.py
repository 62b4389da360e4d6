"""The second pass on images that are known: perfect edits, none at all, and exchanged ones."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.models import squeezenet1_1

from ale_edit.bench import judging, scoring_pass
from ale_edit.bench.dataset import Dataset, ImageEdit
from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import image_path, read_result
from ale_edit.bench.judging import judge_objects, load_mini_clip
from ale_edit.bench.main_job import to_picture, to_tensor
from ale_edit.bench.metric import Metric, Values
from ale_edit.bench.scoring_pass import AvailableMetrics, metrics_for
from ale_edit.demo.mini_clip import MiniClipNet
from ale_edit.demo.weights import read_weights, write_weights
from ale_edit.demo.world import make_scene, render
from ale_edit.scoring import structure
from ale_edit.tests.tiny_scores import DINO_WIDTH, last_keys, published_vit, transformers_vit

SEEDS = range(10_000, 10_004)


def score(
    dataset: Dataset, edits, method: str, metrics: AvailableMetrics, tell
) -> dict[str, Values]:
    out = dataset.folder.parent
    return scoring_pass.score(dataset, edits, method, metrics, out, tell)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("bench") / "demo" / "dataset"
    made = demo_dataset(folder, first_seed=SEEDS[0], scenes=len(SEEDS), instances=1)
    for edit in made.edits:
        save(made, edit, "perfect", wanted(edit))
        save(made, edit, "untouched", {})
        save(made, edit, "exchanged", exchanged(edit))
    return made


def wanted(edit: ImageEdit) -> dict[int, dict[str, str]]:
    return {o.number: o.asked for o in edit.objects}


def exchanged(edit: ImageEdit) -> dict[int, dict[str, str]]:
    """Every object gets what the next one was to get."""
    asked = [o.asked for o in edit.objects]
    turned = [*asked[1:], asked[0]]
    return {o.number: words for o, words in zip(edit.objects, turned, strict=True)}


def save(dataset: Dataset, edit: ImageEdit, method: str, looks: dict[int, dict[str, str]]) -> None:
    """A scene drawn with objects that look otherwise."""
    scene = make_scene(int(edit.image.removeprefix("scene")), 3)
    objects = list(scene.objects)
    for k, words in looks.items():
        named = {("shape" if name == "object" else name): word for name, word in words.items()}
        objects[k] = replace(objects[k], **named)
    image, _ = render(replace(scene, objects=tuple(objects)))
    path = image_path(dataset.folder.parent, method, edit.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_picture(image).save(path)


@pytest.fixture(scope="module")
def scored(dataset) -> dict[str, dict[str, Values]]:
    metrics, told = metrics_for(dataset), list[str]()
    methods = ("perfect", "untouched", "exchanged")
    found = {m: score(dataset, dataset.edits, m, metrics, told.append) for m in methods}
    assert not told
    return found


def mean(scored: dict[str, Values], figure: str, keep=lambda name: True) -> float:
    values = [v for name, column in scored.items() if keep(name) for v in column.get(figure, [])]
    return sum(values) / len(values)


def test_perfect_edits_are_right_and_leak_nothing(scored):
    perfect = scored["perfect"]
    for figure in ("object", "color", "material", "all", "all, trained", "all, held out"):
        assert mean(perfect, figure) > 0.9
    assert mean(perfect, "wrong, edited") < 0.06
    assert mean(perfect, "wrong, untouched") < 0.06


def test_without_any_edit_nothing_new_is_found_and_the_background_is_kept(scored):
    untouched = scored["untouched"]
    assert mean(untouched, "color") < 0.1 and mean(untouched, "all") < 0.1
    for figure in ("psnr", "psnr, PIE-Bench"):
        assert mean(untouched, figure) == pytest.approx(60.17, abs=0.01)
    assert mean(untouched, "mse") == 0 and mean(untouched, "ssim") == pytest.approx(1)


def test_exchanged_attributes_are_wrong_on_the_other_object(scored):
    def several(name: str) -> bool:
        return "-color-" in name and not name.endswith("-1-0")

    assert mean(scored["exchanged"], "wrong, edited", several) > 0.9
    assert mean(scored["exchanged"], "all", several) < 0.1
    assert mean(scored["exchanged"], "wrong, untouched") < 0.06


def test_wrong_attributes_are_counted_by_hand(dataset):
    edit = next(e for e in dataset.edits if e.edit_type == "color" and len(e.objects) == 2)
    image = dataset.images[edit.image]
    first, second = edit.objects
    (third,) = {0, 1, 2} - {first.number, second.number}
    found = [dict(o.attributes) for o in image.objects]
    found[first.number]["color"] = first.asked["color"]
    found[second.number]["color"] = first.asked["color"]  # leaked within
    found[third]["color"] = second.asked["color"]  # leaked without
    hits = judge_objects(edit, image, found, "held out")
    assert hits["all"] == [True, False] and hits["color"] == [True, False]
    assert hits["object"] == [True, True] and hits["material"] == []
    assert hits["wrong, edited"] == [False, True] and hits["wrong, untouched"] == [True]
    found[third]["color"] = image.objects[third].attributes["color"]
    assert judge_objects(edit, image, found, "held out")["wrong, untouched"] == [False]


def test_what_an_object_had_before_is_not_wrong_where_another_was_to_get_it(dataset):
    edit = next(e for e in dataset.edits if e.edit_type == "color" and len(e.objects) == 2)
    image = dataset.images[edit.image]
    first, second = edit.objects
    own = image.objects[first.number].attributes["color"]
    second = replace(second, asked={**second.asked, "color": own})
    edit = replace(edit, objects=(first, second))
    found = [dict(o.attributes) for o in image.objects]
    assert judge_objects(edit, image, found, "held out")["wrong, edited"] == [False, False]


def test_with_one_object_there_is_no_other_edited_one(scored, dataset):
    for edit in dataset.edits:
        values = scored["perfect"][edit.name]
        count = len(edit.objects)
        assert len(values["wrong, edited"]) == (count if count > 1 else 0)
        assert len(values["wrong, untouched"]) == 3 - count
        split = values["all, trained"] + values["all, held out"]
        assert sorted(split) == sorted(values["all"]) and len(split) == count


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: object) -> Values:
        self.calls += 1
        return {"calls": [1.0]}


def metrics(*ready: Metric) -> AvailableMetrics:
    return AvailableMetrics(ready, {})


def test_a_metric_is_added_later_and_nothing_is_computed_twice(dataset):
    edits, first, second = dataset.edits[:5], Counted(), Counted()
    one = Metric("one", "1", first)
    score(dataset, edits, "perfect", metrics(one), print)
    score(dataset, edits, "perfect", metrics(one, Metric("two", "1", second)), print)
    assert (first.calls, second.calls) == (5, 5)
    score(dataset, edits, "perfect", metrics(replace(one, version="2")), print)
    assert (first.calls, second.calls) == (10, 5)


def test_only_a_changed_image_is_scored_again(dataset):
    edits, counted = dataset.edits[:5], Counted()
    metric = metrics(Metric("changes", "1", counted))
    score(dataset, edits, "untouched", metric, print)
    save(dataset, edits[2], "untouched", wanted(edits[2]))
    score(dataset, edits, "untouched", metric, print)
    save(dataset, edits[2], "untouched", {})
    assert counted.calls == 6


def scores_file(dataset: Dataset, method: str) -> Path:
    return dataset.folder.parent / "scores" / f"{method}.json"


def test_damaged_and_missing_images_are_told_and_left_out(dataset):
    told, edits = [], dataset.edits[:4]
    for edit in edits[:3]:
        save(dataset, edit, "partly", {})
    image_path(dataset.folder.parent, "partly", edits[1].name).write_bytes(b"\x89PNG cut")
    found = score(dataset, edits, "partly", metrics(Metric("m", "1", Counted())), told.append)
    assert set(found) == {edits[0].name, edits[2].name}
    assert len(told) == 2 and "is damaged" in told[0]
    assert "1 of 4 images are not there" in told[1]


def test_a_broken_file_of_scores_is_told_and_made_again(dataset):
    counted, told = Counted(), []
    metric = metrics(Metric("broken", "1", counted))
    score(dataset, dataset.edits[:2], "exchanged", metric, print)
    scores_file(dataset, "exchanged").write_text('{"scene')
    score(dataset, dataset.edits[:2], "exchanged", metric, told.append)
    assert counted.calls == 4 and "is not JSON" in told[0]
    assert set(json.loads(scores_file(dataset, "exchanged").read_text())) == {
        e.name for e in dataset.edits[:2]
    }


def test_without_weights_te_and_ti_say_why(dataset, tmp_path):
    cosines, why = load_mini_clip(tmp_path)
    assert cosines is None and why.startswith("n/a: no mini CLIP weights")
    assert metrics_for(dataset).missing["lpips"] == "n/a: no LPIPS weights (--lpips FILE)"


@pytest.mark.comfy
def test_with_weights_te_and_ti_are_the_mini_clips(dataset, tmp_path, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MiniClipNet().eval()
    write_weights("text", read_weights("text"), tmp_path)
    write_weights("clip", net.state_dict(), tmp_path)
    monkeypatch.setattr(judging, "load_mini_clip", partial(load_mini_clip, tmp_path))
    monkeypatch.setattr(judging, "weights_key", lambda *_: "random")
    edits = [e for e in dataset.edits if len(e.objects) < 3][:6]
    metrics = metrics_for(dataset)
    assert "leakage" not in metrics.missing
    found = score(dataset, edits, "perfect", metrics, pytest.fail)
    cosines, _ = load_mini_clip(tmp_path)
    assert cosines is not None
    for edit in edits:
        image = to_tensor(read_result(image_path(dataset.folder.parent, "perfect", edit.name))[0])
        masks = [to_tensor(dataset.masks(edit.image)[o.number]) for o in edit.objects]
        outside = image * (1 - torch.stack(masks).amax(0))[..., None]
        each = [float(cosines(outside[None], [o.target])) for o in edit.objects]
        te = 100 * sum(max(c, 0) for c in each) / len(each)
        assert found[edit.name]["TE"] == [pytest.approx(te, abs=1e-3)]
        assert len(found[edit.name]["TI"]) == (len(edit.objects) > 1)
        assert len(found[edit.name]["TE of the source"]) == 1
        prompt = " and ".join(o.target for o in edit.objects)
        whole = 100 * max(float(cosines(image[None], [prompt])), 0)
        assert found[edit.name]["CLIP, whole"] == [pytest.approx(whole, abs=1e-3)]
        assert len(found[edit.name]["CLIP, objects"]) == len(found[edit.name]["CLIP, union"]) == 1


def test_with_a_backbone_lpips_is_scored(dataset, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    metrics = metrics_for(dataset, lpips=tmp_path / "squeeze.pth")
    edits = dataset.edits[:2]
    assert "lpips" not in metrics.missing
    same = score(dataset, edits, "untouched", metrics, pytest.fail)
    other = score(dataset, edits, "perfect", metrics, pytest.fail)  # soft edges differ
    for name in ("lpips", "lpips, PIE-Bench"):
        assert [v[name] for v in same.values()] == [[0.0]] * 2
        assert all(v[name][0] > 1e-5 for v in other.values())


def by_hand(vit: Any, source: Image.Image, edited: Image.Image, factor: float) -> float:
    """The structure distance by Pillow's pixels of double size and torch's cosine similarity."""
    found = []
    for picture in (source, edited):
        assert picture.size == (128, 128)
        pixels = F.interpolate(
            to_tensor(picture).movedim(-1, 0)[None] * factor,
            (224, 224),
            mode="bilinear",
            antialias=factor == 1,
        )
        mean, std = torch.tensor(structure.MEAN), torch.tensor(structure.STD)
        keys = last_keys(vit, (pixels - mean[:, None, None]) / std[:, None, None])
        found.append(F.cosine_similarity(keys[:, None], keys[None], dim=-1))
    return float(F.mse_loss(*found))


def test_with_dino_the_structure_distance_is_scored(dataset, tmp_path, monkeypatch):
    vit = transformers_vit()
    published_vit(vit, tmp_path)
    file, edits = tmp_path / "model.safetensors", dataset.edits[:2]
    with pytest.raises(ValueError, match=r"holds a ViT of .* \(8, 128, 3\).*defined by \(8, 768"):
        metrics_for(dataset, dino=file)
    monkeypatch.setattr(structure, "VIT_B8", (8, DINO_WIDTH, 3))
    metrics = metrics_for(dataset, dino=file)
    assert "structure" not in metrics.missing
    same = score(dataset, edits, "untouched", metrics, pytest.fail)
    other = score(dataset, edits, "perfect", metrics, pytest.fail)
    for name, factor in (("structure", 1), ("structure, PIE-Bench", 255)):
        assert [v[name] for v in same.values()] == [[0.0]] * 2
        for edit in edits:
            edited, _ = read_result(image_path(dataset.folder.parent, "perfect", edit.name))
            expected = by_hand(vit, dataset.picture(edit.image), edited, factor)
            assert other[edit.name][name] == [pytest.approx(expected, rel=1e-4, abs=1e-9)]
            assert expected > 1e-6


def test_a_file_that_is_not_dinos_is_refused_before_any_work(dataset, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "page.pth").write_bytes(b"<html>")
    for name in ("other.pth", "page.pth"):
        with pytest.raises(ValueError, match=r"does not hold the weights of DINO's .* Give dino_v"):
            metrics_for(dataset, dino=tmp_path / name)
    assert metrics_for(dataset).missing["structure"].endswith("(--dino FILE)")

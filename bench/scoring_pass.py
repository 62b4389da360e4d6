"""The second pass: images on disk become figures. It needs no ComfyUI server.

A data set of a world that the bench knows (worlds.py) is judged by that world's judges and CLIP;
any other by a CLIP of transformers, where a folder with one is given. Figures are kept in
out/scores/METHOD.json, edit by edit and metric by metric, beside the hash of the image and the
version of the metric: only what is missing or out of date is computed again, and a metric can be
added later.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch

from ..headless.pictures import crop_centre, write_whole
from ..scoring.leakage import Cosines, leakage
from ..scoring.lpips import background_lpips, pie_bench_lpips
from ..scoring.lpips_network import LpipsNetwork
from ..scoring.preservation import background_scores, pie_bench_scores
from ..scoring.similarity import edit_similarity
from ..scoring.structure import DinoKeys, Scale, structure_distance
from .clip_network import ClipNetwork
from .dataset import Dataset, ImageEdit
from .dino_network import load_dino
from .editing import image_path, read_result
from .lpips_network import load_lpips
from .main_job import to_tensor
from .metric import Metric, Values, Views
from .weight_files import version_of
from .worlds import World, world_of

SAVE_EVERY = 100


@dataclass(frozen=True)
class AvailableMetrics:
    """What can be scored here, and what cannot, with the reason."""

    ready: tuple[Metric, ...]
    missing: dict[str, str]


def metrics_for(
    dataset: Dataset,
    clip: Path | None = None,
    lpips: Path | None = None,
    dino: Path | None = None,
) -> AvailableMetrics:
    """All metrics for a data set. `clip`: a folder of a CLIP model; `lpips`, `dino`: files of the
    backbones' weights."""
    world = world_of(dataset)
    ready, missing = [Metric("background", "2", _background_values)], {}
    ready += world.metrics(dataset) if world else []
    cosines, version = _cosines(world, clip)
    if cosines is None:
        missing["leakage"] = version
    else:
        ready.append(
            Metric("leakage", f"{version} 3", lambda *args: _leakage_values(cosines, *args))
        )
    if lpips is None:
        missing["lpips"] = "n/a: no LPIPS weights (--lpips FILE)"
    else:
        network = load_lpips(lpips)
        ready.append(
            Metric("lpips", version_of([lpips]), lambda *args: _lpips_values(network, *args))
        )
    if dino is None:
        missing["structure"] = "n/a: no weights of DINO's ViT-B/8 (--dino FILE)"
    else:
        keys = load_dino(dino)
        ready.append(
            Metric("structure", version_of([dino]), lambda *args: _structure_values(keys, *args))
        )
    left_out = world.leaves_out(dataset) if world else frozenset[str]()
    return AvailableMetrics(
        tuple(metric for metric in ready if metric.name not in left_out),
        {name: why for name, why in missing.items() if name not in left_out},
    )


def _cosines(world: World | None, clip: Path | None) -> tuple[Cosines | None, str]:
    """The CLIP for TE and TI with its version; or None and why there is none."""
    if clip is not None:
        network = ClipNetwork.load(clip)
        return network.cosines, network.version
    if world is None:
        return None, (
            "n/a: no CLIP model was given (--clip DIR, a folder as transformers saves it, such as "
            "one of openai/clip-vit-large-patch14)"
        )
    return world.cosines()


def _background_values(_dataset: Dataset, edit: ImageEdit, views: Views) -> Values:
    pictures = (views.source, views.edited, views.background(edit))
    of_pixels, of_pie = background_scores(*pictures), pie_bench_scores(*pictures)
    named = {
        **asdict(of_pixels),
        **{f"{name}, PIE-Bench": value for name, value in asdict(of_pie).items()},
    }
    return {name: _list_if_known(value) for name, value in named.items()}


def _leakage_values(cosines: Cosines, _dataset: Dataset, edit: ImageEdit, views: Views) -> Values:
    """TE, TI and similarities, of the edited image and of the source; n/a (NaN) are TI of one
    object, and TE without any background. A removed object has no target; its place counts as
    background."""
    kept = [k for k, o in enumerate(edit.objects) if o.target]
    if not kept:
        return {}
    targets, masks = [edit.objects[k].target for k in kept], views.own(edit)[kept]
    prompt = edit.target_prompt or " and ".join(targets)
    values = {}
    for image, suffix in ((views.edited, ""), (views.source, " of the source")):
        found = leakage(cosines, image, masks, targets)
        similar = edit_similarity(cosines, image, masks, prompt, found)
        figures = {"TE": found.te, "TI": found.ti}
        figures |= {f"CLIP, {name}": value for name, value in asdict(similar).items()}
        values |= {f"{name}{suffix}": _list_if_known(value) for name, value in figures.items()}
    return values


def _lpips_values(
    network: LpipsNetwork, _dataset: Dataset, edit: ImageEdit, views: Views
) -> Values:
    pictures = (views.source, views.edited, views.background(edit))
    parts = (network.features, network.heads)
    return {
        "lpips": _list_if_known(background_lpips(*parts, *pictures)),
        "lpips, PIE-Bench": _list_if_known(pie_bench_lpips(*parts, *pictures)),
    }


def _structure_values(keys: DinoKeys, _dataset: Dataset, _edit: ImageEdit, views: Views) -> Values:
    """Of whole images; in PIE-Bench's way with the input scale of its code."""
    scales: dict[str, Scale] = {"": "corrected", ", PIE-Bench": "as published"}
    return {
        f"structure{suffix}": [structure_distance(keys, views.source, views.edited, scale)]
        for suffix, scale in scales.items()
    }


def _list_if_known(value: float) -> list[float]:
    return [] if isnan(value) else [value]


# -- the pass --------------------------------------------------------------------------------------


def score(
    dataset: Dataset,
    edits: Sequence[ImageEdit],
    method: str,
    metrics: AvailableMetrics,
    out: Path,
    tell: Callable[[str], None],
) -> dict[str, Values]:
    """Figures of each edit that has an undamaged image below `out`; the others are left out, and
    reported."""
    path = out / "scores" / f"{method}.json"
    kept = _read_scores(path, tell)
    scored, changed, absent = {}, 0, 0
    for edit in edits:
        file = image_path(out, method, edit.name)
        try:
            picture, _ = read_result(file)
        except FileNotFoundError:
            absent += 1
            continue
        except ValueError as error:
            tell(str(error))
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        entry: dict[str, Any] = kept.get(edit.name, {})
        if entry.get("image") != digest:
            entry = {"image": digest}
        todo = [m for m in metrics.ready if entry.get(m.name, {}).get("version") != m.version]
        if todo:
            views = _views(dataset, edit, picture)
            for metric in todo:
                values = metric.values(dataset, edit, views)
                entry[metric.name] = {"version": metric.version, "values": values}
            kept[edit.name] = entry
            changed += 1
            if changed % SAVE_EVERY == 0:
                _save(path, kept)
        scored[edit.name] = {
            name: v for m in metrics.ready for name, v in entry[m.name]["values"].items()
        }
    if changed:
        _save(path, kept)
    if absent:
        tell(f"{method}: {absent} of {len(edits)} images are not there; they are left out.")
    return scored


def _views(dataset: Dataset, edit: ImageEdit, picture: Any) -> Views:
    size = picture.size
    masks = [to_tensor(crop_centre(mask, size)) for mask in dataset.frame_masks(edit.image)]
    source = crop_centre(dataset.picture(edit.image), size)
    return Views(to_tensor(source), to_tensor(picture), torch.stack(masks))


def _read_scores(path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        tell(f"{path} is not JSON ({error}): the scores are computed again.")
        return {}


def _save(path: Path, kept: dict[str, Any]) -> None:
    write_whole(path, json.dumps(kept).encode("utf-8"))

"""Detector and segmenter: memory management, remembered results, out of memory, half precision."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import pytest
import torch
from torch import Tensor

from ale_edit.host.segmenting import grounding
from ale_edit.host.segmenting.grounding import GroundingDinoDetector, SamSegmenter
from ale_edit.regions import bert_tokens, grounding_dino, sam
from ale_edit.tests.tiny_grounding import tiny_original, tiny_sam

BOXES = torch.tensor([[5.0, 6.0, 40.0, 30.0], [30.0, 2.0, 55.0, 30.0]])


@pytest.fixture(scope="module")
def detector_model() -> Any:
    return grounding_dino.load_original(tiny_original(), "tiny.pth")


@pytest.fixture
def detector(detector_model: Any) -> GroundingDinoDetector:
    return GroundingDinoDetector(detector_model, bert_tokens.load_tokenizer(), "tiny.pth")


def segmenter(dtype: torch.dtype = torch.float32) -> SamSegmenter:
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    return SamSegmenter(sam.load_original(tiny_sam().state_dict(), "tiny.pth"), "tiny.pth", dtype)


def strip(seed: int = 0) -> Tensor:
    """A picture so long that a detector sees few pixels of it."""
    return torch.rand(6, 200, 3, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0) -> Tensor:
    return torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(seed))


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    calls: list[int] = []
    whole = getattr(module, name)

    def count(*args: Any) -> Any:
        calls.append(len(args[-1]) if isinstance(args[-1], Tensor) else 1)
        return whole(*args)

    monkeypatch.setattr(module, name, count)
    return calls


def test_the_models_are_in_comfyuis_memory_management(detector: GroundingDinoDetector) -> None:
    detector.detect(strip(), ("cat",))
    held = [loaded.model for loaded in mm.current_loaded_models]
    assert detector._patcher in held
    mm.unload_all_models()
    assert detector._patcher not in [loaded.model for loaded in mm.current_loaded_models]
    assert detector.detect(strip(1), ("cat",)).scores.shape[1] == 1


def test_a_model_is_loaded_whole_or_not_at_all(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a graphics card with little memory left: parts of transformers' models left behind on
    the CPU would meet tensors of the card."""
    mm.unload_all_models()
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(mm, "get_free_memory", lambda *args, **kwargs: 2**20)
    patcher = detector._patcher
    grounding.load_whole(patcher, 0)
    assert patcher.loaded_size() == patcher.model_size()
    freed = patcher.partially_unload(patcher.offload_device, patcher.model_size() // 2)
    assert freed > 0 and patcher.loaded_size() < patcher.model_size()  # for another model
    grounding.load_whole(patcher, 0)
    assert patcher.loaded_size() == patcher.model_size()


def test_the_same_picture_and_phrases_are_looked_at_once(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, grounding_dino, "detect")
    first = detector.detect(strip(), ("cat", "dog"))
    assert detector.detect(strip().clone(), ("cat", "dog")) is first
    assert len(calls) == 1
    detector.detect(strip(), ("cat",))
    changed = strip()
    changed[3, 3, 0] += 0.01
    detector.detect(changed, ("cat", "dog"))
    assert len(calls) == 3


def test_other_boxes_of_the_same_picture_need_no_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = segmenter()
    embeds, masks = (counted(monkeypatch, sam, name) for name in ("embed", "predict_masks"))
    first = given.segment(picture(), BOXES)
    assert torch.equal(given.segment(picture(), BOXES), first)
    assert (len(embeds), masks) == (1, [2])
    assert torch.equal(given.segment(picture(), BOXES[:1]), first[:1])
    assert (len(embeds), masks) == (1, [2, 1])
    given.segment(picture(1), BOXES)
    assert len(embeds) == 2


def test_a_hundred_phrases_are_all_looked_for(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, grounding_dino, "detect")
    phrases = tuple(f"red-colored paprika number {i}" for i in range(100))
    found = detector.detect(strip(), phrases)
    assert found.scores.shape == (20 * len(calls), 100) and len(calls) == 4
    assert bool((found.scores.amax(dim=0) > 0).all())


def out_of_memory(*_: Any) -> Any:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_boxes_go_in_smaller_batches_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = segmenter().segment(picture(), BOXES.repeat(3, 1))
    made = sam.predict_masks
    sizes: list[int] = []

    def only_two(model: Any, features: Any, boxes: Tensor) -> Any:
        sizes.append(len(boxes))
        return made(model, features, boxes) if len(boxes) <= 2 else out_of_memory()

    monkeypatch.setattr(sam, "predict_masks", only_two)
    assert torch.equal(segmenter().segment(picture(), BOXES.repeat(3, 1)), whole)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def test_when_one_box_does_not_fit_other_models_go_and_then_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freed: list[int] = []
    unload = mm.unload_all_models
    monkeypatch.setattr(mm, "unload_all_models", lambda: (freed.append(1), unload()))
    monkeypatch.setattr(sam, "predict_masks", out_of_memory)
    with pytest.raises(ValueError, match="Segment Anything .tiny.pth.: out of memory.*Choose a sm"):
        segmenter().segment(picture(), BOXES)
    assert freed == [1]


def test_weights_that_do_not_fit_get_the_same_error(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mm, "load_models_gpu", lambda *args, **kwargs: out_of_memory())
    with pytest.raises(ValueError, match="GroundingDINO .tiny.pth.: out of memory, also with all"):
        detector.detect(strip(), ("cat",))
    with pytest.raises(ValueError, match="Segment Anything .tiny.pth.: out of memory, also with"):
        segmenter().segment(picture(), BOXES)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_every_devices_way_to_be_out_of_memory_is_known(error: Exception) -> None:
    assert grounding.is_out_of_memory(error)


def test_a_run_can_be_stopped_between_passes_and_batches(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = segmenter()
    for run in (
        lambda: detector.detect(strip(), ("cat",)),
        lambda: given.segment(picture(), BOXES),
    ):
        mm.interrupt_current_processing(True)
        with pytest.raises(mm.InterruptProcessingException):
            run()
        run()


def test_a_detector_tries_again_with_other_models_unloaded(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tries = grounding_dino.detect, []

    def second_time(*args: Any) -> Any:
        tries.append(1)
        return made(*args) if len(tries) > 1 else out_of_memory()

    monkeypatch.setattr(grounding_dino, "detect", second_time)
    assert detector.detect(strip(), ("cat",)).boxes.shape == (20, 4)
    monkeypatch.setattr(grounding_dino, "detect", out_of_memory)
    with pytest.raises(ValueError, match="GroundingDINO .tiny.pth.: out of memory, also with all"):
        detector.detect(strip(1), ("cat",))


def test_another_error_is_not_taken_for_memory(
    detector: GroundingDinoDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(grounding_dino, "detect", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        detector.detect(strip(), ("cat",))


def test_in_half_precision_the_encoder_alone_is_half_and_masks_stay_close() -> None:
    half = segmenter(torch.float16)
    network = half._patcher.model.network
    assert {p.dtype for p in network.vision_encoder.parameters()} == {torch.float16}
    assert {p.dtype for p in network.mask_decoder.parameters()} == {torch.float32}
    agreement = (half.segment(picture(), BOXES) == segmenter().segment(picture(), BOXES)).float()
    assert agreement.mean() > 0.99


def test_an_encoder_that_overflows_in_half_precision_is_used_in_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half = segmenter(torch.float16)
    weight = half._patcher.model.network.vision_encoder.neck.conv1.weight
    weight.data.copy_((weight.data.float() * 3e5).clamp(-6e4, 6e4))
    masks = half.segment(picture(), BOXES)
    assert "tiny.pth overflows in fp16" in caplog.text
    assert {p.dtype for p in half._patcher.model.network.parameters()} == {torch.float32}
    assert masks.shape == (2, 40, 60)


def test_auto_precision_is_that_of_comfyui() -> None:
    expected = torch.float16 if mm.should_use_fp16(mm.get_torch_device()) else torch.float32
    assert grounding.dtype_of("auto") == expected
    assert grounding.dtype_of("fp16") == torch.float16
    assert grounding.dtype_of("fp32") == torch.float32

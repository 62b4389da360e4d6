from typing import cast

import numpy as np
import pytest
import torch

from ale_edit.demo.caption_sampler import CaptionSampler
from ale_edit.demo.mini_clip import MiniClip, MiniClipNet
from ale_edit.demo.scenes import BACKGROUNDS, COLORS, MATERIALS, SHAPES
from ale_edit.demo.train_mini_clip import contrast_loss, is_true

pytestmark = pytest.mark.comfy


def _labels(*objects):
    row = np.full((4, 3), -1)
    for k, (shape, color, material) in enumerate(objects):
        row[k] = SHAPES.index(shape), COLORS.index(color), MATERIALS.index(material)
    return row


@pytest.fixture(scope="module")
def sampler():
    from ale_edit.demo.models import tokenize

    return CaptionSampler(tokenize)


def test_truth_is_what_the_labels_say(sampler):
    red_ball, red_box = ("ball", "red", "wood"), ("box", "red", "wood")
    labels = np.stack(
        [_labels(red_ball), _labels(red_ball, red_box), _labels(("ball", "blue", "wood"))]
    )
    backgrounds = np.zeros(3, dtype=int)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        captions = sampler.draw(labels, backgrounds, rng)
        true = is_true(captions, torch.from_numpy(labels), torch.from_numpy(backgrounds))
        assert true.diagonal().all()
        for i, row in enumerate(true.tolist()):
            said = captions.contents[i]
            names_box = bool(said[SHAPES.index("box"), 0])
            names_ball = bool(said[SHAPES.index("ball"), 0])
            color = int(said[SHAPES.index("ball"), 1])
            expected = [
                (not names_box or "box" in scene)
                and (not names_ball or color in (len(COLORS), COLORS.index(scene["ball"])))
                for scene in (
                    {"ball": "red"},
                    {"ball": "red", "box": "red"},
                    {"ball": "blue"},
                )
            ]
            assert row == expected
            seen.add(tuple(row))
    assert len(seen) >= 4


def test_a_background_that_is_not_shown_makes_a_caption_untrue(sampler):
    labels = np.stack([_labels(("ball", "red", "wood"))] * 2)
    rng = np.random.default_rng(1)
    for _ in range(100):
        captions = sampler.draw(labels, np.array([0, 1]), rng)
        true = is_true(captions, torch.from_numpy(labels), torch.tensor([0, -1]))
        places = captions.background.tolist()
        assert true[:, 1].tolist() == [p == len(BACKGROUNDS) for p in places]


def test_no_background_is_named_where_none_is_shown(sampler):
    labels = np.stack([_labels(("ball", "red", "wood"))] * 50)
    captions = sampler.draw(labels, np.full(50, -1), np.random.default_rng(2))
    assert (captions.background == len(BACKGROUNDS)).all()


def test_another_true_pair_does_not_count_against_a_caption():
    scores = torch.tensor([[2.0, 9.0, 0.0], [0.0, 2.0, 0.0]])
    pairs = torch.tensor([[True, False, False], [False, True, False]])
    also = torch.tensor([[True, True, False], [False, True, False]])
    assert contrast_loss(scores, also) < contrast_loss(scores, pairs)
    best = contrast_loss(torch.eye(3) * 50, torch.eye(3, dtype=torch.bool))
    assert best < 1e-6


def test_pooled_states_are_the_text_encoder_s_at_the_first_end_of_text():
    from ale_edit.demo.caption_sampler import EOS
    from ale_edit.demo.models import build_clip
    from ale_edit.demo.weights import read_weights

    clip = build_clip(read_weights("text"))
    scorer = MiniClip(MiniClipNet(), clip)
    text = "red-colored ball made of wood"
    tokens = clip.tokenize(text)
    end = [token for token, _ in tokens["l"][0]].index(EOS)
    states = cast("torch.Tensor", clip.encode_from_tokens(tokens))
    torch.testing.assert_close(scorer._pool(text), states[:, end].float().cpu())


def test_similarities_are_cosines():
    from ale_edit.demo.models import build_clip
    from ale_edit.demo.weights import read_weights

    scorer = MiniClip(MiniClipNet(), build_clip(read_weights("text")))
    images = torch.rand(3, 128, 128, 3)
    found = scorer.similarity(images, ["ball", "box"])
    assert found.shape == (3, 2) and found.abs().max() <= 1
    torch.testing.assert_close(found[1:2], scorer.similarity(images[1:2], ["ball", "box"]))

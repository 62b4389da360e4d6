import numpy as np
import pytest
import torch

from ale_edit.demo.caption_sampler import CaptionSampler
from ale_edit.demo.models import new_text_model, tokenize
from ale_edit.demo.scenes import BACKGROUNDS
from ale_edit.demo.text_encoder import TrainableText
from ale_edit.demo.train import text_weights
from ale_edit.demo.train_text import drift, random_labels

pytestmark = pytest.mark.comfy

CAPTIONS = CaptionSampler(tokenize)


def _text(seed, tokens=CAPTIONS.token_ids):
    torch.manual_seed(seed)
    return TrainableText(new_text_model(), list(tokens)).eval()


def _captions(with_background):
    rng = np.random.default_rng(5)
    labels, backgrounds = random_labels(rng, 40)
    return CAPTIONS.draw(labels, backgrounds if with_background else np.full(40, -1), rng)


@torch.no_grad()
def test_an_encoder_of_fewer_words_is_taken_over_with_its_states():
    new_word = CAPTIONS.token_ids[5]
    old_tokens = [token for token in CAPTIONS.token_ids if token != new_word]
    old, new = _text(1, old_tokens), _text(2)
    new.adopt(text_weights(old))
    ids = [CAPTIONS.token_ids[i] for i in (3, 7, 1)]
    states = [
        text(torch.tensor([[tokens.index(i) for i in ids] + [unknown] + [0] * 73]))
        for text, tokens, unknown in (
            (old, old_tokens, old.unknown),
            (new, CAPTIONS.token_ids, new.unknown),
        )
    ]
    torch.testing.assert_close(states[1][:, :4], states[0][:, :4])


def test_drift_is_felt_on_all_states_but_the_end_of_a_named_background():
    before, captions = _text(3), _captions(with_background=True)
    assert drift(before, before, captions) == 0
    after = _text(4)
    named = captions.background < len(BACKGROUNDS)
    assert named.any() and not named.all()
    words_only = drift(after, before, captions)
    all_states = (after(captions.ids) - before(captions.ids)).square()
    kept = (captions.owner >= 0) | ~named[:, None]
    torch.testing.assert_close(words_only, all_states[kept].mean())
    plain = _captions(with_background=False)
    full = (after(plain.ids) - before(plain.ids)).square().mean()
    torch.testing.assert_close(drift(after, before, plain), full)

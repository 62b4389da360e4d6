import pytest

from ale_edit.attention.control import Route, Step
from ale_edit.editors.masactrl import PAPER, MasaCtrlControl, MasaCtrlSettings, start_layer
from ale_edit.tests.editors.layers import sd15

MUTUAL = {"target": Route("target", "source", "source")}


def routed(settings: MasaCtrlSettings, steps: int) -> tuple[list[int], list[int]]:
    """The layers and the steps in which the target reads the source; in all of them it does."""
    control, layers = MasaCtrlControl(settings), sd15(kind="self")
    found = {
        (layer.ordinal, i)
        for layer in layers
        for i in range(steps)
        for is_cond in (True, False)
        if control.routes(layer, Step(i, steps, 1.0), is_cond) == MUTUAL
    }
    ordinals, numbers = ({place[axis] for place in found} for axis in (0, 1))
    assert len(found) == len(ordinals) * len(numbers)
    return sorted(ordinals), sorted(numbers)


def test_sd15_at_50_steps_gives_the_published_layers_and_steps():
    """methods.md C.5: self-attention layers 10 to 15 of 16, output blocks 6 to 11, from step 4."""
    ordinals, steps = routed(PAPER, 50)
    assert ordinals == list(range(10, 16))
    assert steps == list(range(4, 50))
    assert [sd15()[i].block[:2] for i in ordinals] == [("output", n) for n in range(6, 12)]


@pytest.mark.parametrize(
    ("steps", "first"), [(15, 1), (12, 0), (13, 1), (25, 2), (49, 3), (50, 4), (1, 0)]
)
def test_the_start_step_is_a_share_of_the_steps(steps: int, first: int):
    assert routed(MasaCtrlSettings(), steps)[1] == list(range(first, steps))


@pytest.mark.parametrize(("layers", "first"), [(16, 10), (10, 6), (70, 43), (1, 0)])
def test_the_start_layer_is_a_share_of_the_layers(layers: int, first: int):
    assert start_layer(MasaCtrlSettings(), layers) == first


def test_shares_of_0_and_1_are_every_layer_and_step_and_none():
    everything = MasaCtrlSettings(start_step_share=0.0, start_layer_share=0.0)
    assert routed(everything, 15) == (list(range(16)), list(range(15)))
    assert routed(MasaCtrlSettings(start_step_share=1.0), 15) == ([], [])
    assert routed(MasaCtrlSettings(start_layer_share=1.0), 15) == ([], [])


def test_a_typed_layer_counts_and_only_it_can_be_beyond_the_last():
    assert routed(MasaCtrlSettings(start_layer=12), 15)[0] == [12, 13, 14, 15]
    assert routed(MasaCtrlSettings(start_layer=0), 15)[0] == list(range(16))
    message = r"start_layer is 16, but the model has 16 self-attention layers, 0 to 15\. Type one"
    with pytest.raises(ValueError, match=message):
        start_layer(MasaCtrlSettings(start_layer=16), 16)


def test_an_unknown_source_prompt_is_refused():
    with pytest.raises(
        ValueError, match=r'the source_prompt input is "both"\. Choose one of empty, edits\.'
    ):
        MasaCtrlSettings(source_prompt="both")  # type: ignore[arg-type]

import pytest

from ale_edit.attention.control import Route, Step
from ale_edit.editors.fpe import EDITOR, FPEControl, FPESettings
from ale_edit.tests.editors.layers import sd15

MAP = {"target": Route("source", "source", "target")}


def routed(settings: FPESettings, steps: int, size: tuple[int, int] = (64, 64)) -> tuple:
    """The layers and the steps in which the target takes the source's map, in one half alone."""
    control, layers = FPEControl(settings), sd15(*size, kind="self")
    found = {
        (layer.ordinal, i)
        for layer in layers
        for i in range(steps)
        if control.routes(layer, Step(i, steps, 1.0), True) == MAP
    }
    assert not any(
        control.routes(layer, Step(i, steps, 1.0), False) for layer in layers for i in range(steps)
    )
    ordinals, numbers = ({place[axis] for place in found} for axis in (0, 1))
    assert len(found) == len(ordinals) * len(numbers)
    return sorted(ordinals), sorted(numbers)


def test_sd15_at_512_and_50_steps_gives_the_published_layers_and_steps():
    """methods.md C.6: all layers but those of 64 x 64 cells, steps 0 to 39."""
    settings = FPESettings()
    assert routed(settings, 50) == (list(range(2, 13)), list(range(40)))
    assert (settings.steps, settings.source_guidance, settings.target_guidance) == (50, 7.5, 7.5)
    assert EDITOR.plan(settings).start == "direct" and EDITOR.plan(settings).prompt == "empty"


@pytest.mark.parametrize("size", [(96, 96), (80, 48), (65, 33), (7, 9)])
def test_the_layers_are_the_same_at_other_sizes(size: tuple[int, int]):
    assert routed(FPESettings(), 50, size)[0] == list(range(2, 13))


def test_shares_of_0_and_1_are_no_step_and_every_step():
    assert routed(FPESettings(self_share=0.0), 15) == ([], [])
    assert routed(FPESettings(self_share=1.0), 15)[1] == list(range(15))


def test_an_unknown_inversion_is_refused():
    with pytest.raises(
        ValueError, match=r'the inversion_method input is "none"\. Choose one of virtual'
    ):
        FPESettings(inversion_method="none")  # type: ignore[arg-type]

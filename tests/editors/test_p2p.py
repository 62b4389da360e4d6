import pytest

from ale_edit.attention.control import Route, Step
from ale_edit.editors.p2p import P2PControl, P2PSettings, WordMapper, is_cross_step, is_self_step
from ale_edit.tests.editors.layers import sd15

MAP = {"target": Route("source", "source", "target")}


def control(**settings: float) -> P2PControl:
    return P2PControl(P2PSettings(**settings), WordMapper(None, None, None))  # type: ignore[arg-type]


def steps_of(is_step, steps: int, **settings: float) -> int:
    """In how many steps, which are the first ones."""
    chosen = [i for i in range(steps) if is_step(P2PSettings(**settings), Step(i, steps, 1.0))]  # type: ignore[arg-type]
    assert chosen == list(range(len(chosen)))
    return len(chosen)


def grids_of(height: int, width: int) -> set[tuple[int, int]]:
    """Of the self-attention layers whose maps are the source's."""
    first, late = Step(0, 50, 1.0), Step(30, 50, 1.0)
    layers = sd15(height, width, "self")
    assert not any(control().routes(layer, first, False) for layer in layers)
    assert not any(control().routes(layer, late, True) for layer in layers)
    found = {layer.grid for layer in layers if control().routes(layer, first, True)}
    assert all(
        control().routes(layer, first, True) == (MAP if layer.grid in found else {})
        for layer in layers
    )
    return found


def test_sd15_at_512_pixels_gives_the_published_layers_and_steps():
    """methods.md C.1: at most 32 x 32 cells; int(.6 * 50) and int(.4 * 51) steps."""
    assert grids_of(64, 64) == {(32, 32), (16, 16), (8, 8)}
    assert steps_of(is_self_step, 50) == 30
    assert steps_of(is_cross_step, 50) == 20


@pytest.mark.parametrize(
    ("latent", "grids"),
    [
        ((96, 96), {(48, 48), (24, 24), (12, 12)}),  # 768 pixels
        ((48, 80), {(24, 40), (12, 20), (6, 10)}),  # 640x384
        ((72, 72), {(36, 36), (18, 18), (9, 9)}),  # 576x576
        ((48, 48), {(24, 24), (12, 12), (6, 6)}),  # 384x384
        ((9, 14), {(5, 7), (3, 4), (2, 2)}),
    ],
)
def test_half_of_the_latent_is_what_32_cells_are_at_512_pixels(latent, grids):
    assert grids_of(*latent) == grids


@pytest.mark.parametrize(
    ("steps", "share", "cross", "self_"),
    [(15, 0.4, 6, 6), (50, 0.8, 40, 40), (10, 1.0, 10, 10), (10, 0.0, 0, 0), (4, 0.6, 3, 2)],
)
def test_shares_count_as_published(steps, share, cross, self_):
    assert steps_of(is_cross_step, steps, cross_share=share) == cross
    assert steps_of(is_self_step, steps, self_share=share) == self_


def test_nothing_is_read_where_nothing_is_done():
    assert control(cross_share=0.0, self_share=0.0).reads == {}
    assert control().reads == {"target": {"source"}}

import pytest
from diffusers.schedulers.scheduling_lcm import LCMScheduler

from ale_edit.inversion.lcm_schedule import lcm_timesteps


@pytest.mark.parametrize("steps", range(1, 51))
def test_time_steps_are_diffusers_at_every_length(steps: int):
    scheduler = LCMScheduler()
    scheduler.set_timesteps(steps)
    assert lcm_timesteps(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("steps", [10, 15, 50])
def test_strength_leaves_out_the_noisiest_steps(steps: int, strength: float):
    kept = int(steps * strength)
    assert lcm_timesteps(steps, strength) == lcm_timesteps(steps)[steps - kept :]


@pytest.mark.parametrize(
    ("steps", "strength", "words"),
    [
        (0, 1.0, ["steps is 0", "1 to 50"]),
        (-1, 1.0, ["steps is -1"]),
        (51, 1.0, ["steps is 51", "1 to 50"]),
        (15, 0.0, ["strength is 0"]),
        (15, 1.1, ["strength is 1.1"]),
        (4, 0.2, ["4 steps", "0.2", "no step", "Raise"]),
    ],
)
def test_a_schedule_without_steps_is_refused_with_its_values(steps, strength, words):
    with pytest.raises(ValueError) as error:
        lcm_timesteps(steps, strength)
    assert [word for word in words if word not in str(error.value)] == []


def test_the_published_15_steps_are_those_of_the_specification():
    expected = [999, 939, 879, 799, 739, 679, 599, 539, 479, 399, 339, 279, 199, 139, 79]
    assert lcm_timesteps(15) == expected

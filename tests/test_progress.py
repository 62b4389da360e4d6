"""Progress: a bar on a terminal, lines in a file."""

import io
import sys

import pytest

from ale_edit import progress
from ale_edit.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_a_file_gets_a_line_each_minute_and_one_at_the_end(capsys, clock):
    with ProgressBar("images", 40, "image") as bar:
        for done in range(1, 41):
            clock[0] += 3
            bar.move_to(done)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].split()[0] for line in lines] == ["20/40", "40/40"]
    assert lines[0].startswith("images:  50%|") and "[01:00<01:00,  3.00s/image" in lines[0]


def test_what_an_earlier_run_did_does_not_count_as_speed(capsys, clock):
    with ProgressBar("unet", 100, "sample", initial=80, every_s=0) as bar:
        clock[0] = 10
        bar.move_to(90, note="loss 0.5")
    assert "90/100 [00:10<00:10,  1.00sample/s, loss 0.5]" in capsys.readouterr().out


def test_where_nothing_is_asked_for_a_file_gets_sentences_alone(capsys):
    with ProgressBar("edit", every_s=None) as bar:
        bar.move_to(1, total=1)
        bar.tell("It is so.")
    assert capsys.readouterr().out == "It is so.\n"


@pytest.mark.parametrize("keep", [True, False])
def test_a_terminal_gets_a_bar_below_the_sentences(monkeypatch, keep):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    with ProgressBar("a", 4, "step", keep=keep) as bar:
        bar.move_to(1)
        bar.tell("It is so.")
        bar.move_to(3, label="b", total=6)
    text = screen.getvalue()
    assert "\rIt is so.\n" in text and "1/4" in text and "b:  50%|" in text and "3/6" in text
    assert text.endswith("\n") == keep

"""The client's runs against a small server: followed, failing, refused, lost, cancelled."""

import asyncio
import time

import pytest

from ale_edit.headless import (
    ComfyClient,
    Interrupted,
    NodeFailed,
    Progress,
    Run,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from ale_edit.tests.headless.scripted_server import (
    FAILURE,
    WORKFLOW,
    FakeComfyUI,
    run,
    with_client,
)


@pytest.fixture
def fake() -> FakeComfyUI:
    return FakeComfyUI()


def test_progress_is_followed_by_title_and_images_come_from_the_history(fake):
    fake.events = [
        ("status", {"status": {}}),
        ("of another pack", "a text"),
        ("executing", {"node": "1", "prompt_id": "p1"}),
        ("executing", {"node": "1", "prompt_id": "another run"}),
        ("progress", {"node": "2", "prompt_id": "p1", "value": 3, "max": 15}),
        ("executing", {"node": None, "prompt_id": "p1"}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    fake.outputs = {"2": {"images": [{"filename": "x.png", "subfolder": "s", "type": "output"}]}}
    images, seen = run(fake)
    assert seen == [Progress("The image"), Progress("Sampling", 3, 15)]
    assert [(image.title, image.filename) for image in images] == [("Sampling", "x.png")]


def test_the_clients_workflow_and_id_are_queued(fake):
    fake.events = [("execution_success", {"prompt_id": "p1"})]
    run(fake)
    ((path, body),) = fake.calls
    assert path == "/prompt" and body["prompt"] == WORKFLOW.nodes and body["client_id"]


@pytest.mark.parametrize("trouble", ["no socket", "socket drops", "silent end"])
def test_without_a_websocket_the_history_is_asked(fake, trouble):
    fake.with_socket = trouble != "no socket"
    fake.drops_socket = trouble == "socket drops"
    fake.outputs = {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "temp"}]}}
    images, _ = run(fake)
    assert [image.kind for image in images] == ["temp"]


def test_a_node_that_fails_is_named_with_its_message(fake):
    fake.events = [("execution_error", FAILURE)]
    fake.messages = [("execution_start", {}), ("execution_error", FAILURE)]
    with pytest.raises(NodeFailed, match=r"'Sampling' \(Sample\): no masks$") as caught:
        run(fake)
    assert caught.value.exception_type == "ValueError"
    assert caught.value.traceback == ("line 1",)


def test_a_failed_node_is_told_with_its_id_inputs_and_the_input_that_it_names(fake):
    failure = {
        **FAILURE,
        "exception_message": "Sample: the steps input is 99. Lower it.",
        "current_inputs": {"steps": [99], "model": ["x"]},
    }
    fake.messages = [("execution_error", failure)]
    with pytest.raises(NodeFailed, match="'Sampling' .Sample., input 'steps': .*Lower") as caught:
        run(fake)
    error = caught.value.error
    assert (error.node_id, error.input_name) == ("2", "steps")
    assert caught.value.inputs == {"steps": [99], "model": ["x"]}
    assert not caught.value.is_full_disk


@pytest.mark.parametrize("message", ["no masks", "the mask input is empty", "input of the node"])
def test_an_input_that_the_node_does_not_have_is_not_named(fake, message):
    failure = {**FAILURE, "exception_message": message, "current_inputs": {"steps": [99]}}
    fake.messages = [("execution_error", failure)]
    with pytest.raises(NodeFailed) as caught:
        run(fake)
    assert caught.value.error.input_name is None


def test_a_websocket_that_drops_is_opened_again_and_progress_goes_on(fake):
    fake.drops_socket = True
    fake.events = [("progress", {"node": "2", "prompt_id": "p1", "value": 1, "max": 9})]
    fake.later_events = [
        ("progress", {"node": "2", "prompt_id": "p1", "value": 5, "max": 9}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    _, seen = run(fake)
    assert seen == [Progress("Sampling", 1, 9), Progress("Sampling", 5, 9)]


def test_a_question_that_fails_for_a_moment_is_asked_again(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.connection.PAUSES_S", (0.01, 0.01))
    fake.with_socket, fake.troubles = False, 2
    fake.outputs = {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "temp"}]}}
    assert len(run(fake)[0]) == 1
    fake.troubles = 9
    with pytest.raises(ServerGone, match="answered 502 .*disk full"):
        run(fake)


def test_the_end_is_noticed_though_messages_about_others_never_cease(fake, monkeypatch):
    """A run that another process queued sends us no message of its own."""
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.2)
    fake.later_events = [("status", {"status": {}})] * 200
    fake.pause_s, fake.finishes = 0.05, False
    saved: list[float] = []

    async def job(client: ComfyClient) -> None:
        run, start = await client.queue(WORKFLOW), time.monotonic()
        fake._done = True
        await client.finish(run)
        saved.append(time.monotonic() - start)

    with_client(fake, job)
    assert saved[0] < 5  # and not 10, when the messages end


def test_a_run_that_waits_says_how_many_come_before_it(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.ahead, fake.finishes = ["running", "waiting", "waiting too"], False
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        fake.ahead = fake.ahead[1:]
        fake._done = not fake.ahead

    with_client(fake, lambda client: client.run(WORKFLOW, note))
    assert seen == [Progress("", ahead=3), Progress("", ahead=2), Progress("", ahead=1)]


@pytest.mark.parametrize(("with_socket", "drops"), [(True, True), (False, False)])
def test_a_run_that_the_server_knows_no_more_is_lost(fake, with_socket, drops, monkeypatch):
    """Perhaps the server was restarted, which closes its websockets."""
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.with_socket, fake.drops_socket = with_socket, drops
    fake.finishes, fake.queued = False, False
    with pytest.raises(RunLost, match="taken out of the queue, or ComfyUI at .* was restarted"):
        run(fake)


def test_a_run_that_a_server_forgot_while_it_was_there_was_cancelled(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.finishes, fake.queued = False, False
    with pytest.raises(Interrupted, match=r"^test.json was taken out of the") as caught:
        run(fake)
    assert not isinstance(caught.value, RunLost)


def test_a_run_of_an_earlier_process_counts_as_cancelled_once_it_was_seen(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.ahead = ["theirs"]

    def take_out(_progress: Progress) -> None:
        fake.queued = False

    async def job(client: ComfyClient) -> None:
        with pytest.raises(Interrupted) as caught:
            await client.finish(Run("p1", WORKFLOW), take_out)
        assert not isinstance(caught.value, RunLost)
        with pytest.raises(RunLost):
            await client.finish(Run("p0", WORKFLOW))

    with_client(fake, job)


def test_a_notice_of_a_node_comes_as_progress_with_its_title(fake):
    notice = {"node": "2", "text": "the masks overlap", "prompt_id": "p1"}
    fake.events = [
        ("executing", {"node": "2", "prompt_id": "p1"}),
        ("ale_edit.notice", {**notice, "prompt_id": "theirs"}),
        ("ale_edit.notice", notice),
        ("ale_edit.notice", {**notice, "node": "7:1"}),  # within a subgraph
        ("ale_edit.notice", {"prompt_id": "p1"}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    assert run(fake)[1] == [
        Progress("Sampling"),
        Progress("Sampling", notice="the masks overlap"),
        Progress("7:1", notice="the masks overlap"),
    ]


def test_a_refused_workflow_names_node_input_and_reason(fake):
    problem = {
        "message": "Value not in list",
        "details": "image: 'a.png' not in []",
        "extra_info": {"input_name": "image"},
    }
    errors = {"1": {"class_type": "Load", "errors": [problem]}}
    fake.reply = (
        400,
        {"error": {"message": "Prompt failed", "details": ""}, "node_errors": errors},
    )
    expected = r"'The image' \(Load\), input 'image': Value not in list: image: 'a.png' not in"
    with pytest.raises(WorkflowRejected, match=expected) as caught:
        run(fake)
    assert caught.value.errors[0].input_name == "image"


def test_a_refusal_without_a_node_gives_the_general_reason(fake):
    reason = {"message": "Prompt has no outputs", "details": ""}
    fake.reply = (400, {"error": reason, "node_errors": {}})
    with pytest.raises(WorkflowRejected, match="Prompt has no outputs"):
        run(fake)


def test_a_workflow_that_is_refused_in_part_is_not_run_in_part(fake):
    problem = {"message": "Bad", "details": "", "extra_info": {}}
    errors = {"1": {"class_type": "Load", "errors": [problem]}}
    fake.reply = (200, {"prompt_id": "p1", "node_errors": errors})
    with pytest.raises(WorkflowRejected, match="'The image'"):
        run(fake)
    assert ("/queue", {"delete": ["p1"]}) in fake.calls


def test_an_interrupted_run_says_so(fake):
    fake.events = [("execution_interrupted", {"prompt_id": "p1"})]
    fake.messages = [("execution_interrupted", {"prompt_id": "p1"})]
    with pytest.raises(Interrupted, match="test.json was interrupted"):
        run(fake)


def test_cancelling_the_task_cancels_the_run(fake):
    fake.finishes = False

    async def job(client: ComfyClient) -> None:
        task = asyncio.create_task(client.run(WORKFLOW))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_client(fake, job)
    assert ("/interrupt", {"prompt_id": "p1"}) in fake.calls

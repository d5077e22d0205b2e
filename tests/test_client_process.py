"""A client and its process: Ctrl-C, fork, the end of the program, a client that nobody holds any more."""

import gc
import signal
import subprocess
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import python
from office import PATIENCE, Office


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Office(tmp_path) as office:
        yield office


def program(office: Office, text: str) -> "subprocess.Popen[str]":
    """Run a program that begins with a client `q` of this master."""
    start = f"import os, sys, qdistd\nq = qdistd.Client({str(office.address)!r}, {b's' * 32!r}, timeout=1)\n"
    pipe = subprocess.PIPE
    return subprocess.Popen(python("-c", start + text), stdout=pipe, stderr=pipe, text=True)


def test_a_program_that_just_ends_has_its_tasks_stored(office: Office) -> None:
    ended = program(office, "for n in range(3000): q.options(queue='idle').submit('square', n)")
    assert ended.communicate(timeout=PATIENCE) == ("", "")
    with office.client() as q:
        assert q.queues()[0].counts == {"ready": 3000}


def test_a_program_that_ends_without_a_master_says_what_was_not_stored(office: Office) -> None:
    office.stop()
    ended = program(office, "q.submit('square', 7)")
    _, complaint = ended.communicate(timeout=PATIENCE)
    assert complaint.startswith(
        "qdist: not all submitted tasks are stored (1 of them are still on their way): no master answers: 127.0.0.1:"
    )


def test_ctrl_c_leaves_the_client_usable(office: Office) -> None:
    waiting = program(
        office,
        """
never = q.options(queue="idle").submit("square", 1)
for wait in (never.result, lambda: next(q.options(queue="idle").map("square", [2])), lambda: q.handle(never.id).wait()):
    try:
        print("waiting", flush=True)
        wait()
    except KeyboardInterrupt:
        print(q.submit("square", 7).result(), flush=True)
q.close()
""",
    )
    assert waiting.stdout is not None
    for _ in range(3):
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.stdout.readline() == "7 * 7 = 49\n"
    assert waiting.communicate(timeout=PATIENCE) == ("", "")
    assert waiting.returncode == 0


def test_a_forked_process_is_told_to_make_its_own_client(office: Office) -> None:
    forked = program(
        office,
        """
task = q.submit("square", 7)
task.result()
child = os.fork()
if child == 0:
    for use in (lambda: q.submit("square", 1), q.status, q.handle(task.id).result, q.flush):
        try:
            use()
        except qdistd.Refused as error:
            print(error, flush=True)
    print(task.result(), flush=True)
    del q
    with qdistd.Client(ADDRESS, b"s" * 32) as own:
        print(own.submit("square", 3).result(), flush=True)
    sys.exit()
os.waitpid(child, 0)
print(q.submit("square", 2).result())
""".replace("ADDRESS", repr(str(office.address))),
    )
    output, complaint = forked.communicate(timeout=PATIENCE)
    lines = output.splitlines()
    assert complaint == ""
    assert all("a fork does not copy its connection: make a new qdistd.Client()" in line for line in lines[:4])
    assert lines[4:] == ["7 * 7 = 49", "3 * 3 = 9", "2 * 2 = 4"]


def test_a_client_that_nobody_holds_ends_by_itself(office: Office) -> None:
    before = set(threading.enumerate())
    q = office.client()
    (thread,) = set(threading.enumerate()) - before
    task = q.submit("square", 7)
    del q
    gc.collect()
    assert task.result(PATIENCE) == "7 * 7 = 49"
    gone = weakref.ref(task._background)
    del task
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert gone() is None

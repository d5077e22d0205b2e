"""The options of a task: what each may be, what they say together, and where they come from."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from office import Office
from test_executor import configure

import qdistd
from qdistd import task
from qdistd.client import options
from qdistd.client.outbox import Entry
from qdistd.model import Task

NOWHERE = "127.0.0.1:1"
"""Nobody listens on port 1."""

KEY = b"s" * 32

ID = "0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"


@pytest.fixture
def q() -> Iterator[qdistd.Client]:
    """A client whose master never answers: what is handed over stays in its outbox."""
    client = qdistd.Client(NOWHERE, KEY, timeout=0.2)
    yield client
    with pytest.raises(qdistd.Unavailable):
        client.close()


def sent(handle: Entry) -> Task:
    """The task as it goes to the master."""
    assert handle.task is not None
    return handle.task


@task(retries=2, timeout=30, requires=["gpu"])
def draw(path: str) -> str:
    return path


# -- what each may be


def test_every_option_of_a_task_reaches_it(q: qdistd.Client) -> None:
    chosen = q.options(
        queue="mail",
        priority=-5,
        delay=timedelta(minutes=1),
        expires=timedelta(hours=1),
        timeout=timedelta(seconds=30),
        soft_timeout=20,
        retries=3,
        backoff=timedelta(seconds=2),
        backoff_cap=60,
        requires=["site=berlin", "gpu", "gpu"],
        concurrency_key="host7",
        unique="queued",
        unique_key="nightly",
        coalesce=True,
        after=[ID],
        if_failed="run",
        take="list",
    )
    made = sent(chosen.submit("square", 7))
    assert (made.queue, made.priority, made.delay, made.expires) == ("mail", -5, 60.0, 3600.0)
    assert (made.timeout, made.soft_timeout, made.retries, made.backoff, made.backoff_cap) == (30.0, 20.0, 3, 2.0, 60.0)
    assert (made.requires, made.concurrency_key) == (("gpu", "site=berlin"), "host7")
    assert (made.unique, made.unique_key, made.coalesce) == ("queued", "nightly", True)
    assert (made.after, made.if_failed, made.take) == ((q.handle(ID).task_id,), "run", "list")


def test_nothing_chosen_is_what_the_model_says(q: qdistd.Client) -> None:
    made = sent(q.submit("square", 7))
    assert made == Task(made.id, "square", made.payload)


def test_an_expiry_may_be_a_moment_and_is_counted_when_the_task_is_submitted(q: qdistd.Client) -> None:
    view = q.options(expires=datetime.now(UTC) + timedelta(hours=1))
    assert 3590 < sent(view.submit("square", 7)).expires <= 3600
    past = q.options(expires=datetime.fromtimestamp(time.time() - 5, UTC))
    assert 0 < sent(past.submit("square", 7)).expires < 0.01


def test_after_takes_handles_and_ids_one_or_many(q: qdistd.Client) -> None:
    first, second = q.submit("square", 1), q.submit("square", 2)
    for after in ([first, second], (first.id, second.id), iter([first, second.id])):
        assert sent(q.options(after=after).submit("square", 3)).after == (first.task_id, second.task_id)  # type: ignore[arg-type] # an iterator is no sequence
    assert sent(q.options(after=first).submit("square", 3)).after == (first.task_id,)
    assert sent(q.options(after=[]).submit("square", 3)).after == ()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"uniqe": "queued"}, "there is no option 'uniqe'; did you mean 'unique'"),
    ({"unique": "queud"}, "unique: 'queud' will not do; expected 'queued' or 'running'; did you mean 'queued'?"),
    ({"unique": True}, "unique: True will not do; expected 'queued' or 'running'"),
    ({"if_failed": "runs"}, "if_failed: 'runs' will not do; expected 'cancel' or 'run' or 'wait'; did you mean 'run'?"),
    ({"after": [ID], "take": "arg"}, "take: 'arg' will not do; expected 'args' or 'list'; did you mean 'args'?"),
    ({"take": "args"}, "take: there is nothing to take without after"),
    ({"coalesce": True}, "coalesce: only a unique task can be another one: choose unique as well"),
    ({"unique_key": "x"}, "unique_key: the task is not unique"),
    ({"key": "x", "unique": "queued"}, "key and unique: a task has the one or the other"),
    ({"after": ["x"]}, "'x' is no task id; expected something like 0192f0c1"),
    ({"after": [ID, ID]}, "after: the same task stands there twice"),
    ({"after": [ID] * 1001}, "after: 1001 tasks; one task may come after 1000 at most"),
    ({"requires": 7}, 'requires: 7 will not do; expected a list of labels such as ["gpu", "site=berlin"]'),
    ({"requires": [7]}, "requires: [7] will not do; expected a list of labels"),
    ({"requires": [""]}, "requires: ('',) will not do; expected str of length >= 1"),
    ({"requires": ["a\nb"]}, "requires 'a\\nb' has characters that cannot be printed"),
    ({"concurrency_key": "x" * 201}, "expected str of length <= 200"),
    ({"expires": -1}, "expires: -1 will not do; expected float >= 0"),
    ({"expires": datetime(2030, 1, 1)}, "expires: 2030-01-01 00:00:00 has no time zone"),
    ({"expires": 5, "delay": 5}, "expires: after 5 s, and it may not run before 5 s (delay)"),
    ({"timeout": 5, "soft_timeout": 5}, "soft_timeout: 5 s is not before the timeout of 5 s"),
    ({"timeout": timedelta(seconds=-1)}, "timeout: -1.0 will not do; expected float >= 0"),
    ({"backoff_cap": "1h"}, "backoff_cap: '1h' will not do; expected float, got str"),
]


@pytest.mark.parametrize(("choices", "complaint"), WRONG)
def test_a_wrong_choice_is_refused_and_named(choices: dict[str, Any], complaint: str) -> None:
    with pytest.raises(qdistd.Refused) as caught:
        options.read(choices)
    assert complaint in str(caught.value)


# -- shares


def test_a_share_among_the_arguments_is_a_label_that_is_required(q: qdistd.Client) -> None:
    plain = q.submit("count_lines", "/srv/share://x", "about share://data/x")
    named = q.options(requires="gpu").submit("count_lines", ["share://data/a.log", {"b": ("share://scratch",)}])
    twice = q.submit("count_lines", path="share://data/in/x.log", other="share://data/y")
    assert sent(plain).requires == ()
    assert sent(named).requires == ("gpu", "share=data", "share=scratch")
    assert sent(twice).requires == ("share=data",)
    with pytest.raises(qdistd.Refused, match="'a b' is no name of a share"):
        q.submit("count_lines", "share://a b/x")


# -- where they come from


def test_the_file_stands_below_the_decorator_and_that_below_what_a_client_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Office(tmp_path) as office:
        configure(office, tmp_path, monkeypatch)
        with (tmp_path / "client.toml").open("a") as file:
            file.write('[options]\nqueue = "host7"\nretries = 9\ntimeout = "1m"\nrequires = ["site=berlin"]\n')
        with qdistd.Client() as q, q.batch() as batch:
            named, decorated = sent(batch.submit("square", 7)), sent(batch.submit(draw, "x"))
            chosen = sent(batch.options(timeout=5).submit(draw, "x"))
            assert (named.queue, named.retries, named.timeout, named.requires) == ("host7", 9, 60.0, ("site=berlin",))
            assert (decorated.queue, decorated.retries, decorated.timeout) == ("host7", 2, 30.0)
            assert (chosen.queue, chosen.retries, chosen.timeout) == ("host7", 2, 5.0)
            assert decorated.requires == ("gpu",)


def test_a_file_that_says_nothing_sensible_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    for text, complaint in (
        ('uniqe = "queued"', "3: [options] uniqe: unknown key"),
        ('unique = "queud"', '3: [options] unique: "queud" is none of the choices'),
        ("coalesce = true", '3: [options] coalesce: only a unique task can be another one; expected unique = "queued"'),
        ('timeout = "5s"\nsoft_timeout = "9s"', "4: [options] soft_timeout: soft_timeout (9 s) is not before timeout"),
        ('expires = "5s"\ndelay = "9s"', "3: [options] expires: what expires after 5 s may not run before 9 s"),
        ('requires = ["a b"]', '3: [options] requires: "a b" is no label; expected a list of any number of labels'),
    ):
        file.write_text(f"[client]\n[options]\n{text}\n")
        with pytest.raises(qdistd.Refused) as caught:
            qdistd.Client(config=file)
        assert complaint in str(caught.value)

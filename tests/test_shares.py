"""`share://NAME/…` among the arguments of a task: found, and made a path of the worker that runs it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from poolside import Poolside, at_the_pool, settings

import qdistd
from qdistd.call import decode_failure, decode_value, encode_call, encode_value
from qdistd.child.catalog import Catalog
from qdistd.child.conveyor import Assignment
from qdistd.child.frames import TASK, Care, task_frame
from qdistd.child.runner import Runner
from qdistd.child.stage import Stage
from qdistd.errors import NotAllowed, NotFound
from qdistd.model import Failure, Grant, Outcome
from qdistd.shares import MARK, names_in, resolve

SHARES = {"data": "/mnt/data", "root": "/"}

# -- what is a share, and where it is

PATHS = [
    ("share://data/in/x.log", "/mnt/data/in/x.log"),
    ("share://data", "/mnt/data"),
    ("share://data/", "/mnt/data"),
    ("share://data//x", "/mnt/data/x"),
    ("share://data/a/../b", "/mnt/data/a/../b"),
    ("share://data/..a/...", "/mnt/data/..a/..."),
    ("share://data/./x/", "/mnt/data/./x/"),
    ("share://root/etc", "/etc"),
    ("see share://data/x", "see share://data/x"),
    ("SHARE://data/x", "SHARE://data/x"),
    (b"share://data/x", b"share://data/x"),
]


@pytest.mark.parametrize(("value", "meant"), PATHS)
def test_an_address_becomes_the_path_on_this_worker(value: object, meant: object) -> None:
    assert resolve(value, SHARES) == meant


ESCAPES = ["share://data/..", "share://data/a/../../x", "share://data/./../x", "share://data/a/b/../../../a/b/c"]


@pytest.mark.parametrize("address", ESCAPES)
def test_no_address_leads_out_of_its_share(address: str) -> None:
    with pytest.raises(NotAllowed, match="leads out of the share data"):
        resolve([address], SHARES)


@pytest.mark.parametrize("address", ["share://nope/x", "share://", "share:///x", "share://..", "share://data\n/x"])
def test_a_share_that_is_not_here_is_named_with_those_that_are(address: str) -> None:
    with pytest.raises(NotFound, match=r"on this worker; it has data, root \(\[\[share\]\] in worker.toml\)"):
        resolve((address,), SHARES)


def test_addresses_are_found_in_lists_tuples_and_values_of_dicts_and_nowhere_else() -> None:
    address, path = "share://data/x", "/mnt/data/x"
    sets = {"b": {address}, "c": frozenset((address,))}
    value = ([1, (address, {"k": [address], address: None})], {"a": address, **sets})
    assert resolve(value, SHARES) == ([1, (path, {"k": [path], address: None})], {"a": path, **sets})
    assert names_in(value) == {"data"}
    assert names_in([{"share://x": 1}, {"share://y"}, "see share://z"]) == set()


plain = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.sampled_from(["share://data/x", "share://root"]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=plain)
def test_what_is_resolved_is_what_is_named_and_all_else_stays_as_it_was(value: object) -> None:
    names = names_in(value)
    assert (resolve(value, SHARES) == value) is not bool(names)
    assert type(resolve(value, SHARES)) is type(value)
    assert not names_in(resolve(value, SHARES))
    assert not names or MARK in encode_call((value,), {})


def test_a_list_that_holds_itself_is_looked_through_once() -> None:
    endless: list[Any] = ["share://data/x"]
    endless.append(endless)
    assert names_in(endless) == {"data"}


# -- in the child


def run(name: str, *args: object, inputs: tuple[object, ...] = (), **kwargs: object) -> object:
    """`inputs`: the results of the tasks it comes after."""
    values = tuple(map(encode_value, inputs))
    grant = Grant(bytes(16), 1, name, encode_call(args, kwargs), inputs=values, take="args" if inputs else "")
    task, stage = taken(grant), Stage()
    stage.begin(task)
    outcome, value = Runner(Catalog(["task_samples"]), stage, shares=SHARES).run(task)
    return decode_value(value) if outcome is Outcome.SUCCEEDED else decode_failure(value)


def taken(grant: Grant) -> Assignment:
    """A task as its child takes it."""
    frame = task_frame(1, grant)
    _, name, details, ticket, care, take, soft = TASK.unpack_from(frame)
    rest = bytearray(frame[TASK.size + name :])
    return Assignment(ticket, grant.name, rest[details:], Care(care), take, soft, rest[:details])


def test_a_task_gets_paths_in_its_arguments_and_its_result_is_left_alone() -> None:
    assert run("echo", ["share://data/x"]) == ["/mnt/data/x"]
    assert run("echo", value={"in": "share://data/x"}) == {"in": "/mnt/data/x"}
    assert run("join", "share:", "//data/x") == "share://data/x"


def test_a_result_that_is_handed_on_is_an_argument_like_any_other() -> None:
    assert run("join", ":a", inputs=("share://data/x", ":", "share://data/y")) == "/mnt/data/x:/mnt/data/y:a"
    failure = run("join", inputs=("share://data/../x",))
    assert isinstance(failure, Failure)
    assert failure.kind == "not-allowed"


@pytest.mark.parametrize(("address", "kind"), [("share://data/..", "not-allowed"), ("share://nope", "not-found")])
def test_a_task_whose_share_cannot_be_says_so_by_its_kind(address: str, kind: str) -> None:
    failure = run("echo", address)
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert failure.message.startswith(address)


def test_arguments_without_end_are_refused_and_the_child_goes_on() -> None:
    endless: list[Any] = ["share://data/x"]
    endless.append(endless)
    failure = run("echo", endless)
    assert isinstance(failure, Failure)
    assert (failure.kind, "nested too deeply" in failure.message) == ("undecodable", True)


def test_outside_of_a_worker_there_are_no_shares() -> None:
    with pytest.raises(NotFound, match=r"share\('data'\): there is no share data on this worker; it has none"):
        qdistd.share("data")


@at_the_pool(shares={"data": "/mnt/data"})
async def test_a_task_and_the_programs_that_it_starts_know_where_the_shares_are(side: Poolside) -> None:
    assert await side.run("echo", "share://data/x") == "/mnt/data/x"
    assert await side.run("find_share", "data") == "/mnt/data"
    failure = await side.failure(side.give("find_share", "nope"))
    assert failure.message == (
        "share('nope'): there is no share nope on this worker; it has data ([[share]] in worker.toml)"
    )


@at_the_pool(shares={"data": "/mnt/data"})
async def test_children_of_new_settings_find_the_shares_elsewhere(side: Poolside) -> None:
    side.pool.resize(settings(shares={"data": "/srv/data"}))
    while (found := await side.run("echo", "share://data/x")) == "/mnt/data/x":
        pass  # by a child of the old ones
    assert found == "/srv/data/x"

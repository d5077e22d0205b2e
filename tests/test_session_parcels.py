"""What the session does with tasks that go together, with those that are others, and with a master that has no room."""

import asyncio

import pytest
from small_master import SmallMaster
from test_session import Listening, entry, make, submit, with_master

from qdistd import protocol as say
from qdistd.client.outbox import Parcel
from qdistd.client.session import Session
from qdistd.errors import Overloaded, TooLarge
from qdistd.model import State


def parcel_of(*entries: Listening) -> Parcel:
    return Parcel(list(entries))


# -- all or none


@with_master()
async def test_a_parcel_is_a_request_of_its_own_and_asks_for_all_or_none(master: SmallMaster, session: Session) -> None:
    before, first, second, after = entry(), entry(), entry(), entry()
    session.outbox.waiting.extend((before, parcel_of(first, second), after))
    session.pump()
    await session.flush()
    said = [([task.id for task in ask.tasks], ask.atomic) for ask in master.questions(say.Submit)]
    assert said == [([before.task_id], False), ([first.task_id, second.task_id], True), ([after.task_id], False)]
    master.finish(first.task_id, second.task_id)
    assert {(await task.end).state for task in (first, second)} == {State.SUCCEEDED}


@with_master()
async def test_one_refused_task_is_a_refused_parcel_that_names_it(master: SmallMaster, session: Session) -> None:
    master.refuse["huge"] = "too-large"
    good, bad = entry(), entry("huge")
    parcel = parcel_of(good, bad)
    submit(session, parcel)
    with pytest.raises(TooLarge, match=r"no \(task 2 of 2, 'huge'; none of them is stored\)"):
        await session.flush()
    for task in (good, bad):
        with pytest.raises(TooLarge):
            await task.end
    assert master.tasks == {}
    assert isinstance(parcel.error, TooLarge)
    await session.flush()


@with_master()
async def test_a_parcel_goes_out_again_whole_and_the_same_after_the_link_broke(
    master: SmallMaster, session: Session
) -> None:
    master.hold = True
    tasks = [entry() for _ in range(1000)]
    submit(session, parcel_of(*tasks))
    await master.until(lambda: len(master.unanswered) == 1)
    master.hold = False
    master.cut()
    await session.flush()
    first, second = master.questions(say.Submit)
    assert first == second
    assert (first.atomic, len(master.tasks)) == (True, 1000)


@with_master()
async def test_of_a_parcel_only_those_are_heard_of_that_shall_be(master: SmallMaster, session: Session) -> None:
    loud, quiet = entry(), entry(watch=False)
    submit(session, parcel_of(loud, quiet))
    await session.flush()
    master.finish(loud.task_id, quiet.task_id)
    await loud.end
    assert not quiet.end.done()


def test_a_parcel_that_never_went_fails_with_its_session() -> None:
    async def scenario() -> None:
        session = make()
        task = entry()
        submit(session, parcel_of(task))
        session.close()
        with pytest.raises(Exception, match="this client is closed"):
            await task.end

    asyncio.run(scenario())


# -- tasks that are others


@with_master()
async def test_a_task_that_is_another_hears_the_end_of_that(master: SmallMaster, session: Session) -> None:
    there, twin, same = entry(), entry("same"), entry("same")
    submit(session, there)
    await session.flush()
    master.merge["same"] = there.task_id
    submit(session, twin)
    session.outbox.waiting.append(parcel_of(same))
    session.pump()
    await session.flush()
    assert {task.task_id for task in (there, twin, same)} == {there.task_id}
    assert (there.merged, twin.merged, same.merged) == (False, True, True)
    master.finish(there.task_id)
    await asyncio.gather(there.end, twin.end, same.end)


@with_master()
async def test_what_a_task_has_become_is_asked_for_after_the_link_broke(master: SmallMaster, session: Session) -> None:
    there, twin = entry(watch=False), entry("same")
    submit(session, there)
    await session.flush()
    master.merge["same"] = there.task_id
    submit(session, twin)
    await session.flush()
    master.cut()
    master.finish(there.task_id)
    await twin.end


# -- no room


@with_master()
async def test_the_patient_are_submitted_until_there_is_room_and_the_others_hear_of_it(
    master: SmallMaster, session: Session
) -> None:
    session._patience = 20.0
    master.refuse["full"] = "overloaded"
    hasty, patient, other = entry("full"), entry("full"), entry()
    patient.patient = True
    submit(session, hasty, patient, other)
    with pytest.raises(Overloaded) as caught:
        await hasty.end
    assert caught.value.after == 0.01
    await master.until(lambda: len(master.questions(say.Submit)) > 1)
    again = master.questions(say.Submit)[1].tasks
    assert [task.id for task in again] == [patient.task_id]
    master.refuse.clear()
    hasty.seen = True
    await session.flush()
    assert set(master.tasks) == {other.task_id, patient.task_id}
    assert (len(session.outbox), session.outbox.bytes, session.outbox.postponed) == (0, 0, False)
    master.finish(patient.task_id)
    await patient.end


@with_master()
async def test_patience_has_an_end(master: SmallMaster, session: Session) -> None:
    session._patience = 0.1
    master.refuse["full"] = "overloaded"
    task = entry("full", patient=True)
    submit(session, task)
    with pytest.raises(Overloaded):
        await session.flush()
    assert len(master.questions(say.Submit)) > 1
    assert not session.outbox.postponed


@with_master()
async def test_a_patient_parcel_waits_as_a_whole(master: SmallMaster, session: Session) -> None:
    session._patience = 20.0
    master.refuse["full"] = "overloaded"
    tasks = [entry(patient=True), entry("full", patient=True)]
    submit(session, parcel_of(*tasks))
    await master.until(lambda: len(master.questions(say.Submit)) == 3)
    assert master.tasks == {}
    master.refuse.clear()
    await session.flush()
    assert set(master.tasks) == {task.task_id for task in tasks}


@with_master()
async def test_what_is_postponed_ends_with_its_session(master: SmallMaster, session: Session) -> None:
    session._patience = 20.0
    master.refuse["full"] = "overloaded"
    task = entry("full", patient=True)
    submit(session, task)
    await master.until(lambda: len(master.questions(say.Submit)) == 2)
    session.close()
    with pytest.raises(Exception, match="this client is closed"):
        await task.end

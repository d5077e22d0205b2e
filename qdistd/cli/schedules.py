"""`qdist schedules`: what the master submits by the clock."""

from typing import TYPE_CHECKING, Any

import click

from qdistd.cli.words import json_option

if TYPE_CHECKING:
    from qdistd.views import ScheduleView


@click.command("schedules")
@json_option
def schedules_command(as_json: bool) -> None:
    """List the schedules of master.toml: when each is due next, and what became of its last task.

    Times are those at which the task may run, with the randomized delay. LAST is empty before the first time; the
    state of the last task is not known any more once its retention is over.
    """
    from qdistd.cli.context import asking
    from qdistd.cli.output import write_json
    from qdistd.protocol import Schedules

    with asking() as ask:
        schedules = ask(Schedules()).schedules
    if not as_json:
        _write(schedules)
        return
    for schedule in schedules:
        write_json(_json(schedule))


def _json(schedule: "ScheduleView") -> dict[str, Any]:
    from qdistd.cli.output import iso
    from qdistd.model import id_text

    told = {name: getattr(schedule, name) for name in schedule.__struct_fields__}
    return told | {
        "next": iso(schedule.next),
        "last": iso(schedule.last),
        "last_id": id_text(schedule.last_id) if schedule.last_id else None,
        "last_state": schedule.last_state.word if schedule.last_state is not None else None,
    }


def _write(schedules: list["ScheduleView"]) -> None:
    from qdistd.cli.output import when, write_table
    from qdistd.model import id_text

    rows = []
    for each in schedules:
        state = each.last_state.word if each.last_state is not None else "-"
        calendar = f"{each.calendar} ({each.time_zone})" if each.time_zone not in each.calendar else each.calendar
        last_id = id_text(each.last_id) if each.last_id else "-"
        rows.append((each.name, calendar, each.task, each.queue, when(each.next), when(each.last), last_id, state))
    write_table(("SCHEDULE", "CALENDAR", "TASK", "QUEUE", "NEXT", "LAST", "LAST ID", "STATE"), rows)

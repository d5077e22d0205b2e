"""Events: every one has its own id and its text in the catalog, and the journal gets both."""

import logging
import re
import shutil
import subprocess
from pathlib import Path

from qdistd.events import Event, told
from qdistd.systemd import JournalHandler

CATALOG = Path(__file__).parent.parent / "packaging/systemd/qdist.catalog"


def test_every_event_is_explained_in_the_catalog_and_nothing_else_is() -> None:
    assert re.findall(r"^-- (\S+)$", CATALOG.read_text(), re.M) == [event.value for event in Event]


def test_no_id_is_used_twice() -> None:
    assert len({event.value for event in Event}) == len(Event)
    assert all(re.fullmatch("[0-9a-f]{32}", event.value) for event in Event)


def test_a_text_names_only_fields_that_its_messages_have() -> None:
    known = {"@QDIST_TASK@", "@QDIST_TASK_ID@", "@QDIST_ATTEMPT@", "@QDIST_WORKER@"}
    assert set(re.findall(r"@\w+@", CATALOG.read_text())) <= known


def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    folder, state = tmp_path / "usr/lib/systemd/catalog", tmp_path / "var/lib/systemd/catalog"
    folder.mkdir(parents=True)
    state.mkdir(parents=True)
    shutil.copy(CATALOG, folder)
    journalctl = ["journalctl", f"--root={tmp_path}"]
    subprocess.run([*journalctl, "--update-catalog"], check=True)
    listed = subprocess.run([*journalctl, "--list-catalog"], check=True, capture_output=True, text=True).stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == sorted(event.value for event in Event)


def test_an_event_goes_to_the_journal_as_message_id_and_its_fields() -> None:
    record = logging.makeLogRecord({"msg": "lost", "levelno": logging.WARNING, **told(Event.TASK_LOST, TASK_ID="0192")})
    fields = JournalHandler("qdist-test")._fields(record)
    assert fields["MESSAGE_ID"] == Event.TASK_LOST.value
    assert fields["QDIST_TASK_ID"] == "0192"


def test_a_record_without_an_event_has_no_message_id() -> None:
    assert "MESSAGE_ID" not in JournalHandler("qdist-test")._fields(
        logging.makeLogRecord({"msg": "x", "levelno": logging.INFO})
    )

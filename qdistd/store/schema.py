"""The SQLite schema and the steps from one version to the next.

Version N of the file is what the first N steps made; `PRAGMA user_version` holds N. Each step runs in one
transaction with the change of that number, so that a crash leaves the old version or the new one.
"""

import sqlite3

from qdistd.errors import ConfigError

APPLICATION_ID = 0x71646973
"""`qdis`: tells `file(1)` and us whose database this is."""

BACKUP_ID = 0x71646962
"""`qdib`: this is a copy that was made for a backup, and nobody has opened it as a store yet."""

APPLICATION_ID_AT = 68
"""Where it stands in the file, four bytes, the first one the largest (https://sqlite.org/fileformat2.html, 1.3)."""

_FIRST = """
CREATE TABLE worker(
    number INTEGER PRIMARY KEY,
    token BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    stock INTEGER NOT NULL,
    since REAL NOT NULL
) STRICT;

CREATE TABLE task(
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    run_at REAL NOT NULL,
    at REAL,  -- the time of day that a person asked for; `run_at` is the same moment by the master's clock
    payload BLOB NOT NULL,
    payload_check INTEGER NOT NULL,
    timeout REAL NOT NULL,
    retries INTEGER NOT NULL,
    backoff REAL NOT NULL,
    key TEXT NOT NULL,
    mailbox INTEGER NOT NULL,
    created REAL NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    worker INTEGER,
    outcome INTEGER,
    started REAL,
    finished REAL,
    wall REAL,
    cpu REAL,
    rss INTEGER,
    value BLOB,
    value_check INTEGER
) STRICT;

-- partial indexes: a task is in at most one of them, and in none once it has ended
CREATE INDEX task_ready ON task(queue, priority, seq) WHERE state = 1;
CREATE INDEX task_scheduled ON task(run_at) WHERE state = 0;
CREATE INDEX task_leased ON task(worker) WHERE state = 2;
CREATE INDEX task_mailbox ON task(finished, seq) WHERE mailbox = 1 AND state = 3;

-- attempts that ended without ending their task; the last attempt of a task stands in its own row
CREATE TABLE attempt(
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    worker INTEGER,
    started REAL NOT NULL,
    wall REAL NOT NULL,
    cpu REAL NOT NULL,
    rss INTEGER NOT NULL,
    value BLOB NOT NULL,
    ended REAL NOT NULL,
    PRIMARY KEY(seq, number)
) STRICT, WITHOUT ROWID;

-- how many tasks of a queue are in a state: kept in the same transaction as the rows it counts
CREATE TABLE tally(
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY(queue, state)
) STRICT, WITHOUT ROWID;
"""

_OUTPUT = """
ALTER TABLE task ADD COLUMN output BLOB;  -- of the last attempt that ended; NULL where it has printed nothing
ALTER TABLE attempt ADD COLUMN output BLOB;
"""

_LIFE = """
-- `queue` has the labels that a task requires below the name, a line each: who stands in the same line can be taken by
-- the same workers.
ALTER TABLE task ADD COLUMN special INTEGER NOT NULL DEFAULT 0;  -- 1: see `special`, 2: it has a key, too

-- what few tasks have: so the many others pay nothing for it
CREATE TABLE special(
    seq INTEGER PRIMARY KEY,
    soft_timeout REAL NOT NULL,
    backoff_cap REAL NOT NULL,
    expires REAL,  -- by the master's clock; NULL: never
    ckey TEXT NOT NULL,
    unique_id BLOB,
    if_failed TEXT NOT NULL,
    take TEXT NOT NULL,
    blockers INTEGER NOT NULL  -- how many tasks it still waits for
) STRICT;

-- blocked tasks that wait for a place of their concurrency key, and how many tasks have a place
CREATE TABLE held(seq INTEGER PRIMARY KEY, queue TEXT NOT NULL, ckey TEXT NOT NULL, priority INTEGER NOT NULL) STRICT;
CREATE INDEX held_line ON held(queue, ckey, priority, seq);
CREATE TABLE place(
    queue TEXT NOT NULL,
    ckey TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY(queue, ckey)
) STRICT, WITHOUT ROWID;

-- unique tasks by what they have in common, and tasks by when they expire; rows of those that have ended go later
CREATE TABLE identity(
    unique_id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY(unique_id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE expiry(at REAL NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(at, seq)) STRICT, WITHOUT ROWID;

-- which tasks the task `seq` comes after; they stay in the store as long as it has not ended
CREATE TABLE depend(
    needs BLOB NOT NULL,
    seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    met INTEGER NOT NULL,
    PRIMARY KEY(needs, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX depend_of ON depend(seq, position);

-- unique tasks that were submitted while one like them was there: `id` is the task `into_id`
CREATE TABLE alias(id BLOB PRIMARY KEY, into_id BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX alias_of ON alias(into_id);

-- what a person has switched: queues that are paused, workers and hosts that are drained
CREATE TABLE switch(
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    since REAL NOT NULL,
    PRIMARY KEY(kind, name)
) STRICT, WITHOUT ROWID;

-- when tasks of queues with a rate have begun, as far back as the rate looks
CREATE TABLE begun(
    queue TEXT NOT NULL,
    at REAL NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY(queue, at)
) STRICT, WITHOUT ROWID;
"""

_EPOCH = """
-- `epoch` names the time line of this store: whoever opens a copy of it that was made for a backup begins a new one
CREATE TABLE about(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO about(name, value) VALUES('epoch', randomblob(16));
ALTER TABLE worker ADD COLUMN epoch BLOB NOT NULL DEFAULT x'';  -- in which it has leased: what it holds is of that one
UPDATE worker SET epoch = (SELECT value FROM about WHERE name = 'epoch');
"""

_RENEW = "UPDATE about SET value = randomblob(16) WHERE name = 'epoch';"

_SCHEDULES = """
-- one row for each schedule of master.toml; times are those of the wall
CREATE TABLE schedule(
    name TEXT PRIMARY KEY,
    rule TEXT NOT NULL,  -- the calendar and its time zone: another one begins anew
    upto REAL NOT NULL,  -- what was due until then is done with
    due REAL,  -- when the last task was due
    task BLOB
) STRICT, WITHOUT ROWID;
"""

_PLACES = """
ALTER TABLE special ADD COLUMN places BLOB;  -- which of its `depend` each result to take is of, if one is taken twice
"""

STEPS = (_FIRST, _OUTPUT, _LIFE, _EPOCH, _SCHEDULES, _PLACES)


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the file to the newest version. ConfigError where it is newer than this qdist or not qdist's at all.

    The mark of a backup goes last, together with the epoch that it was made in.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    owner = _owner(db, path, version)
    for number, step in enumerate(STEPS[version:], version + 1):
        _change(db, f"{step} PRAGMA user_version = {number}; PRAGMA application_id = {owner}")
    if owner == BACKUP_ID:
        _change(db, f"{_RENEW} PRAGMA application_id = {APPLICATION_ID}")


def epoch(db: sqlite3.Connection) -> bytes:
    """The epoch of a store, 16 bytes."""
    return bytes(db.execute("SELECT value FROM about WHERE name = 'epoch'").fetchone()[0])


def _change(db: sqlite3.Connection, script: str) -> None:
    db.executescript(f"BEGIN IMMEDIATE; {script}; COMMIT;")


def _owner(db: sqlite3.Connection, path: str, version: int) -> int:
    """Whose file it is: ours, or ours as a backup."""
    if version > len(STEPS):
        raise ConfigError(
            f"{path}: the store has schema version {version}, this qdist knows {len(STEPS)};"
            " install the qdist that wrote it, or a newer one"
        )
    owner = int(db.execute("PRAGMA application_id").fetchone()[0])
    strange = version > 0 or db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    if strange and owner not in (APPLICATION_ID, BACKUP_ID):
        raise ConfigError(f"{path}: this is a database of another program; name a file of its own for qdist")
    return owner or APPLICATION_ID

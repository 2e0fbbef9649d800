-- The database of one gateway: what waits, what could not be delivered, what sessions remember, what was damaged.
-- Operators may read it while the gateway runs (sqlite3 -readonly tidegate.db); only the gateway's writer thread writes.
-- A change here needs a new SCHEMA_VERSION in open.rs and a step that brings older files to it.

-- What the whole store remembers: 'epoch' (the life of the gateway that wrote last) and 'last' (a sequence number
-- at or above that of every row of lanes that are gone).
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One lane a route. The counters change in the same transaction as the rows, so that a start need not count.
CREATE TABLE lane (
    id       INTEGER PRIMARY KEY,
    rows     INTEGER NOT NULL DEFAULT 0,
    bytes    INTEGER NOT NULL DEFAULT 0,    -- footprints together
    last     INTEGER NOT NULL DEFAULT 0,    -- the highest sequence number it ever had
    route    TEXT NOT NULL UNIQUE,
    upstream TEXT NOT NULL
) STRICT;

-- What waits. The key is lane << 48 | sequence number: each lane is one range, rows are appended in order, and neither
-- reading nor forgetting in order needs a second index (which costs four times the throughput).
CREATE TABLE message (
    key          INTEGER PRIMARY KEY,
    bytes        INTEGER NOT NULL,          -- footprint; early in the row, so that forgetting reads no payload
    epoch        INTEGER NOT NULL,
    received_ms  INTEGER NOT NULL,          -- since 1970-01-01T00:00:00Z
    synchronised INTEGER NOT NULL,          -- 1: the clock could be believed at that moment
    qos          INTEGER NOT NULL,
    retain       INTEGER NOT NULL,
    duplicate    INTEGER NOT NULL,
    source       INTEGER NOT NULL,          -- 0 MQTT, 1 CoAP
    device       TEXT NOT NULL,
    topic        TEXT NOT NULL,
    properties   BLOB,                      -- encoded in row.rs
    payload      BLOB NOT NULL,
    checksum     INTEGER NOT NULL           -- CRC-32 of all the above
) STRICT;

-- What an upstream would not take, with the reason.
CREATE TABLE dead_letter (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    buried_ms    INTEGER NOT NULL,
    route        TEXT NOT NULL,
    reason       TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    received_ms  INTEGER NOT NULL,
    synchronised INTEGER NOT NULL,
    qos          INTEGER NOT NULL,
    retain       INTEGER NOT NULL,
    duplicate    INTEGER NOT NULL,
    source       INTEGER NOT NULL,
    device       TEXT NOT NULL,
    topic        TEXT NOT NULL,
    properties   BLOB,
    payload      BLOB NOT NULL,
    checksum     INTEGER NOT NULL           -- as in message, with seq for the key
) STRICT;

-- Keyed records: sessions, QoS 2 packet ids.
CREATE TABLE record (
    kind     INTEGER NOT NULL,
    key      BLOB NOT NULL,
    value    BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

-- Rows whose checksum was wrong, as they were found.
CREATE TABLE damaged_message (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    found_ms     INTEGER NOT NULL,
    key          ANY,
    bytes        ANY,
    epoch        ANY,
    received_ms  ANY,
    synchronised ANY,
    qos          ANY,
    retain       ANY,
    duplicate    ANY,
    source       ANY,
    device       ANY,
    topic        ANY,
    properties   ANY,
    payload      ANY,
    checksum     ANY
) STRICT;

CREATE TABLE damaged_record (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    found_ms INTEGER NOT NULL,
    kind     ANY,
    key      ANY,
    value    ANY,
    checksum ANY
) STRICT;

-- For people.
CREATE VIEW waiting AS
    SELECT route, key & 0xFFFFFFFFFFFF AS seq, epoch, datetime(received_ms / 1000, 'unixepoch') AS received,
           synchronised, device, topic, qos, payload
    FROM message JOIN lane ON lane.id = key >> 48;

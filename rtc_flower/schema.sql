-- The tables and views of a ledger file. Verification compares their text (V1): a changed word is
-- another format. Keys are the leading columns; rows are compared in their order.

-- The log, and what comes with it. Everything else is derived from the log and can be made again.

CREATE TABLE entry (
    idx INTEGER PRIMARY KEY,
    leaf BLOB NOT NULL
) STRICT;

CREATE TABLE checkpoint (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL
) STRICT;

CREATE TABLE samples (
    task INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE cosignature (
    size INTEGER,
    key BLOB,
    line TEXT NOT NULL,
    PRIMARY KEY (size, key)
) STRICT;

-- Derived rows: rtc_flower.schema.derive says which an entry causes.

CREATE TABLE roster (
    version INTEGER,
    position INTEGER,
    key BLOB NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (version, position)
) STRICT;

CREATE TABLE task (
    task INTEGER PRIMARY KEY,
    idx INTEGER NOT NULL,
    task_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    n INTEGER NOT NULL,
    k INTEGER NOT NULL,
    roster_version INTEGER NOT NULL,
    electorate INTEGER NOT NULL,
    rule TEXT NOT NULL,
    counting TEXT NOT NULL,
    first_row INTEGER NOT NULL
) STRICT;

CREATE TABLE class (
    task INTEGER,
    class INTEGER,
    name TEXT NOT NULL,
    PRIMARY KEY (task, class)
) STRICT;

CREATE TABLE ballot (
    idx INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,
    voter BLOB NOT NULL,
    ballot_id BLOB NOT NULL,
    contract TEXT NOT NULL
) STRICT;

CREATE TABLE counted (
    task INTEGER,
    position INTEGER,
    ballot INTEGER NOT NULL,
    decided INTEGER NOT NULL,
    PRIMARY KEY (task, position)
) STRICT;

CREATE TABLE absence (
    idx INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,
    voter BLOB NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE refusal (
    idx INTEGER PRIMARY KEY,
    task INTEGER NOT NULL,
    voter BLOB NOT NULL,
    reason TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL
) STRICT;

CREATE TABLE evidence (
    idx INTEGER PRIMARY KEY,
    task_id BLOB NOT NULL,
    voter BLOB NOT NULL
) STRICT;

CREATE TABLE server_key (
    idx INTEGER PRIMARY KEY,
    key BLOB NOT NULL
) STRICT;

CREATE TABLE closing (
    task INTEGER PRIMARY KEY,
    idx INTEGER NOT NULL,
    reason TEXT NOT NULL,
    counted INTEGER NOT NULL,
    uncounted INTEGER NOT NULL,
    absent INTEGER NOT NULL,
    uninvited INTEGER NOT NULL
) STRICT;

CREATE TABLE decision (
    task INTEGER,
    sample INTEGER,
    class INTEGER,
    support INTEGER NOT NULL,
    runner_up INTEGER NOT NULL,
    how TEXT NOT NULL,
    decided_at INTEGER NOT NULL,
    PRIMARY KEY (task, sample)
) STRICT;

-- id: first row of the task + counting position * n + sample.

CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    class INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Views for people. One of votes shows closed tasks only: while a task is open they are sealed.

CREATE VIEW vote AS
    SELECT t.task, b.id - t.first_row - o.position * t.n AS sample, b.class,
        c.name AS class_name, o.position, r.name AS node, b.hash
    FROM task t
    JOIN closing k ON k.task = t.task AND k.reason <> 'aborted'
    CROSS JOIN counted o ON o.task = t.task
    CROSS JOIN ballot v ON v.idx = o.ballot
    CROSS JOIN roster r ON r.version = t.roster_version AND r.key = v.voter
    CROSS JOIN block b ON b.id >= t.first_row + o.position * t.n
        AND b.id < t.first_row + (o.position + 1) * t.n
    CROSS JOIN class c ON c.task = t.task AND c.class = b.class;

CREATE VIEW fork AS
    SELECT task, sample, class, class_name, count(*) AS length,
        min(position) AS first_position, max(position) AS last_position
    FROM vote GROUP BY task, sample, class;

CREATE VIEW outcome AS
    SELECT d.task, d.sample, d.class, c.name AS class_name, d.support, d.runner_up, d.how,
        d.decided_at
    FROM decision d LEFT JOIN class c ON c.task = d.task AND c.class = d.class;

CREATE VIEW best_chain AS
    SELECT v.task, v.sample, row_number() OVER fork AS height, v.class, v.class_name,
        v.node, v.hash, coalesce(lag(v.hash) OVER fork, t.task_id) AS parent
    FROM vote v JOIN task t ON t.task = v.task
    CROSS JOIN decision d ON d.task = v.task AND d.sample = v.sample AND d.class = v.class
    WINDOW fork AS (PARTITION BY v.task, v.sample ORDER BY v.position);

CREATE VIEW node_score AS
    SELECT v.node, count(*) AS votes, sum(v.class = d.class) AS blocks_in_best_chain,
        round(avg(v.class = d.class), 4) AS agreement
    FROM vote v CROSS JOIN decision d ON d.task = v.task AND d.sample = v.sample
    GROUP BY v.node;

CREATE VIEW progress AS
    SELECT t.task, t.electorate, count(b.idx) AS ballots,
        (SELECT count(*) FROM counted o WHERE o.task = t.task) AS counted,
        (SELECT max(o.decided) FROM counted o WHERE o.task = t.task) AS decided,
        t.n AS samples, k.reason AS closed
    FROM task t LEFT JOIN ballot b ON b.task = t.task LEFT JOIN closing k ON k.task = t.task
    GROUP BY t.task;

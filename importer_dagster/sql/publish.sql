-- Statements that publish staged rows. Names in braces are filled in by
-- writer/publish.py; %(…)s are bound values.
--
--   {live}        the table that BI reads
--   {superseded}  rows that other rows have replaced; same columns
--   {repeats}     merge and scd2 only: records with the contents of a row of {live} or {superseded}, in blocks
--   {said_again}  the records of {repeats}, a row for each
--   importer_stage  the staging table: the rows of this load
--   {stage}       the staging table, or the rest of it without unchanged rows
--   {named}       keys and row numbers of all good records of this load, staged or not
--   {mine}        restricts table t to this load's tenant. It is left out if t is joined by {same_key}, which
--                 includes the tenant: with both, and without statistics, PostgreSQL expects so few rows
--                 that it compares all pairs
--   {current}     scd2: restricts table t to current versions

-- name: create_stage
-- like the table of superseded rows, which has only the columns of a delivery
CREATE TEMP TABLE importer_stage (LIKE {superseded} INCLUDING DEFAULTS) ON COMMIT DROP;

-- name: create_named
CREATE TEMP TABLE importer_named ON COMMIT DROP AS SELECT {data_key}, _hash, _row FROM {superseded} WITH NO DATA;

-- name: take_unchanged
-- `found` pairs the named rows with those of the table. Nothing is recorded unless it is known
-- that all rows between the least and the greatest key were compared.
WITH near AS MATERIALIZED ({near}), found AS MATERIALIZED ({found}), noted AS (
    INSERT INTO {repeats} ({repeats_columns})
    SELECT {blocks_of_g} FROM (
        SELECT %(tenant)s::text AS _tenant, {data_key}, %(load)s::bigint AS _load_id, _row, _same_as
        FROM found WHERE _same_as IS NOT NULL AND {known}
    ) AS g GROUP BY {block_of_g}
)
SELECT {known}, count(_same_as), coalesce(array_agg(_row) FILTER (WHERE _same_as IS NULL), '{{}}') FROM found;

-- name: near_by_range
SELECT {t_data_key}, t._hash, t._load_id FROM {live} t
WHERE {mine} AND {current}
  AND t.{first} BETWEEN (SELECT {first} FROM importer_named ORDER BY {first} LIMIT 1)
                    AND (SELECT {first} FROM importer_named ORDER BY {first} DESC LIMIT 1)
LIMIT %(most)s

-- name: found_by_range
SELECT g.*, t._load_id AS _same_as
FROM importer_named g LEFT JOIN near t ON {same_data_key} AND t._hash = g._hash

-- name: found_by_key
SELECT g.*, t._load_id AS _same_as
FROM importer_named g LEFT JOIN LATERAL (
    SELECT t._load_id FROM {live} t
    WHERE {mine} AND {same_data_key} AND {current} AND t._hash = g._hash LIMIT 1
) AS t ON TRUE

-- name: clear_named
TRUNCATE importer_named;

-- name: has_duplicates
SELECT EXISTS (SELECT FROM {named} AS named GROUP BY {fields} HAVING count(*) > 1);

-- name: take_duplicates
-- of rows with the same key the first is kept; nulls are no duplicates of each other
CREATE TEMP TABLE importer_duplicates ON COMMIT DROP AS
WITH ranked AS (
    SELECT _row,
           row_number() OVER same AS n,
           first_value(_row) OVER same AS first_row
    FROM {named} AS named
    WHERE {not_null}
    WINDOW same AS (PARTITION BY {fields} ORDER BY _row)
)
SELECT _row, first_row FROM ranked WHERE n > 1;

-- name: delete_duplicates
DELETE FROM importer_stage s USING importer_duplicates d WHERE s._row = d._row;

-- name: noted_duplicates
CREATE TEMP TABLE importer_gone ON COMMIT DROP AS
SELECT t._place, t._load_id, t._row FROM {said_again} t JOIN importer_duplicates d ON d._row = t._row
WHERE {mine} AND t._load_id = %(load)s;

-- name: duplicates_between
SELECT _row, first_row FROM importer_duplicates
WHERE _row BETWEEN %(first)s AND %(last)s ORDER BY _row;

-- name: forget_duplicates
DROP TABLE importer_duplicates;

-- name: between
-- ordered, so that PostgreSQL uses the index of the keys, which finds the first row at once
SELECT t.{first} FROM {live} t WHERE {mine} AND t.{first} BETWEEN %(least)s AND %(greatest)s
ORDER BY t.{first} LIMIT 1;

-- name: insert_stage
INSERT INTO {into} ({columns}) SELECT {columns} FROM {stage};

-- name: retire_load
WITH gone AS (
    DELETE FROM {live} t WHERE {mine} AND t._load_id = %(prior)s RETURNING {columns}
)
INSERT INTO {superseded} ({columns}) SELECT {columns} FROM gone;

-- name: retire_tenant
WITH gone AS (DELETE FROM {live} t WHERE {mine} RETURNING {columns})
INSERT INTO {superseded} ({columns}) SELECT {columns} FROM gone;

-- name: revive_load
WITH back AS (
    DELETE FROM {superseded} t WHERE {mine} AND t._load_id = %(load)s RETURNING {columns}
)
INSERT INTO {live} ({columns}) SELECT {columns} FROM back;

-- name: delete_load
DELETE FROM {table} t WHERE {mine} AND t._load_id = %(load)s;

-- name: count_live
SELECT count(*) FROM {live} t WHERE {mine} AND t._load_id = %(load)s

-- name: recompute_day_winners
-- replace: the rows of the newest business date; of one key the row of the later path
CREATE TEMP TABLE importer_winners ON COMMIT DROP AS
SELECT {distinct_on} t._load_id, t._row
FROM (
    SELECT {key_or_row} _load_id, _row FROM {live} t WHERE {mine} AND t._business_date = %(date)s
    UNION ALL
    SELECT {key_or_row} _load_id, _row FROM {superseded} t WHERE {mine} AND t._business_date = %(date)s
) AS t
JOIN importer.loads l ON l.load_id = t._load_id
WHERE (l.status = 'loaded' AND l.superseded_by IS NULL) OR l.load_id = %(load)s
ORDER BY {key_or_row} l.path COLLATE "C" DESC;

-- name: recompute_day_out
WITH gone AS (
    DELETE FROM {live} t
    WHERE {mine} AND NOT EXISTS (
        SELECT FROM importer_winners w WHERE (w._load_id, w._row) = (t._load_id, t._row))
    RETURNING {columns}
)
INSERT INTO {superseded} ({columns}) SELECT {columns} FROM gone;

-- name: recompute_day_in
WITH back AS (
    DELETE FROM {superseded} t
    USING importer_winners w
    WHERE {mine} AND (w._load_id, w._row) = (t._load_id, t._row)
    RETURNING {t_columns}
)
INSERT INTO {live} ({columns}) SELECT {columns} FROM back;

-- name: find_unchanged
-- rows of the newest delivery that the table has already: recorded as repeats instead of written again
CREATE TEMP TABLE importer_unchanged ON COMMIT DROP AS
SELECT {g_key}, g._load_id, g._row, g._hash, t._load_id AS _same_as, t._hash AS _hash_there
FROM importer_stage g JOIN {live} t ON {same_key}
WHERE {current} AND ({t_written}) IS NOT DISTINCT FROM ({g_written});

-- name: note_unchanged
INSERT INTO {repeats} ({repeats_columns})
SELECT {blocks_of_g} FROM importer_unchanged g GROUP BY {block_of_g};

-- name: note_hashes
-- for rows without a hash, or with one of another secret or version: they are older than these, or were changed in
-- place since. A load replaces some, so that none has to rewrite a large table
UPDATE {live} t SET _hash = g._hash
FROM (
    SELECT * FROM importer_unchanged WHERE _hash_there IS DISTINCT FROM _hash AND _hash IS NOT NULL
    LIMIT %(most_hashes)s
) AS g
WHERE {same_key} AND {current};

-- name: create_rest
-- the other staged rows, in a new table: to delete from the staging table would take twice as long
CREATE TEMP TABLE importer_rest ON COMMIT DROP AS
SELECT g.* FROM importer_stage g
WHERE NOT EXISTS (SELECT FROM importer_unchanged u WHERE u._row = g._row);

-- name: merge_retire
INSERT INTO {superseded} ({columns})
SELECT {t_columns} FROM {live} t JOIN {stage} g ON {same_key};

-- name: merge_upsert
INSERT INTO {live} ({columns}) SELECT {columns} FROM {stage}
ON CONFLICT ({key}) DO UPDATE SET ({columns}) = ROW ({excluded});

-- name: scd2_close_absent
UPDATE {live} t SET _valid_to = %(date)s
WHERE {mine} AND {current} AND NOT EXISTS (SELECT FROM {named} AS g WHERE {same_key});

-- name: scd2_close_changed
UPDATE {live} t SET _valid_to = %(date)s FROM {stage} g
WHERE {same_key} AND {current};

-- name: recompute_find_keys
CREATE TEMP TABLE importer_keys ON COMMIT DROP AS
SELECT DISTINCT {key} FROM (
    SELECT {key} FROM importer_stage
    UNION ALL SELECT {key} FROM {live} t WHERE {mine} AND t._load_id = ANY(%(touched)s)
    UNION ALL SELECT {key} FROM {superseded} t WHERE {mine} AND t._load_id = ANY(%(touched)s)
    UNION ALL SELECT {key} FROM {said_again} t WHERE {mine} AND t._load_id = ANY(%(touched)s)
    {and_absent}
) AS touched;

-- name: and_absent
-- scd2 with `absent: close`: keys that are current on the day and not in the delivery
UNION ALL SELECT {key} FROM {live} t
WHERE {mine} AND t._business_date < %(date)s AND (t._valid_to IS NULL OR t._valid_to >= %(date)s)

-- name: recompute_frozen
-- scd2 with `absent: close`: the last day of which retention has kept only versions; null if there is none.
-- All loads of that day and before are pruned, and none is added or removed any more.
SELECT max(business_date) FROM importer.loads
WHERE type = %(type)s AND tenant = %(tenant)s AND pruned_at IS NOT NULL
  AND status = 'loaded' AND superseded_by IS NULL AND %(absent_closes)s

-- name: and_thawed
-- versions that ended until the frozen day stay as they are
AND (t._valid_to > %(frozen)s::date OR t._valid_to IS NULL OR %(frozen)s::date IS NULL)

-- name: recompute_versions
CREATE TEMP TABLE importer_versions ON COMMIT DROP AS
SELECT {t_columns} FROM {live} t JOIN importer_keys g ON {same_key} {and_thawed}
UNION ALL SELECT {t_columns} FROM {superseded} t JOIN importer_keys g ON {same_key}
UNION ALL SELECT {columns} FROM importer_stage;

-- name: recompute_repeated
-- If few keys are touched, most blocks have none of them, and are not unpacked.
CREATE TEMP TABLE importer_repeated ON COMMIT DROP AS
SELECT t.* FROM {said_again_of_keys} t JOIN importer_keys g ON {same_key} WHERE {mine};

-- name: names_a_key
(SELECT count(*) FROM (SELECT FROM importer_keys LIMIT 17) AS few) > 16
OR r.{first} && ARRAY(SELECT {first} FROM importer_keys)

-- name: recompute_said
-- The record of every delivery for each touched key; a delivery has a key once at most.
-- Replaced loads are not in force; they are included, so that the load that replaced them can
-- be unloaded. Unloaded loads are left out.
CREATE TEMP TABLE importer_said ON COMMIT DROP AS
WITH claims AS (
    SELECT {key}, _load_id, _row, _load_id AS source FROM importer_versions
    UNION ALL
    SELECT {key}, _load_id, _row, _same_as FROM importer_repeated
)
SELECT {g_key}, g._load_id, g._row, g.source, l.business_date, l.path,
       md5(ROW({t_data})::text) AS content,
       l.superseded_by IS NULL AS in_force
FROM claims g
JOIN importer.loads l ON l.load_id = g._load_id
JOIN importer_versions t ON {same_key} AND t._load_id = g.source
WHERE l.status = 'loaded' OR l.load_id = %(load)s;

-- name: recompute_claims_merge
-- In order of business date and path, records with equal contents form a run. The table gets the
-- contents of the last run, with the trace columns of the delivery that began the run.
CREATE TEMP TABLE importer_claims ON COMMIT DROP AS
WITH marked AS (
    SELECT *, content IS DISTINCT FROM lag(content) OVER ranked AS starts
    FROM importer_said WHERE in_force
    WINDOW ranked AS (PARTITION BY {key} ORDER BY business_date, path COLLATE "C")
), numbered AS (
    SELECT *, count(*) FILTER (WHERE starts) OVER ranked AS run
    FROM marked
    WINDOW ranked AS (PARTITION BY {key} ORDER BY business_date, path COLLATE "C")
)
SELECT {key}, _load_id, _row, source, business_date, NULL::date AS valid_to,
       first_value(_load_id) OVER (PARTITION BY {key}, run ORDER BY business_date, path COLLATE "C") AS start,
       CASE WHEN NOT starts THEN 'repeats'
            WHEN run = max(run) OVER (PARTITION BY {key}) THEN 'live'
            ELSE 'superseded' END AS place
FROM numbered;

-- name: recompute_claims_scd2
-- Of the records of one day that of the last path counts. In order of business date, records
-- with equal contents form a run, which is a version. It ends when the next one begins or, with
-- `absent: close`, on the next delivered day without the key.
-- A version that was current on the frozen day counts as delivered on that day.
CREATE TEMP TABLE importer_claims ON COMMIT DROP AS
WITH delivered AS (
    SELECT DISTINCT business_date FROM importer.loads
    WHERE type = %(type)s AND tenant = %(tenant)s AND superseded_by IS NULL
      AND (status = 'loaded' OR load_id = %(load)s) AND %(absent_closes)s
), days AS (
    SELECT business_date AS day, lead(business_date) OVER (ORDER BY business_date) AS next_day FROM delivered
), ranked AS (
    SELECT *, greatest(business_date, %(frozen)s::date) AS day,
           lead(path) OVER (PARTITION BY {key}, business_date ORDER BY path COLLATE "C") IS NULL AS speaks
    FROM importer_said WHERE in_force
), marked AS (
    SELECT *,
           lead(business_date) OVER by_day AS next_said,
           content IS DISTINCT FROM lag(content) OVER by_day
               OR coalesce(lag(next_day) OVER by_day < business_date, FALSE) AS starts
    FROM ranked LEFT JOIN days USING (day)
    WHERE speaks
    WINDOW by_day AS (PARTITION BY {key} ORDER BY business_date)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE starts) OVER (PARTITION BY {key} ORDER BY business_date) AS run
    FROM marked
)
SELECT {key}, _load_id, _row, source, business_date,
       last_value(least(next_said, next_day)) OVER whole_run AS valid_to,
       first_value(_load_id) OVER whole_run AS start,
       CASE WHEN starts THEN 'live' ELSE 'repeats' END AS place
FROM numbered
WINDOW whole_run AS (PARTITION BY {key}, run ORDER BY business_date
                     ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
UNION ALL
SELECT {key}, _load_id, _row, source, business_date, NULL, NULL, 'superseded' FROM ranked WHERE NOT speaks;

-- name: recompute_sent_again
INSERT INTO importer_claims ({key}, _load_id, _row, source, business_date, place)
SELECT {key}, _load_id, _row, source, business_date, 'superseded' FROM importer_said WHERE NOT in_force;

-- name: recompute_clear
DELETE FROM {table} t USING importer_keys g WHERE {same_key} {and_thawed};

-- name: drop_repeats
-- the records to delete are given by _load_id and _row, with their blocks
WITH blocks AS (
    DELETE FROM {repeats} t WHERE t.ctid = ANY (ARRAY(SELECT DISTINCT _place FROM {gone})) RETURNING t.*
)
INSERT INTO {repeats} ({repeats_columns})
SELECT {blocks_of_g} FROM {blocks_said} g
WHERE NOT EXISTS (SELECT FROM {gone} d WHERE (d._load_id, d._row) = (g._load_id, g._row))
GROUP BY {block_of_g};

-- name: recompute_rows
INSERT INTO {into} ({columns}{valid_to})
SELECT {t_contents}, {trace_from_claim}{g_valid_to}
FROM importer_claims g JOIN importer_versions t ON {same_key} AND t._load_id = g.source
WHERE g.place = %(place)s;

-- name: recompute_repeats
INSERT INTO {repeats} ({repeats_columns})
SELECT {blocks_of_g} FROM (
    SELECT {key}, _load_id, _row, start AS _same_as FROM importer_claims WHERE place = 'repeats'
) AS g GROUP BY {block_of_g};

-- name: recompute_counts
SELECT count(*) FILTER (WHERE place = 'live'),
       count(*) FILTER (WHERE place = 'repeats'),
       count(*) FILTER (WHERE place = 'superseded')
FROM importer_claims WHERE _load_id = %(load)s;

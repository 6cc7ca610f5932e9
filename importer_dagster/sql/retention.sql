-- What `importer prune` deletes. Names in braces are filled in by operations/retention.py and
-- row_retention.py; %(…)s are bound values. %(before)s: what is older than this is deleted.
--
-- Rows of importer.loads that are needed, so that old_loads does not find them:
--   * loads in force: to recognise the same file again, to place a late file, for the usual
--     number of rows, for the days that were delivered, to trace rows of the data;
--   * the load replaced by a load in force: unload says that it cannot restore it;
--   * the last load of each delivery: for `importer status`;
--   * loads refused by a person: the same content stays refused;
--   * held loads, and replaced loads whose rows are still there.
-- In the end (old_done) all but the last two are deleted if the data has no row of them.

-- name: old_done
-- All loads of deliveries that need nothing any more: their replaced rows are deleted (append
-- has none, then there must never have been a row). Kept are the newest deliveries of a type and
-- tenant, the newest ones whose history was deleted, which are the horizon for late files, and
-- loads that have a drift event.
WITH newest AS (
    SELECT tenant, max(business_date) AS day,
           max(business_date) FILTER (WHERE pruned_at IS NOT NULL AND status = 'loaded') AS horizon
    FROM importer.loads
    WHERE type = %(type)s AND (status <> 'loaded' OR superseded_by IS NULL) GROUP BY tenant
)
SELECT l.tenant, array_agg(l.load_id ORDER BY l.load_id) AS ids, max(l.finished_at) AS at
FROM importer.loads l JOIN newest n USING (tenant)
WHERE l.type = %(type)s
GROUP BY l.tenant, l.business_date, l.path, n.day, n.horizon
HAVING max(coalesce(l.finished_at, 'infinity')) < %(before)s
   AND l.business_date < n.day AND l.business_date IS DISTINCT FROM n.horizon
   AND NOT bool_or(l.status IN ('held', 'loading') OR (l.status = 'refused' AND l.decided_by IS NOT NULL))
   AND bool_and(l.status <> 'loaded' OR l.pruned_at IS NOT NULL OR (l.rows_loaded = 0 AND %(empties)s))
   AND NOT EXISTS (SELECT FROM importer.drift d WHERE d.load_id = ANY(array_agg(l.load_id)))
   AND NOT EXISTS (SELECT FROM importer.loads e WHERE e.superseded_by = ANY(array_agg(l.load_id))
                   AND e.load_id <> ALL(array_agg(l.load_id)))

-- name: owners
-- those of some loads that have rows in a table
SELECT DISTINCT _load_id FROM {table} t WHERE _load_id = ANY(%(ids)s)

-- name: old_loads
-- Refused, failed, unloaded and replaced loads that are not needed any more. In a dry run
-- %(marked)s are loads whose rows would be deleted by now, %(gone)s loads that would be deleted.
SELECT l.load_id, l.finished_at AS at FROM importer.loads l
WHERE l.finished_at < %(before)s
  AND (l.status IN ('failed', 'unloaded')
       OR (l.status = 'refused' AND l.decided_by IS NULL)
       OR (l.status = 'loaded' AND l.superseded_by IS NOT NULL
           AND (l.pruned_at IS NOT NULL OR l.load_id = ANY(%(marked)s)) AND NOT EXISTS (
               SELECT FROM importer.loads n
               WHERE n.load_id = l.superseded_by AND n.status = 'loaded' AND n.superseded_by IS NULL)))
  AND EXISTS (
      SELECT FROM importer.loads n
      WHERE (n.type, n.tenant, n.business_date, n.path) = (l.type, l.tenant, l.business_date, l.path)
        AND n.load_id > l.load_id)
  AND NOT EXISTS (
      SELECT FROM importer.loads e WHERE e.superseded_by = l.load_id AND e.load_id <> ALL(%(gone)s))
  AND l.load_id <> ALL(%(gone)s)
ORDER BY l.load_id

-- name: delete_loads
WITH gone AS (DELETE FROM importer.loads WHERE load_id = ANY(%(ids)s) RETURNING load_id),
     reasons AS (DELETE FROM importer.reject_reasons r USING gone WHERE r.load_id = gone.load_id)
DELETE FROM importer.reject_records r USING gone WHERE r.load_id = gone.load_id

-- name: old_rejects
SELECT load_id, finished_at AS at FROM importer.loads
WHERE finished_at < %(before)s AND (rows_rejected > 0 OR status = 'refused') AND rejects_pruned_at IS NULL
  AND status <> 'held' AND load_id <> ALL(%(gone)s)
ORDER BY load_id

-- name: delete_rejects
WITH marked AS (
    UPDATE importer.loads SET rejects_pruned_at = clock_timestamp() WHERE load_id = ANY(%(ids)s) RETURNING load_id
), reasons AS (DELETE FROM importer.reject_reasons r USING marked WHERE r.load_id = marked.load_id)
DELETE FROM importer.reject_records r USING marked WHERE r.load_id = marked.load_id

-- name: old_drift
-- kept are events that versions declare, and the first and the last event of each kind and column
SELECT d.ctid AS id, d.at FROM (
    SELECT d.ctid, l.finished_at AS at, d.version,
           row_number() OVER seen AS nth, row_number() OVER seen_last AS nth_last
    FROM importer.drift d JOIN importer.loads l USING (load_id)
    WINDOW seen AS (PARTITION BY l.type, l.tenant, d.kind, d.column_name ORDER BY l.business_date, d.load_id),
           seen_last AS (PARTITION BY l.type, l.tenant, d.kind, d.column_name
                         ORDER BY l.business_date DESC, d.load_id DESC)
) AS d
WHERE d.at < %(before)s AND d.version IS NULL AND d.nth > 1 AND d.nth_last > 1

-- name: delete_drift
DELETE FROM importer.drift WHERE ctid IN (SELECT id FROM ({old_drift}) AS old LIMIT %(some)s)

-- name: old_findings
SELECT g.ctid AS id, l.finished_at AS at FROM importer.gate g JOIN importer.loads l USING (load_id)
WHERE l.finished_at < %(before)s AND l.status <> 'held' AND l.load_id <> ALL(%(gone)s)

-- name: delete_findings
DELETE FROM importer.gate WHERE ctid IN (SELECT id FROM ({old_findings}) AS old LIMIT %(some)s)

-- name: old_missing
SELECT ctid AS id, reported_at AS at FROM importer.missing
WHERE reported_at < %(before)s AND expected_at < %(before)s

-- name: delete_missing
DELETE FROM importer.missing WHERE ctid IN (SELECT id FROM ({old_missing}) AS old LIMIT %(some)s)

-- name: old_profiles
-- samples of values that could not be parsed (retyped) are kept as long as the event: they show whether a new
-- spec can parse them
SELECT d.ctid AS id, d.at FROM (
    SELECT d.ctid, l.finished_at AS at, d.kind, d.profile,
           row_number() OVER (PARTITION BY l.type, l.tenant, d.kind, d.column_name
                              ORDER BY l.business_date DESC, d.load_id DESC) AS nth_last
    FROM importer.drift d JOIN importer.loads l USING (load_id)
) AS d
WHERE d.at < %(before)s AND d.kind <> 'retyped' AND d.profile ? 'values' AND d.nth_last > 1

-- name: delete_profiles
UPDATE importer.drift SET profile = profile - 'values'
WHERE ctid IN (SELECT id FROM ({old_profiles}) AS old LIMIT %(some)s)

-- name: old_replaced
-- earlier contents of files that were sent again: only needed to unload the load that replaced them
SELECT l.load_id, l.type, l.tenant, n.finished_at AS at
FROM importer.loads l JOIN importer.loads n ON n.load_id = l.superseded_by
WHERE l.status = 'loaded' AND (l.pruned_at IS NULL OR l.pruned_at < n.finished_at) AND n.finished_at < %(before)s
ORDER BY l.load_id

-- name: old_copies
-- replace: days before the last two that were delivered
SELECT l.load_id, l.type, l.tenant, l.finished_at AS at
FROM importer.loads l
WHERE l.type = %(type)s AND l.status = 'loaded' AND l.superseded_by IS NULL AND l.pruned_at IS NULL
  AND l.finished_at < %(before)s
  AND (SELECT count(DISTINCT n.business_date) FROM importer.loads n
       WHERE n.type = l.type AND n.tenant = l.tenant AND n.status = 'loaded' AND n.superseded_by IS NULL
         AND n.business_date > l.business_date) >= 2
ORDER BY l.load_id

-- name: mark_pruned
UPDATE importer.loads SET pruned_at = clock_timestamp() WHERE load_id = ANY(%(ids)s)

-- name: delete_rows
DELETE FROM {table} t WHERE t._load_id = ANY(%(ids)s)

-- name: delete_repeats
WITH gone AS (DELETE FROM {table} t WHERE t._load_id = ANY(%(ids)s) RETURNING cardinality(t._row) AS records)
SELECT coalesce(sum(records), 0)::bigint FROM gone

-- name: old_history
-- merge, scd2: loads of days before all days that arrived since %(before)s, and before the last day. With
-- `absent: close` (%(closes)s) only versions are kept, so replaced loads are included.
SELECT l.load_id, l.type, l.tenant, l.finished_at AS at
FROM importer.loads l
WHERE l.type = %(type)s AND l.status = 'loaded' AND (l.superseded_by IS NULL OR %(closes)s)
  AND l.pruned_at IS NULL AND l.load_id <> ALL(%(marked)s)
  AND l.business_date < (
      SELECT least(min(n.business_date) FILTER (WHERE n.finished_at >= %(before)s), max(n.business_date))
      FROM importer.loads n
      WHERE n.type = l.type AND n.tenant = l.tenant AND n.status = 'loaded' AND n.superseded_by IS NULL)
ORDER BY l.load_id

-- name: history_claims
-- all records of each key before the horizon; `last` marks the newest one
CREATE TEMP TABLE importer_claims ON COMMIT DROP AS
WITH claims AS (
    SELECT {key}, _load_id, _row, _load_id AS source FROM {live} t WHERE {mine}
    UNION ALL SELECT {key}, _load_id, _row, _load_id FROM {superseded} t WHERE {mine}
    UNION ALL SELECT {key}, _load_id, _row, _same_as FROM {said_again} t WHERE {mine}
)
SELECT {c_key}, c._load_id, c._row, c.source,
       row_number() OVER (PARTITION BY {c_key} ORDER BY l.business_date DESC, l.path COLLATE "C" DESC) = 1 AS last
FROM claims c JOIN importer.loads l ON l.load_id = c._load_id
WHERE l.status = 'loaded' AND l.superseded_by IS NULL AND l.business_date < %(horizon)s

-- name: history_keep
-- Kept are the last record of a key before the horizon, and the row that it repeats. Of versions,
-- everything in the table that BI reads is kept.
CREATE TEMP TABLE importer_kept ON COMMIT DROP AS
SELECT _load_id, _row FROM importer_claims WHERE last
UNION SELECT s._load_id, s._row FROM importer_claims c JOIN importer_claims s
    ON {same_claim} AND s._load_id = c.source AND s.source = s._load_id WHERE c.last

-- name: history_gone
DELETE FROM {superseded} t USING importer_claims c
WHERE {mine} AND (c._load_id, c._row) = (t._load_id, t._row)
  AND NOT EXISTS (SELECT FROM importer_kept k WHERE (k._load_id, k._row) = (t._load_id, t._row))

-- name: history_repeats
CREATE TEMP TABLE importer_gone ON COMMIT DROP AS
SELECT t._place, t._load_id, t._row FROM {said_again} t JOIN importer_claims c
    ON (c._load_id, c._row) = (t._load_id, t._row)
WHERE {mine} AND NOT EXISTS (SELECT FROM importer_kept k WHERE (k._load_id, k._row) = (t._load_id, t._row))

-- Deletes old records of Dagster; %(before)s: what is older than this. Dagster's own
-- `delete_run` also deletes a run's materializations, so that its days would count as missing
-- and be imported again. These statements keep the last one of each asset and day for a time.

-- name: old_runs
SELECT run_id, coalesce(to_timestamp(end_time), update_timestamp AT TIME ZONE 'UTC') AS at FROM runs
WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED')
  AND coalesce(to_timestamp(end_time), update_timestamp AT TIME ZONE 'UTC') < %(before)s
ORDER BY id

-- name: count_events
SELECT count(*) FROM event_logs e WHERE e.run_id = ANY(%(ids)s) AND {replaceable}

-- name: replaceable
-- lines of the log have no event type, hence IS NOT DISTINCT FROM
NOT (e.dagster_event_type IS NOT DISTINCT FROM 'ASSET_MATERIALIZATION' AND NOT EXISTS (
    SELECT FROM event_logs n
    WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type AND n.id > e.id
      AND (n.partition = e.partition OR (n.partition IS NULL AND e.partition IS NULL))))

-- name: delete_events
WITH gone AS (DELETE FROM event_logs e WHERE e.run_id = ANY(%(ids)s) AND {replaceable} RETURNING e.id),
     tags AS (DELETE FROM asset_event_tags t USING gone WHERE t.event_id = gone.id)
SELECT count(*) FROM gone

-- name: delete_runs
-- deletes the tags of runs, too, by their foreign key
DELETE FROM runs WHERE run_id = ANY(%(ids)s)

-- name: stray_events
-- events without a run: all but the last of each asset, day and kind; also the last one if it is older than %(done)s
SELECT e.id, e.timestamp AT TIME ZONE 'UTC' AS at FROM event_logs e
WHERE e.timestamp AT TIME ZONE 'UTC' < %(before)s AND NOT EXISTS (SELECT FROM runs r WHERE r.run_id = e.run_id)
  AND (e.asset_key IS NULL OR e.timestamp AT TIME ZONE 'UTC' < %(done)s OR EXISTS (
      SELECT FROM event_logs n
      WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type AND n.id > e.id
        AND (n.partition = e.partition OR (n.partition IS NULL AND e.partition IS NULL))))

-- name: delete_stray_events
WITH gone AS (
    DELETE FROM event_logs WHERE id IN (SELECT id FROM ({stray_events}) AS old LIMIT %(some)s) RETURNING id),
     tags AS (DELETE FROM asset_event_tags t USING gone WHERE t.event_id = gone.id)
SELECT count(*) FROM gone

-- name: checks
-- All but the last result of each check. A result does not replace the row by which it was planned,
-- since only that row has the day. Planned rows are deleted as soon as the check has any newer row.
SELECT c.id, c.create_timestamp AT TIME ZONE 'UTC' AS at FROM asset_check_executions c
WHERE c.create_timestamp AT TIME ZONE 'UTC' < %(before)s AND EXISTS (
    SELECT FROM asset_check_executions n
    WHERE n.asset_key = c.asset_key AND n.check_name = c.check_name AND n.id > c.id
      AND (c.execution_status = 'PLANNED'
           OR (n.execution_status <> 'PLANNED' AND n.partition IS NOT DISTINCT FROM c.partition)))

-- name: delete_checks
WITH gone AS (
    DELETE FROM asset_check_executions WHERE id IN (SELECT id FROM ({checks}) AS old LIMIT %(some)s) RETURNING id)
SELECT count(*) FROM gone

-- name: backfills
SELECT id, timestamp AT TIME ZONE 'UTC' AS at FROM bulk_actions
WHERE timestamp AT TIME ZONE 'UTC' < %(before)s
  AND status IN ('COMPLETED', 'COMPLETED_SUCCESS', 'COMPLETED_FAILED', 'FAILED', 'CANCELED')

-- name: delete_backfills
WITH gone AS (
    DELETE FROM bulk_actions WHERE id IN (SELECT id FROM ({backfills}) AS old LIMIT %(some)s) RETURNING key),
     tags AS (DELETE FROM backfill_tags t USING gone WHERE t.backfill_id = gone.key)
SELECT count(*) FROM gone

-- name: snapshots_in_use
-- descriptions of jobs and plans that runs refer to
SELECT s.id, s.snapshot_id, s.snapshot_body FROM snapshots s
WHERE EXISTS (SELECT FROM runs r WHERE r.snapshot_id = s.snapshot_id OR position(s.snapshot_id IN r.run_body) > 0)

-- name: old_snapshots
-- Only those older than all that are in use, so that none of a run that is being created is deleted.
SELECT id FROM snapshots WHERE id < %(first)s AND snapshot_id <> ALL(%(parents)s)

-- name: delete_snapshots
DELETE FROM snapshots WHERE id = ANY(%(ids)s)

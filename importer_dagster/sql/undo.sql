-- What unloading a load, or releasing a held one, changes in the table that BI reads.
-- Names in braces are filled in by operations/row_diff.py.
--
--   {live}       the table that BI reads
--   {mine}       restricts table t to the load's tenant
--   {concerned}  restricts table t to rows that may change
--   {same_row}   whether rows before (b) and after (a) are the same row

-- name: snapshot
CREATE TEMP TABLE {into} ON COMMIT DROP AS SELECT * FROM {live} t WHERE {mine} AND {concerned};

-- name: compare
CREATE TEMP TABLE importer_changes ON COMMIT DROP AS
SELECT CASE WHEN b._load_id IS NULL THEN 'back' WHEN a._load_id IS NULL THEN 'gone' ELSE 'changed' END AS kind,
       to_jsonb(b) AS before,
       to_jsonb(a) AS after
FROM importer_before b FULL JOIN importer_after a ON {same_row}
WHERE b._load_id IS NULL OR a._load_id IS NULL
   OR to_jsonb(b) - %(trace)s::text[] <> to_jsonb(a) - %(trace)s::text[];

-- name: count_changes
SELECT count(*) FILTER (WHERE kind = 'gone'),
       count(*) FILTER (WHERE kind = 'back'),
       count(*) FILTER (WHERE kind = 'changed')
FROM importer_changes;

-- name: examples
SELECT kind, before, after FROM (
    SELECT *, row_number() OVER (PARTITION BY kind ORDER BY coalesce(before, after)::text) AS n FROM importer_changes
) AS numbered
WHERE n <= %(most)s ORDER BY array_position(ARRAY['gone', 'back', 'changed'], kind), n;

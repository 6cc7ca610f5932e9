"""The status view counts held loads too."""

from alembic import op

revision = "0004"
down_revision = "0003"

_VIEW = """
    CREATE OR REPLACE VIEW importer.status AS
    SELECT type,
           tenant,
           max(finished_at) FILTER (WHERE in_force) AS last_success,
           max(business_date) FILTER (WHERE in_force) AS last_business_date,
           count(*) FILTER (WHERE in_force) AS deliveries,
           coalesce(sum(rows_loaded) FILTER (WHERE in_force), 0)::bigint AS rows_loaded,
           coalesce(sum(rows_rejected) FILTER (WHERE in_force), 0)::bigint AS rows_rejected,
           coalesce(sum(rows_unchanged) FILTER (WHERE in_force), 0)::bigint AS rows_unchanged,
           coalesce(sum(rows_skipped) FILTER (WHERE in_force), 0)::bigint AS rows_skipped,
           count(*) FILTER (WHERE pending) AS refused,
           (array_agg(reason ORDER BY load_id DESC) FILTER (WHERE pending {or_held}))[1] AS last_reason,
           CURRENT_DATE - max(business_date) FILTER (WHERE in_force) AS days_late
           {held}
    FROM (
        -- columns by name: a view of all of them would keep later ones from being taken off again
        SELECT type, tenant, load_id, business_date, status, reason, finished_at,
               rows_loaded, rows_rejected, rows_unchanged, rows_skipped,
               status = 'loaded' AND superseded_by IS NULL AS in_force,
               -- a refusal counts until a later import of the same delivery succeeds
               status IN ('refused', 'failed') AND NOT EXISTS (
                   SELECT FROM importer.loads n
                   WHERE (n.type, n.tenant, n.business_date, n.path)
                       = (l.type, l.tenant, l.business_date, l.path)
                     AND n.load_id > l.load_id
               ) AS pending
        FROM importer.loads l
    ) AS judged
    GROUP BY type, tenant;
    COMMENT ON VIEW importer.status IS 'One row per type and tenant: last success, rows, rejects, lateness in days.';
"""


def upgrade() -> None:
    """Add the column ``held``."""
    held = ", count(*) FILTER (WHERE status = 'held') AS held"
    op.execute(_VIEW.format(or_held="OR status = 'held'", held=held))


def downgrade() -> None:
    """Take it off again."""
    op.execute("DROP VIEW importer.status")
    op.execute(_VIEW.format(or_held="", held=""))

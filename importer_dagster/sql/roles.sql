-- Roles for the warehouse: `importer` loads, `bi` reads. Neither is a superuser.
-- Run once by the database's owner or a superuser, connected to the warehouse:
--
--   psql "$ADMIN_URL" -v database=warehouse -f roles.sql
--
-- and give each a password afterwards (\password importer), or let pg_hba.conf
-- or your directory decide. It may be run again.

SELECT 'CREATE ROLE importer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'importer') \gexec
SELECT 'CREATE ROLE bi LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bi') \gexec

-- Nobody else gets in, and only the importer makes schemas (its own, and
-- `dagster` unless IMPORTER_DAGSTER_URL names another database).
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE :"database" TO importer;
GRANT CONNECT ON DATABASE :"database" TO bi;

-- The data tables stand in `public`: the importer makes them, BI sees them, the
-- ones made later too. The importer's own schemas belong to the importer, and
-- nothing in them is granted to anyone. If you grant views of `importer` to others,
-- leave out the table row_secret: with it, a changed row can be made to look unchanged.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO importer;
GRANT USAGE ON SCHEMA public TO bi;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO bi;
ALTER DEFAULT PRIVILEGES FOR ROLE importer IN SCHEMA public GRANT SELECT ON TABLES TO bi;

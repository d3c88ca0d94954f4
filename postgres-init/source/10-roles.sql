-- The role that capture logs in with. Its password comes from the environment variable WALRELAY_PASSWORD.
\set walrelay_password walrelay
\getenv walrelay_password WALRELAY_PASSWORD

SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walrelay') AS is_new \gset
\if :is_new
CREATE ROLE walrelay LOGIN REPLICATION PASSWORD :'walrelay_password';
\endif

-- The owner of the database may create a publication in it, and the owner of a table may put it into one.
ALTER DATABASE :"DBNAME" OWNER TO walrelay;

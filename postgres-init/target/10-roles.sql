-- The role that apply logs in with; it creates the tables that are missing. Its password comes from the environment
-- variable WALRELAY_PASSWORD.
\set walrelay_password walrelay
\getenv walrelay_password WALRELAY_PASSWORD

SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'walrelay') AS is_new \gset
\if :is_new
CREATE ROLE walrelay LOGIN PASSWORD :'walrelay_password';
\endif

ALTER DATABASE :"DBNAME" OWNER TO walrelay;

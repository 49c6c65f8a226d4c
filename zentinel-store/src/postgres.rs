//! Records, logs and jobs in PostgreSQL.

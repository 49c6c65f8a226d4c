//! Records, logs and jobs in SQLite.

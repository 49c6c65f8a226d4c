//! What the SQL back ends share.

-- Heartbeats are bounded per node, never by age: nothing reads this index, and every heartbeat pays for it.
DROP INDEX heartbeats_at;

-- What a strategy remembers between ticks, and what was found and decided on the way.

CREATE TABLE rollout_memories (
    id TEXT NOT NULL PRIMARY KEY,
    organisation_id TEXT,
    project_id TEXT,
    owner TEXT NOT NULL,
    natural_key TEXT,
    lookup_key TEXT,
    state TEXT,
    created_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX rollout_memories_natural_key ON rollout_memories (owner, natural_key);
CREATE UNIQUE INDEX rollout_memories_lookup_key ON rollout_memories (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_memories_owner ON rollout_memories (owner, created_at);
CREATE INDEX rollout_memories_state ON rollout_memories (project_id, state);
CREATE INDEX rollout_memories_project ON rollout_memories (project_id, created_at);
CREATE INDEX rollout_memories_organisation ON rollout_memories (organisation_id, created_at);
CREATE INDEX rollout_memories_created ON rollout_memories (created_at);

CREATE TABLE rollout_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    organisation_id TEXT,
    project_id TEXT,
    owner TEXT NOT NULL,
    at INTEGER NOT NULL,
    dedup_key TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX rollout_log_dedup_key ON rollout_log (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX rollout_log_project ON rollout_log (project_id, seq);
CREATE INDEX rollout_log_owner ON rollout_log (owner, seq);
CREATE INDEX rollout_log_at ON rollout_log (at);

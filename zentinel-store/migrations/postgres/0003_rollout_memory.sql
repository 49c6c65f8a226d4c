-- What a strategy remembers between ticks, and what was found and decided on the way.

CREATE TABLE rollout_memories (
    id uuid NOT NULL PRIMARY KEY,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    natural_key text COLLATE "C",
    lookup_key text COLLATE "C",
    state text COLLATE "C",
    created_at timestamptz NOT NULL,
    revision bigint NOT NULL,
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX rollout_memories_natural_key ON rollout_memories (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX rollout_memories_lookup_key ON rollout_memories (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_memories_owner ON rollout_memories (owner, created_at);
CREATE INDEX rollout_memories_state ON rollout_memories (project_id, state);
CREATE INDEX rollout_memories_project ON rollout_memories (project_id, created_at);
CREATE INDEX rollout_memories_organisation ON rollout_memories (organisation_id, created_at);
CREATE INDEX rollout_memories_created ON rollout_memories (created_at);

CREATE TABLE rollout_log (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX rollout_log_dedup_key ON rollout_log (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX rollout_log_project ON rollout_log (project_id, seq);
CREATE INDEX rollout_log_owner ON rollout_log (owner, seq);
CREATE INDEX rollout_log_at ON rollout_log USING brin (at);

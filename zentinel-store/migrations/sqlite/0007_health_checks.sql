-- Endpoints that rollouts ask before a step is done, and what they answered.

CREATE TABLE health_checks (
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
CREATE UNIQUE INDEX health_checks_natural_key ON health_checks (owner, natural_key);
CREATE UNIQUE INDEX health_checks_lookup_key ON health_checks (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX health_checks_owner ON health_checks (owner, created_at);
CREATE INDEX health_checks_state ON health_checks (project_id, state);
CREATE INDEX health_checks_project ON health_checks (project_id, created_at);
CREATE INDEX health_checks_organisation ON health_checks (organisation_id, created_at);
CREATE INDEX health_checks_created ON health_checks (created_at);

CREATE TABLE rollout_probes (
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
CREATE UNIQUE INDEX rollout_probes_natural_key ON rollout_probes (owner, natural_key);
CREATE UNIQUE INDEX rollout_probes_lookup_key ON rollout_probes (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_probes_owner ON rollout_probes (owner, created_at);
CREATE INDEX rollout_probes_state ON rollout_probes (project_id, state);
CREATE INDEX rollout_probes_project ON rollout_probes (project_id, created_at);
CREATE INDEX rollout_probes_organisation ON rollout_probes (organisation_id, created_at);
CREATE INDEX rollout_probes_created ON rollout_probes (created_at);

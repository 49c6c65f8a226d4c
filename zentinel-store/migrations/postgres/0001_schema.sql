-- The whole schema: one table per kind of record, one per log, the job queue.
-- `../sqlite` declares the same tables and columns. Keys compare by their bytes, as everywhere
-- else in the control plane, hence COLLATE "C".

-- Records. `revision` counts the writes of a row.

CREATE TABLE organisations (
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
CREATE UNIQUE INDEX organisations_natural_key ON organisations (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX organisations_lookup_key ON organisations (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX organisations_owner ON organisations (owner, created_at);
CREATE INDEX organisations_state ON organisations (project_id, state);
CREATE INDEX organisations_project ON organisations (project_id, created_at);
CREATE INDEX organisations_organisation ON organisations (organisation_id, created_at);
CREATE INDEX organisations_created ON organisations (created_at);

CREATE TABLE projects (
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
CREATE UNIQUE INDEX projects_natural_key ON projects (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX projects_lookup_key ON projects (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX projects_owner ON projects (owner, created_at);
CREATE INDEX projects_state ON projects (project_id, state);
CREATE INDEX projects_project ON projects (project_id, created_at);
CREATE INDEX projects_organisation ON projects (organisation_id, created_at);
CREATE INDEX projects_created ON projects (created_at);

CREATE TABLE users (
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
CREATE UNIQUE INDEX users_natural_key ON users (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX users_lookup_key ON users (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX users_owner ON users (owner, created_at);
CREATE INDEX users_state ON users (project_id, state);
CREATE INDEX users_project ON users (project_id, created_at);
CREATE INDEX users_organisation ON users (organisation_id, created_at);
CREATE INDEX users_created ON users (created_at);

CREATE TABLE memberships (
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
CREATE UNIQUE INDEX memberships_natural_key ON memberships (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX memberships_lookup_key ON memberships (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX memberships_owner ON memberships (owner, created_at);
CREATE INDEX memberships_state ON memberships (project_id, state);
CREATE INDEX memberships_project ON memberships (project_id, created_at);
CREATE INDEX memberships_organisation ON memberships (organisation_id, created_at);
CREATE INDEX memberships_created ON memberships (created_at);

CREATE TABLE api_keys (
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
CREATE UNIQUE INDEX api_keys_natural_key ON api_keys (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX api_keys_lookup_key ON api_keys (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX api_keys_owner ON api_keys (owner, created_at);
CREATE INDEX api_keys_state ON api_keys (project_id, state);
CREATE INDEX api_keys_project ON api_keys (project_id, created_at);
CREATE INDEX api_keys_organisation ON api_keys (organisation_id, created_at);
CREATE INDEX api_keys_created ON api_keys (created_at);

CREATE TABLE registration_tokens (
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
CREATE UNIQUE INDEX registration_tokens_natural_key ON registration_tokens (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX registration_tokens_lookup_key ON registration_tokens (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX registration_tokens_owner ON registration_tokens (owner, created_at);
CREATE INDEX registration_tokens_state ON registration_tokens (project_id, state);
CREATE INDEX registration_tokens_project ON registration_tokens (project_id, created_at);
CREATE INDEX registration_tokens_organisation ON registration_tokens (organisation_id, created_at);
CREATE INDEX registration_tokens_created ON registration_tokens (created_at);

CREATE TABLE signing_keys (
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
CREATE UNIQUE INDEX signing_keys_natural_key ON signing_keys (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX signing_keys_lookup_key ON signing_keys (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX signing_keys_owner ON signing_keys (owner, created_at);
CREATE INDEX signing_keys_state ON signing_keys (project_id, state);
CREATE INDEX signing_keys_project ON signing_keys (project_id, created_at);
CREATE INDEX signing_keys_organisation ON signing_keys (organisation_id, created_at);
CREATE INDEX signing_keys_created ON signing_keys (created_at);

CREATE TABLE nodes (
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
CREATE UNIQUE INDEX nodes_natural_key ON nodes (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX nodes_lookup_key ON nodes (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX nodes_owner ON nodes (owner, created_at);
CREATE INDEX nodes_state ON nodes (project_id, state);
CREATE INDEX nodes_project ON nodes (project_id, created_at);
CREATE INDEX nodes_organisation ON nodes (organisation_id, created_at);
CREATE INDEX nodes_created ON nodes (created_at);

-- Rewritten with every heartbeat: no index on a changing column but `state`, and room in each
-- page, so that most updates stay in their page and touch no index (HOT).
CREATE TABLE node_reports (
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
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);
CREATE UNIQUE INDEX node_reports_natural_key ON node_reports (owner, natural_key) WHERE natural_key IS NOT NULL;
CREATE UNIQUE INDEX node_reports_lookup_key ON node_reports (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX node_reports_owner ON node_reports (owner, created_at);
CREATE INDEX node_reports_state ON node_reports (project_id, state);

CREATE TABLE node_configs (
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
CREATE UNIQUE INDEX node_configs_natural_key ON node_configs (owner, natural_key) WHERE natural_key IS NOT NULL;
CREATE UNIQUE INDEX node_configs_lookup_key ON node_configs (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX node_configs_owner ON node_configs (owner, created_at);
CREATE INDEX node_configs_state ON node_configs (project_id, state);

CREATE TABLE node_groups (
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
CREATE UNIQUE INDEX node_groups_natural_key ON node_groups (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX node_groups_lookup_key ON node_groups (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX node_groups_owner ON node_groups (owner, created_at);
CREATE INDEX node_groups_state ON node_groups (project_id, state);
CREATE INDEX node_groups_project ON node_groups (project_id, created_at);
CREATE INDEX node_groups_organisation ON node_groups (organisation_id, created_at);
CREATE INDEX node_groups_created ON node_groups (created_at);

CREATE TABLE bundles (
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
CREATE UNIQUE INDEX bundles_natural_key ON bundles (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX bundles_lookup_key ON bundles (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX bundles_owner ON bundles (owner, created_at);
CREATE INDEX bundles_state ON bundles (project_id, state);
CREATE INDEX bundles_project ON bundles (project_id, created_at);
CREATE INDEX bundles_organisation ON bundles (organisation_id, created_at);
CREATE INDEX bundles_created ON bundles (created_at);

CREATE TABLE bundle_sources (
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
CREATE UNIQUE INDEX bundle_sources_natural_key ON bundle_sources (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX bundle_sources_lookup_key ON bundle_sources (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX bundle_sources_owner ON bundle_sources (owner, created_at);
CREATE INDEX bundle_sources_state ON bundle_sources (project_id, state);
CREATE INDEX bundle_sources_project ON bundle_sources (project_id, created_at);
CREATE INDEX bundle_sources_organisation ON bundle_sources (organisation_id, created_at);
CREATE INDEX bundle_sources_created ON bundle_sources (created_at);

CREATE TABLE bundle_sboms (
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
CREATE UNIQUE INDEX bundle_sboms_natural_key ON bundle_sboms (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX bundle_sboms_lookup_key ON bundle_sboms (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX bundle_sboms_owner ON bundle_sboms (owner, created_at);
CREATE INDEX bundle_sboms_state ON bundle_sboms (project_id, state);
CREATE INDEX bundle_sboms_project ON bundle_sboms (project_id, created_at);
CREATE INDEX bundle_sboms_organisation ON bundle_sboms (organisation_id, created_at);
CREATE INDEX bundle_sboms_created ON bundle_sboms (created_at);

CREATE TABLE bundle_statements (
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
CREATE UNIQUE INDEX bundle_statements_natural_key ON bundle_statements (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX bundle_statements_lookup_key ON bundle_statements (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX bundle_statements_owner ON bundle_statements (owner, created_at);
CREATE INDEX bundle_statements_state ON bundle_statements (project_id, state);
CREATE INDEX bundle_statements_project ON bundle_statements (project_id, created_at);
CREATE INDEX bundle_statements_organisation ON bundle_statements (organisation_id, created_at);
CREATE INDEX bundle_statements_created ON bundle_statements (created_at);

CREATE TABLE rollouts (
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
CREATE UNIQUE INDEX rollouts_natural_key ON rollouts (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX rollouts_lookup_key ON rollouts (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollouts_owner ON rollouts (owner, created_at);
CREATE INDEX rollouts_state ON rollouts (project_id, state);
CREATE INDEX rollouts_project ON rollouts (project_id, created_at);
CREATE INDEX rollouts_organisation ON rollouts (organisation_id, created_at);
CREATE INDEX rollouts_created ON rollouts (created_at);

CREATE TABLE rollout_steps (
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
CREATE UNIQUE INDEX rollout_steps_natural_key ON rollout_steps (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX rollout_steps_lookup_key ON rollout_steps (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_steps_owner ON rollout_steps (owner, created_at);
CREATE INDEX rollout_steps_state ON rollout_steps (project_id, state);
CREATE INDEX rollout_steps_project ON rollout_steps (project_id, created_at);
CREATE INDEX rollout_steps_organisation ON rollout_steps (organisation_id, created_at);
CREATE INDEX rollout_steps_created ON rollout_steps (created_at);

CREATE TABLE rollout_nodes (
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
CREATE UNIQUE INDEX rollout_nodes_natural_key ON rollout_nodes (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX rollout_nodes_lookup_key ON rollout_nodes (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_nodes_owner ON rollout_nodes (owner, created_at);
CREATE INDEX rollout_nodes_state ON rollout_nodes (project_id, state);
CREATE INDEX rollout_nodes_project ON rollout_nodes (project_id, created_at);
CREATE INDEX rollout_nodes_organisation ON rollout_nodes (organisation_id, created_at);
CREATE INDEX rollout_nodes_created ON rollout_nodes (created_at);

-- Logs. The sequences of the audit log and of the events are given by `log_sequences`, so that
-- they have no gaps and follow the order of commits.

CREATE TABLE log_sequences (
    log text NOT NULL PRIMARY KEY,
    last bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_sequences (log, last) VALUES ('audit_log', 0), ('events', 0);

CREATE TABLE audit_log (
    seq bigint PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX audit_log_dedup_key ON audit_log (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX audit_log_project ON audit_log (project_id, seq);
CREATE INDEX audit_log_organisation ON audit_log (organisation_id, seq);
CREATE INDEX audit_log_owner ON audit_log (owner, seq);

CREATE TABLE events (
    seq bigint PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX events_dedup_key ON events (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX events_project ON events (project_id, seq);
CREATE INDEX events_organisation ON events (organisation_id, seq);
CREATE INDEX events_owner ON events (owner, seq);
CREATE INDEX events_at ON events USING brin (at);

CREATE TABLE heartbeats (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX heartbeats_dedup_key ON heartbeats (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX heartbeats_owner ON heartbeats (owner, seq);
CREATE INDEX heartbeats_at ON heartbeats USING brin (at);

CREATE TABLE node_events (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX node_events_dedup_key ON node_events (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX node_events_project ON node_events (project_id, seq);
CREATE INDEX node_events_owner ON node_events (owner, seq);
CREATE INDEX node_events_at ON node_events USING brin (at);

CREATE TABLE service_metrics (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX service_metrics_dedup_key ON service_metrics (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX service_metrics_project ON service_metrics (project_id, seq);
CREATE INDEX service_metrics_owner ON service_metrics (owner, seq);
CREATE INDEX service_metrics_at ON service_metrics USING brin (at);

CREATE TABLE request_logs (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX request_logs_dedup_key ON request_logs (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX request_logs_project ON request_logs (project_id, seq);
CREATE INDEX request_logs_owner ON request_logs (owner, seq);
CREATE INDEX request_logs_at ON request_logs USING brin (at);

CREATE TABLE waf_events (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    organisation_id uuid,
    project_id uuid,
    owner uuid NOT NULL,
    at timestamptz NOT NULL,
    dedup_key text COLLATE "C",
    body jsonb NOT NULL
);
CREATE UNIQUE INDEX waf_events_dedup_key ON waf_events (owner, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX waf_events_project ON waf_events (project_id, seq);
CREATE INDEX waf_events_owner ON waf_events (owner, seq);
CREATE INDEX waf_events_at ON waf_events USING brin (at);

-- The audit log is only ever added to.
CREATE FUNCTION refuse_audit_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END;
$$;
CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_log_change();

-- Background work. `state` is waiting, running, done or failed. At most one job per key waits, and
-- at most one runs.
CREATE TABLE jobs (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    queue text NOT NULL,
    kind text COLLATE "C" NOT NULL,
    payload jsonb NOT NULL,
    unique_key text COLLATE "C",
    state text NOT NULL DEFAULT 'waiting',
    run_at timestamptz NOT NULL,
    attempt bigint NOT NULL DEFAULT 0,
    max_attempts bigint NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    worker text,
    leased_until timestamptz,
    last_error text,
    ended_at timestamptz
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1
);
CREATE UNIQUE INDEX jobs_waiting_key ON jobs (kind, unique_key)
    WHERE state = 'waiting' AND unique_key IS NOT NULL;
CREATE UNIQUE INDEX jobs_running_key ON jobs (kind, unique_key)
    WHERE state = 'running' AND unique_key IS NOT NULL;
CREATE INDEX jobs_waiting ON jobs (queue, run_at) WHERE state = 'waiting';
CREATE INDEX jobs_running ON jobs (queue, leased_until) WHERE state = 'running';
CREATE INDEX jobs_failed ON jobs (queue) WHERE state = 'failed';
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE schedules (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    queue text NOT NULL,
    cron text NOT NULL,
    next_run timestamptz NOT NULL
);

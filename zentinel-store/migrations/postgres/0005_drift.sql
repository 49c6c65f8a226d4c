-- Nodes that run something else than they should.

CREATE TABLE drift_events (
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
CREATE UNIQUE INDEX drift_events_natural_key ON drift_events (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX drift_events_lookup_key ON drift_events (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX drift_events_owner ON drift_events (owner, created_at);
CREATE INDEX drift_events_state ON drift_events (project_id, state);
CREATE INDEX drift_events_project ON drift_events (project_id, created_at);
CREATE INDEX drift_events_organisation ON drift_events (organisation_id, created_at);
CREATE INDEX drift_events_created ON drift_events (created_at);

CREATE TABLE drift_alerts (
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
CREATE UNIQUE INDEX drift_alerts_natural_key ON drift_alerts (owner, natural_key NULLS FIRST);
CREATE UNIQUE INDEX drift_alerts_lookup_key ON drift_alerts (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX drift_alerts_owner ON drift_alerts (owner, created_at);
CREATE INDEX drift_alerts_state ON drift_alerts (project_id, state);
CREATE INDEX drift_alerts_project ON drift_alerts (project_id, created_at);
CREATE INDEX drift_alerts_organisation ON drift_alerts (organisation_id, created_at);
CREATE INDEX drift_alerts_created ON drift_alerts (created_at);

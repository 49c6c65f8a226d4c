-- Environments, what guards them, and how bundles get from one to the next.

CREATE TABLE environments (
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
CREATE UNIQUE INDEX environments_natural_key ON environments (owner, natural_key);
CREATE UNIQUE INDEX environments_lookup_key ON environments (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX environments_owner ON environments (owner, created_at);
CREATE INDEX environments_state ON environments (project_id, state);
CREATE INDEX environments_project ON environments (project_id, created_at);
CREATE INDEX environments_organisation ON environments (organisation_id, created_at);
CREATE INDEX environments_created ON environments (created_at);

CREATE TABLE freeze_windows (
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
CREATE UNIQUE INDEX freeze_windows_natural_key ON freeze_windows (owner, natural_key);
CREATE UNIQUE INDEX freeze_windows_lookup_key ON freeze_windows (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX freeze_windows_owner ON freeze_windows (owner, created_at);
CREATE INDEX freeze_windows_state ON freeze_windows (project_id, state);
CREATE INDEX freeze_windows_project ON freeze_windows (project_id, created_at);
CREATE INDEX freeze_windows_organisation ON freeze_windows (organisation_id, created_at);
CREATE INDEX freeze_windows_created ON freeze_windows (created_at);

CREATE TABLE rollout_templates (
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
CREATE UNIQUE INDEX rollout_templates_natural_key ON rollout_templates (owner, natural_key);
CREATE UNIQUE INDEX rollout_templates_lookup_key ON rollout_templates (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX rollout_templates_owner ON rollout_templates (owner, created_at);
CREATE INDEX rollout_templates_state ON rollout_templates (project_id, state);
CREATE INDEX rollout_templates_project ON rollout_templates (project_id, created_at);
CREATE INDEX rollout_templates_organisation ON rollout_templates (organisation_id, created_at);
CREATE INDEX rollout_templates_created ON rollout_templates (created_at);

CREATE TABLE promotion_rules (
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
CREATE UNIQUE INDEX promotion_rules_natural_key ON promotion_rules (owner, natural_key);
CREATE UNIQUE INDEX promotion_rules_lookup_key ON promotion_rules (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX promotion_rules_owner ON promotion_rules (owner, created_at);
CREATE INDEX promotion_rules_state ON promotion_rules (project_id, state);
CREATE INDEX promotion_rules_project ON promotion_rules (project_id, created_at);
CREATE INDEX promotion_rules_organisation ON promotion_rules (organisation_id, created_at);
CREATE INDEX promotion_rules_created ON promotion_rules (created_at);

CREATE TABLE bundle_promotions (
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
CREATE UNIQUE INDEX bundle_promotions_natural_key ON bundle_promotions (owner, natural_key);
CREATE UNIQUE INDEX bundle_promotions_lookup_key ON bundle_promotions (lookup_key) WHERE lookup_key IS NOT NULL;
CREATE INDEX bundle_promotions_owner ON bundle_promotions (owner, created_at);
CREATE INDEX bundle_promotions_state ON bundle_promotions (project_id, state);
CREATE INDEX bundle_promotions_project ON bundle_promotions (project_id, created_at);
CREATE INDEX bundle_promotions_organisation ON bundle_promotions (organisation_id, created_at);
CREATE INDEX bundle_promotions_created ON bundle_promotions (created_at);

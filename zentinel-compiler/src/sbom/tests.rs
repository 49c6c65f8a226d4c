use super::*;
use crate::source::SourceFile;
use std::collections::BTreeSet;

const CONFIG: &str = r#"
system { worker-threads 1 }
listeners {
    listener "http" { address "0.0.0.0:80"; }
    listener "tls" { address "0.0.0.0:443"; protocol "https"; tls { cert-file "/b/tls/edge.pem"; key-file "/b/tls/edge.key" } }
    listener "shop" { address "0.0.0.0:81"; namespace "shop"; }
}
upstreams { upstream "api" { target "10.0.0.1:80"; tls { ca-cert "/b/ca/root.pem" } } }
agents { agent "jwt" type="auth" { unix-socket "/run/jwt.sock"; events "request_headers" } }
filters { filter "login" { type "agent"; agent "jwt" } }
routes { route "api" { matches { path-prefix "/api" }; upstream "api"; filters "login" } }
namespace "shop" {
    upstreams { upstream "api" { target "10.0.0.2:80" } }
    routes { route "api" { matches { path-prefix "/api" }; upstream "api" } }
}
"#;

fn made_from() -> (Source, Model) {
    let files = vec![SourceFile::new("ca/root.pem", "root"), SourceFile::new("plugins/geo.wasm", "\0asm")];
    let source = Source::new(CONFIG, files, false).unwrap();
    let model = Model::parse(CONFIG).unwrap();
    (source, model)
}

fn component<'a>(document: &'a Value, name: &str) -> &'a Value {
    let components = document["components"].as_array().unwrap();
    components.iter().find(|component| component["name"] == name).unwrap()
}

fn needs(document: &Value, reference: &Value) -> Vec<String> {
    let all = document["dependencies"].as_array().unwrap();
    let found = all.iter().find(|entry| &entry["ref"] == reference).unwrap();
    let needs = found["dependsOn"].as_array().cloned().unwrap_or_default();
    needs.iter().map(|need| need.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_part_of_the_configuration_is_a_component() {
    let (source, model) = made_from();
    let document: Value = serde_json::from_slice(&archived(&source, &model).unwrap()).unwrap();
    assert_eq!(document["bomFormat"], "CycloneDX");
    assert_eq!(document["specVersion"], "1.5");
    let names: Vec<_> =
        document["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "zentinel-proxy",
            "ca/root.pem",
            "plugins/geo.wasm",
            "upstream:api",
            "upstream:api",
            "agent:jwt",
            "filter:login",
            "route:api",
            "route:api",
            "listener:http",
            "listener:tls",
            "listener:shop"
        ]
    );
    let listener = component(&document, "listener:http");
    assert_eq!(listener["type"], "framework");
    assert_eq!(listener["group"], "zentinel.listeners");
    assert_eq!(listener["bom-ref"], "listener-1");
    assert_eq!(component(&document, "zentinel-proxy")["version"], PROXY_VERSION);
    let file = component(&document, "ca/root.pem");
    assert_eq!(file["type"], "file");
    assert_eq!(file["hashes"][0]["content"], zentinel_core::Sha256Digest::of(b"root").to_string());
    let references: BTreeSet<_> =
        document["components"].as_array().unwrap().iter().map(|c| c["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(references.len(), names.len());
}

#[test]
fn dependencies_follow_the_references() {
    let (source, model) = made_from();
    let document: Value = serde_json::from_slice(&archived(&source, &model).unwrap()).unwrap();
    let of = |name: &str| needs(&document, &component(&document, name)["bom-ref"]);
    assert_eq!(of("upstream:api"), ["file-1"]);
    assert_eq!(of("filter:login"), ["agent-1"]);
    assert_eq!(of("route:api"), ["filter-1", "upstream-1"]);
    assert_eq!(needs(&document, &"route-2".into()), ["upstream-2"]);
    assert_eq!(of("listener:http"), ["route-1", "route-2"]);
    assert_eq!(of("listener:shop"), ["route-2"]);
    assert_eq!(needs(&document, &document["metadata"]["component"]["bom-ref"]).len(), 12);
}

#[test]
fn the_archived_document_depends_on_the_source_alone() {
    let (source, model) = made_from();
    let first = archived(&source, &model).unwrap();
    let (source, model) = made_from();
    assert_eq!(first, archived(&source, &model).unwrap());
    let document: Value = serde_json::from_slice(&first).unwrap();
    assert!(document["metadata"].get("timestamp").is_none());
    let serial = document["serialNumber"].as_str().unwrap();
    let uuid = uuid::Uuid::parse_str(serial.strip_prefix("urn:uuid:").unwrap()).unwrap();
    assert_eq!(uuid.get_version_num(), 8);
    let other = Source::new(format!("{CONFIG}\n"), Vec::new(), false).unwrap();
    let other: Value = serde_json::from_slice(&archived(&other, &model).unwrap()).unwrap();
    assert_ne!(other["serialNumber"], document["serialNumber"]);
}

#[test]
fn the_served_document_names_the_bundle() {
    let (source, model) = made_from();
    let bundle_id = BundleId::random();
    let about = Served {
        bundle_id,
        version: "1.4.0",
        compiled_at: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    };
    let document = served(&source, &model, &about).unwrap();
    assert_eq!(document["serialNumber"], format!("urn:uuid:{bundle_id}"));
    assert_eq!(document["version"], 1);
    assert_eq!(document["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(document["metadata"]["tools"][0]["name"], "zentinel-compiler");
    let bundle = &document["metadata"]["component"];
    assert_eq!(bundle["type"], "application");
    assert_eq!(bundle["name"], "zentinel-bundle");
    assert_eq!(bundle["version"], "1.4.0");
    assert_eq!(bundle["bom-ref"], format!("bundle-{bundle_id}"));
    assert_eq!(document["dependencies"][0]["ref"], format!("bundle-{bundle_id}"));
}

#[test]
fn documents_are_valid_and_survive_a_round_trip() {
    let (source, model) = made_from();
    let bytes = archived(&source, &model).unwrap();
    let parsed = Bom::parse_from_json_v1_5(bytes.as_slice()).unwrap();
    let verdict = parsed.validate_version(SpecVersion::V1_5);
    assert!(verdict.passed(), "{verdict:?}");
    let mut again = Vec::new();
    parsed.output_as_json_v1_5(&mut again).unwrap();
    again.push(b'\n');
    assert_eq!(String::from_utf8(bytes).unwrap(), String::from_utf8(again).unwrap());
}

#[test]
fn the_validation_would_notice() {
    let (source, model) = made_from();
    let mut bom = Bom::parse_from_json_v1_5(archived(&source, &model).unwrap().as_slice()).unwrap();
    let components = bom.components.as_mut().unwrap();
    let twin = components.0[0].clone();
    components.0.push(twin);
    assert!(!bom.validate_version(SpecVersion::V1_5).passed());
}

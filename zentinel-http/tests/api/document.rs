//! The OpenAPI document and the router are one.

use crate::world::{World, request};
use axum::body::Body;
use serde_json::Value;
use std::collections::BTreeSet;

const ID: &str = "7b0e6a52-3c1f-4c62-9f4e-0b6a0e9f1a11";

async fn document(world: &World) -> Value {
    let reply = world.send(request("GET", "/api/openapi.json").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers["content-type"], "application/json; charset=utf-8");
    reply.expect(200)
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), operation));
        }
    }
    operations
}

#[tokio::test]
async fn every_documented_operation_is_served() {
    let world = World::unlimited().await;
    let document = document(&world).await;
    let operations = operations(&document);
    assert!(operations.len() >= 55, "{}", operations.len());
    for (method, path, _) in operations {
        let concrete = path.replace("{project_slug}", "edge").replace("{id}", ID).replace("{node_id}", ID);
        // Without credentials: a route answers 401 or its result, never "no such route".
        let reply = world.send(request(&method, &concrete).body(Body::empty()).unwrap()).await;
        let status = reply.status.as_u16();
        let no_route = status == 404 && reply.body["errors"]["detail"] == "Not Found";
        assert!(!no_route && status != 405 && status != 500, "{method} {path}: {status} {}", reply.text);
    }
}

#[tokio::test]
async fn nothing_undocumented_is_served() {
    let world = World::unlimited().await;
    let document = document(&world).await;
    let documented: BTreeSet<_> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    // A method that a path does not document is answered 405, with the documented ones in Allow.
    for path in document["paths"].as_object().unwrap().keys() {
        let concrete = path.replace("{project_slug}", "edge").replace("{id}", ID).replace("{node_id}", ID);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if documented.contains(&(method.to_owned(), path.clone())) {
                continue;
            }
            let reply = world.send(request(method, &concrete).body(Body::empty()).unwrap()).await;
            // `/bundles/validate` is one of `/bundles/{id}` for other methods.
            let falls_through = path.ends_with("/bundles/validate") || path.ends_with("/nodes/stats");
            let status = reply.status.as_u16();
            assert!(status == 405 || falls_through, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn the_document_is_complete() {
    let world = World::new().await;
    let document = document(&world).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    assert_eq!(document["info"]["title"], "Zentinel control plane");
    assert_eq!(document["servers"][0]["url"], "http://cp.example");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{at}");
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{at}");
        if path.starts_with("/api/v1/projects/{project_slug}") {
            assert!(operation["security"].is_array(), "{at}");
            for status in ["401", "403", "404", "429", "503"] {
                assert!(responses.contains_key(status), "{at} {status}");
            }
        }
        for parameter in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let parameters = operation["parameters"].as_array().unwrap();
            assert!(
                parameters.iter().any(|p| p["name"] == parameter && p["in"] == "path"),
                "{at} {parameter}"
            );
        }
        assert!(names.insert(id.clone()), "two operations are called {id}");
    }
    let mut references = Vec::new();
    collect(&document, &mut references);
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{reference}");
    }
}

#[tokio::test]
async fn a_registration_may_carry_its_token() {
    let world = World::new().await;
    let document = document(&world).await;
    let register = &document["paths"]["/api/v1/projects/{project_slug}/nodes/register"]["post"];
    let body = &register["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    let name = body.as_str().unwrap().rsplit('/').next().unwrap();
    let schema = &document["components"]["schemas"][name];
    assert!(schema["properties"]["registration_token"].is_object(), "{schema}");
    assert_eq!(schema["required"], serde_json::json!(["name"]));
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                references.push(reference.clone());
            }
            object.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

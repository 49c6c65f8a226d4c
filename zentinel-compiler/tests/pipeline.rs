//! The whole pipeline as an integrator uses it: reproducible bytes, checked against test vectors.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use zentinel_compiler::pipeline::{CompileFailure, Compiler, Signed};
use zentinel_compiler::source::{Source, SourceFile};
use zentinel_compiler::unpack::{UnpackLimits, unpack};
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::id::{BundleId, OrganisationId, ProjectId, TypedId};
use zentinel_core::port::Signer;
use zentinel_core::statement::{Statement, pre_authentication_encoding};
use zentinel_core::{Scope, Sha256Digest};
use zentinel_store::MemorySigner;

/// What a vector promises. All digests are SHA-256; signatures are by the Ed25519 key whose seed is
/// 32 times 0x07.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    source_sha256: String,
    manifest_sha256: String,
    sbom_sha256: String,
    tar_sha256: String,
    archive_sha256: String,
    archive_size: u64,
    public_key: String,
    archive_signature: String,
    statement_payload: String,
    statement_pae_sha256: String,
    statement_signature: String,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn vector_source(name: &str) -> Source {
    let folder = folder(name);
    let config = std::fs::read_to_string(folder.join("zentinel.kdl")).unwrap();
    let paths = ["plugins/filter.wasm", "ca/root.pem"];
    let read =
        |path: &&str| Some(SourceFile::new(*path, std::fs::read(folder.join("files").join(path)).ok()?));
    Source::new(config, paths.iter().filter_map(read).collect(), false).unwrap()
}

fn compiler() -> Compiler {
    Compiler::new(Arc::new(InProcessValidator::default()))
}

fn scope() -> Scope {
    let organisation = OrganisationId::from_uuid(uuid::Uuid::from_u128(1));
    Scope::Project(organisation, ProjectId::from_uuid(uuid::Uuid::from_u128(2)))
}

async fn build(source: Source) -> Signed {
    let signer = MemorySigner::from_seed("vector-key", [7; 32]);
    compiler().build(source, None, &signer, &scope()).await.unwrap()
}

async fn computed(name: &str) -> Expected {
    let source = vector_source(name);
    let signer = MemorySigner::from_seed("vector-key", [7; 32]);
    let signed = build(source.clone()).await;
    let archive = signed.assembled().archive();
    let statement = Statement {
        v: 1,
        project_id: ProjectId::from_uuid(uuid::Uuid::from_u128(2)),
        bundle_id: BundleId::from_uuid(uuid::Uuid::from_u128(3)),
        sequence: 7,
        archive_sha256: signed.checksum(),
        archive_size: signed.bytes().len() as u64,
        activation: signed.assembled().activation(),
        compare: false,
        issued_at: 1_800_000_000,
        expires_at: 1_802_592_000,
        keys: signer.public_keys(&scope()).await.unwrap(),
    };
    let envelope = statement.sign(&signer, &scope()).await.unwrap();
    let payload = STANDARD.decode(&envelope.payload).unwrap();
    let tar = zstd::bulk::decompress(signed.bytes(), 16 << 20).unwrap();
    let sbom = &unpack(signed.bytes(), &UnpackLimits::default()).unwrap().files["sbom.cdx.json"];
    let keys = signer.public_keys(&scope()).await.unwrap();
    assert_eq!(envelope.open(&keys).unwrap(), statement);
    assert!(keys[0].verify(signed.bytes(), &signed.signature().bytes));
    Expected {
        source_sha256: source.digest().to_string(),
        manifest_sha256: Sha256Digest::of(&archive.manifest().to_bytes().unwrap()).to_string(),
        sbom_sha256: Sha256Digest::of(sbom).to_string(),
        tar_sha256: Sha256Digest::of(&tar).to_string(),
        archive_sha256: archive.checksum().to_string(),
        archive_size: signed.bytes().len() as u64,
        public_key: keys[0].public_key.clone(),
        archive_signature: STANDARD.encode(&signed.signature().bytes),
        statement_payload: String::from_utf8(payload.clone()).unwrap(),
        statement_pae_sha256: Sha256Digest::of(&pre_authentication_encoding(&payload)).to_string(),
        statement_signature: envelope.signatures[0].sig.clone(),
    }
}

/// `ZENTINEL_UPDATE_VECTORS=1` writes the files anew; look at the difference before committing it:
/// a change of these bytes is a change of the format.
#[tokio::test]
async fn bundles_are_the_bytes_of_the_test_vectors() {
    for name in ["minimal", "files"] {
        let path = folder(name).join("expected.json");
        let computed = computed(name).await;
        if std::env::var_os("ZENTINEL_UPDATE_VECTORS").is_some() {
            std::fs::write(&path, serde_json::to_string_pretty(&computed).unwrap() + "\n").unwrap();
        }
        let expected: Expected = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(computed, expected, "{name}");
    }
}

const MARK: &str = "archive digest in this process: ";

/// Also run alone, in a second process, by the test below.
#[tokio::test]
async fn the_same_source_gives_the_same_bytes() {
    let first = build(vector_source("files")).await;
    let second = build(vector_source("files")).await;
    assert_eq!(first.bytes(), second.bytes());
    println!("{MARK}{}", first.checksum());
}

#[tokio::test]
async fn the_same_source_gives_the_same_bytes_in_another_process() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_same_source_gives_the_same_bytes", "--nocapture"])
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "C")
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let there = said.split(MARK).nth(1).unwrap_or_else(|| panic!("no digest in {said}"));
    let here = build(vector_source("files")).await.checksum().to_string();
    assert_eq!(&there[..64], here);
}

#[tokio::test]
async fn another_source_gives_another_archive() {
    let source = vector_source("minimal");
    let other = Source::new(format!("{}\n", source.config()), Vec::new(), false).unwrap();
    assert_ne!(build(source).await.checksum(), build(other).await.checksum());
}

#[tokio::test]
async fn every_problem_is_reported_at_once() {
    let config =
        vector_source("minimal").config().replace("127.0.0.1:8080", "nowhere").replace("\"/\"", "\"\"");
    let source =
        Source::new(config.replace("path-prefix", "path-regex \"([\"\n path-prefix"), Vec::new(), false);
    let failure = compiler().compile(source.unwrap(), None).await.unwrap_err();
    let CompileFailure::Invalid(diagnostics) = failure else { panic!("{failure}") };
    let codes: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect();
    assert!(codes.contains(&"invalid-address") && codes.contains(&"invalid-regex"), "{codes:?}");
}

#[tokio::test]
async fn what_no_node_would_unpack_is_refused() {
    let bomb = vec![SourceFile::new("a.bin", vec![0; 12 << 20])];
    let source = Source::new(vector_source("minimal").config(), bomb, false).unwrap();
    let failure = compiler().compile(source, None).await.unwrap_err();
    assert_eq!(failure.diagnostics()[0].code, "archive-refused");
    let error = zentinel_core::Error::from(failure);
    assert_eq!(error.kind(), zentinel_core::Kind::Invalid);
    assert!(error.fields().contains_key("config_source"));
}

#[tokio::test(flavor = "current_thread")]
async fn the_runtime_keeps_running_while_a_large_source_is_compiled() {
    let ticks = tokio::spawn(async {
        let mut ticks = 0_u32;
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            ticks += 1;
            if ticks == 10 {
                break;
            }
        }
    });
    let route = |n| {
        format!(
            "    route \"r{n}\" {{\n        matches {{\n            path \"/r/{n}\"\n        }}\n        upstream \"api\"\n    }}\n"
        )
    };
    let routes: String = (0..300).map(route).collect();
    let config = vector_source("minimal").config().replace("routes {\n", &format!("routes {{\n{routes}"));
    let baseline = config.clone();
    let assembled =
        compiler().compile(Source::new(config, Vec::new(), false).unwrap(), Some(&baseline)).await.unwrap();
    assert!(ticks.is_finished(), "the only thread of the runtime was blocked");
    assert_eq!(assembled.findings(), []);
}

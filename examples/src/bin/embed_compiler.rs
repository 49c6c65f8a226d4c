//! Only the compiler, without a server: KDL text in, signed archive out.
//!
//! Run it: `cargo run -p zentinel-examples --bin embed_compiler -- examples/configs/edge.kdl`

use std::sync::Arc;
use zentinel_compiler::validate::{IsolatedValidator, run_child_if_requested};
use zentinel_compiler::{Compiler, Source};
use zentinel_core::Scope;
use zentinel_store::MemorySigner;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The parser runs in a child process, which is this program again.
    if run_child_if_requested() {
        return Ok(());
    }
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/configs/edge.kdl".to_owned());
    let compiler = Compiler::new(Arc::new(IsolatedValidator::default()));
    let assembled =
        compiler.compile(Source::new(std::fs::read_to_string(&path)?, vec![], false)?, None).await?;
    for diagnostic in assembled.diagnostics() {
        println!("{:?} {}: {}", diagnostic.severity, diagnostic.code, diagnostic.message);
    }
    let signed = assembled.sign(&MemorySigner::generate(), &Scope::Instance).await?;
    println!("{} bytes, SHA-256 {}", signed.bytes().len(), signed.checksum());
    println!("signed by {}", signed.signature().key_id);
    std::fs::write("bundle.tar.zst", signed.bytes())?;
    Ok(())
}

//! What every [`Signer`] must do. Run [`suite`] from the back end's own tests.

use std::sync::Arc;
use zentinel_core::Scope;
use zentinel_core::port::Signer;

/// Runs every case for one scope. `rotates` is false for back ends with one fixed key.
///
/// # Panics
/// When the back end breaks the contract.
pub async fn suite(signer: Arc<dyn Signer>, scope: Scope, rotates: bool) {
    let first = signer.sign(&scope, b"message").await.expect("sign");
    let public =
        signer.public_key(&scope, &first.key_id).await.expect("read").expect("the key that signed is known");
    assert!(public.active && public.verify(b"message", &first.bytes));
    assert!(!public.verify(b"another message", &first.bytes));
    assert!(!public.verify(b"message", &first.bytes[..63]));
    assert_eq!(signer.public_key(&scope, "sk_unknown").await.expect("read"), None);
    assert!(signer.public_keys(&scope).await.expect("list").contains(&public));
    let again = signer.sign(&scope, b"message").await.expect("sign");
    assert_eq!(again, first, "Ed25519 is deterministic and the key has not changed");
    let all = signer.sign_all(&scope, b"message").await.expect("sign");
    assert_eq!(all, std::slice::from_ref(&first), "one key, one signature");
    if rotates {
        let key_id = signer.rotate(&scope).await.expect("rotate");
        assert_ne!(key_id, first.key_id);
        let fresh = signer.sign(&scope, b"message").await.expect("sign");
        assert_eq!(fresh.key_id, key_id, "the newest key signs");
        let keys = signer.public_keys(&scope).await.expect("list");
        assert_eq!(keys.first().map(|key| key.key_id.as_str()), Some(key_id.as_str()), "newest first");
        assert!(keys.iter().any(|key| key.verify(b"message", &first.bytes)), "older signatures stay valid");
        let all = signer.sign_all(&scope, b"message").await.expect("sign");
        assert_eq!(all, [fresh, first], "every active key signs, newest first");
    }
}

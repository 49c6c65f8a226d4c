//! What is found out before the proxy that serves is touched.

use super::*;

#[tokio::test]
async fn a_taken_address_is_found_while_the_old_process_serves() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let more = |name: &str, address: &str| {
        format!("listeners {{ listener \"{name}\" {{ address  \"{address}\"; }} }}\n")
    };
    let release = site.release(2, "fine", Activation::Reload).await;
    let config = release.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.clone() + &more("more", &taken.to_string())).unwrap();
    let rejection = activator.activate(&release).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("address_in_use", false));
    assert!(
        rejection.message.contains("\"more\"") && rejection.message.contains(&taken.to_string()),
        "{rejection:?}"
    );
    // Measurements that the agent is to look at have an address as well.
    let measured = text.replace("enabled #false", &format!("enabled #true\n        address  \"{taken}\""));
    assert_ne!(measured, text);
    std::fs::write(&config, &measured).unwrap();
    let rejection = activator.activate(&release).await.unwrap_err();
    assert!(rejection.message.starts_with(&format!("the metrics address {taken}")), "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
    activator.answers().await.unwrap();
    assert!(!site.path().join("releases/2").exists() && site.journal().load().unwrap().sequence == 1);

    // What the process that serves gives up with its end is not taken.
    let everywhere =
        text.replace(&format!("127.0.0.1:{}", site.ports[1]), &format!("0.0.0.0:{}", site.ports[1]));
    assert_ne!(everywhere, text);
    std::fs::write(&config, everywhere).unwrap();
    activator.activate(&release).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 0));
}

#[tokio::test]
async fn the_agents_own_address_is_tried_before_the_first_start() {
    let site = Site::new();
    let mut activator = site.activator();
    activator.options.probe_listen = ([192, 0, 2, 1], site.ports[0]).into();
    let release = site.release(1, "fine", Activation::Restart).await;
    let rejection = activator.activate(&release).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("address_not_available", true));
    assert!(rejection.message.contains("proxy.probe_listen"), "{rejection:?}");
    assert_eq!(site.proxy.counted(), (0, 0));
}

#[tokio::test]
async fn files_that_are_not_there_are_found_before_the_switch() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let release = site.release(2, "fine", Activation::Restart).await;
    let config = release.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    let refused = |kdl: String| {
        std::fs::write(&config, text.clone() + &kdl).unwrap();
        let (activator, release) = (&activator, &release);
        async move { activator.activate(release).await.unwrap_err() }
    };
    let port = free_port();
    let listener = |key: &Path| {
        let (certificate, key) = (site.path().join("current/ca/root.pem"), key.display());
        let certificate = certificate.display();
        format!(
            "listeners {{\n listener \"tls\" {{\n address  \"127.0.0.1:{port}\"\n protocol \"https\"\n \
             tls {{\n cert-file \"{certificate}\"\n key-file \"{key}\"\n }}\n }}\n}}\n"
        )
    };
    let absent = site.path().join("absent.pem");
    let rejection = refused(listener(&absent)).await;
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("missing_file", false));
    let where_ = "(listeners/tls/tls/key-file)";
    assert!(rejection.message.contains("absent.pem") && rejection.message.contains(where_), "{rejection:?}");
    let rejection = refused(listener(site.path())).await;
    assert_eq!(rejection.reason, "missing_file", "a directory is no key");
    let authority = format!(
        "upstreams {{\n upstream \"tls\" {{\n target \"127.0.0.1:{port}\"\n tls {{\n ca-cert \"{}\"\n }}\n }}\n}}\n",
        absent.display()
    );
    let rejection = refused(authority).await;
    assert!(rejection.message.contains("(upstreams/tls/tls/ca-cert)"), "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
    std::fs::write(&absent, "a key").unwrap();
    let rejection = refused(listener(&absent)).await;
    assert_eq!(rejection.reason, "bad_certificate", "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
}

#[tokio::test]
async fn without_a_release_before_the_node_is_without_a_bundle() {
    let site = Site::new();
    let activator = site.activator();
    let bad = site.release(1, "die", Activation::Restart).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert!(rejection.message.contains("without a bundle"), "{rejection:?}");
    assert_eq!(activator.active(), None);
    assert!(!site.path().join("current").exists());
    let news = tokio::time::timeout(Duration::from_secs(1), activator.watch()).await;
    assert!(news.is_err(), "there is nothing to watch");
    assert_eq!(site.proxy.counted(), (1, 0), "and nothing is started over and over");
    let good = site.release(2, "fine", Activation::Restart).await;
    activator.activate(&good).await.unwrap();
    assert_eq!(activator.active(), Some(good.bundle_id));
}

#[tokio::test]
async fn the_proxys_own_test_comes_before_the_switch() {
    let mut site = Site::new();
    let (_, first) = site.started().await;
    let script = site.path().join("proxy.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\necho \"$@\" >> tested\ngrep -q 'fine' \"$3\" || { echo no >&2; exit 1; }\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.binary = Some(script);
    let activator = site.activator();
    let rejection = activator.activate(&site.release(2, "odd", Activation::Reload).await).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("proxy_test_failed", false));
    assert!(rejection.message.ends_with("no"), "{rejection:?}");
    assert_eq!(
        (activator.active(), site.proxy.counted()),
        (Some(first.bundle_id), (1, 0)),
        "nothing was touched"
    );
    activator.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    let tested = std::fs::read_to_string(site.path().join("tested")).unwrap();
    assert_eq!(tested.lines().count(), 2, "{tested}");
    // A binary that is away is the node's fault.
    site.binary = Some(site.path().join("absent"));
    let rejection =
        site.activator().activate(&site.release(4, "fine", Activation::Reload).await).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("proxy_test_unavailable", true));
}

#[tokio::test]
async fn files_of_a_bundle_may_be_named_below_current() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    let release = site.release(2, "fine", Activation::Restart).await;
    std::fs::create_dir_all(release.directory.join("site")).unwrap();
    let config = release.directory.join("zentinel.kdl");
    let root = site.path().join("current/site").display().to_string();
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "upstream \"api\"\n    }\n}",
        &format!("static-files {{\n root \"{root}\"\n }}\n    }}\n}}"),
    );
    std::fs::write(&config, text).unwrap();
    activator.activate(&release).await.unwrap();
    let tested = std::fs::read_to_string(site.path().join("releases/2/test.kdl")).unwrap();
    assert!(tested.contains("/releases/2/site") && !tested.contains(&root));
    std::fs::remove_dir(release.directory.join("site")).unwrap();
    let gone = Release { sequence: 3, ..release };
    assert_eq!(activator.activate(&gone).await.unwrap_err().reason, "missing_static_root");
}

//! The summary for people.

use super::{Errors, Report, Used};

/// The summary as text, one fact a line.
pub(super) fn of(report: &Report) -> String {
    let mut lines = Lines::default();
    if let Some(registration) = &report.registration {
        let (nodes, seconds) = (registration.nodes, registration.seconds);
        lines.add("registered", format!("{nodes} nodes in {seconds:.1} s, {:.0}/s", registration.per_second));
    }
    if report.connections == 0 {
        lines.add("nodes", report.nodes.to_string());
        return lines.0;
    }
    let behaviours: Vec<_> =
        report.behaviours.iter().map(|(name, count)| format!("{count} {name}")).collect();
    lines.add(
        "nodes",
        format!("{} ({}) over {} connections", report.nodes, behaviours.join(", "), report.connections),
    );
    lines.add(
        "answered",
        format!("{} in {:.1} s, {:.0}/s", report.answered, report.seconds, report.per_second),
    );
    latencies(&mut lines, report);
    errors(&mut lines, &report.errors);
    if let Some((least, most)) = report.poll_hint_seconds {
        lines.add("poll hints", format!("{least} to {most} s"));
    }
    if let Some(storm) = &report.storm {
        let text = format!(
            "{} of {} nodes returned, the last after {:.1} s",
            storm.returned, storm.of, storm.last_after_seconds
        );
        lines.add("storm", text);
    }
    bundles(&mut lines, report);
    used(&mut lines, "server", report.server.as_ref());
    used(&mut lines, "simulator", report.simulator.as_ref());
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: impl AsRef<str>) {
        let end = if self.0.is_empty() { "" } else { "\n" };
        self.0.push_str(&format!("{end}{name:24}{}", text.as_ref()));
    }
}

fn latencies(lines: &mut Lines, report: &Report) {
    let header =
        format!("{:>10} {:>9} {:>9} {:>9} {:>9} {:>9}", "count", "p50", "p90", "p99", "p99.9", "max");
    lines.add("latency (ms)", header);
    for (name, latency) in &report.latency_ms {
        let text = format!(
            "{:>10} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            latency.count, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
        );
        lines.add(&format!("  {name}"), text);
    }
}

fn errors(lines: &mut Lines, errors: &Errors) {
    lines.add("errors", format!("{:.3} % of requests", errors.share * 100.0));
    for (status, count) in &errors.refused {
        lines.add(&format!("  status {status}"), count.to_string());
    }
    if errors.told_to_wait > 0 {
        let (least, most) = errors.wait_seconds.unwrap_or_default();
        let text = format!("{}, in {least} to {most} s", errors.told_to_wait);
        lines.add("  told to come back", text);
    }
    let others = [
        ("  connections refused", errors.connections_refused),
        ("  not to be trusted", errors.untrusted),
        ("  downloads failed", errors.downloads_failed),
    ];
    for (name, count) in errors.lost.iter().map(|(name, count)| (format!("  {name}"), *count)) {
        lines.add(&name, count.to_string());
    }
    for (name, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        lines.add(name, count.to_string());
    }
}

fn bundles(lines: &mut Lines, report: &Report) {
    let bundles = &report.bundles;
    let running = bundles.running.iter().map(|(version, count)| format!("{version}: {count}"));
    let none = (bundles.running_none > 0).then(|| format!("none: {}", bundles.running_none));
    lines.add("nodes by bundle", running.chain(none).collect::<Vec<_>>().join(", "));
    if bundles.activations + bundles.failures_reported > 0 {
        let text = format!("{}, {} failures reported", bundles.activations, bundles.failures_reported);
        lines.add("activations", text);
    }
}

fn used(lines: &mut Lines, name: &str, used: Option<&Used>) {
    let Some(used) = used else { return };
    let text = format!(
        "{:.1} us CPU per request ({:.1} user, {:.1} system), {:.0} % of a core, {:.0} MiB (peak {:.0})",
        used.cpu_us_per_request,
        used.user_us_per_request,
        used.system_us_per_request,
        used.cpu_percent,
        used.rss_mib,
        used.rss_mib_peak
    );
    lines.add(name, text);
}

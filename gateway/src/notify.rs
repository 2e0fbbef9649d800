//! What systemd is told (sd_notify(3)): ready, reloading, stopping, a line of status, and a sign of life that has passed
//! through the driver. Without systemd nothing happens.

use crate::admin::{Admin, Status};
use sd_notify::NotifyState;
use std::time::Duration;

/// How often the line of status is renewed when the watchdog does not ask for more.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The gateway takes messages.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it (Type=notify-reload).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The gateway is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// Tells the state for ever, at half the watchdog's interval: but only while the driver answers, so that one
/// that hangs is restarted by systemd. Dropping the future ends it.
pub async fn keep_telling(admin: Admin) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(STATUS_EVERY, |interval| (interval / 2).min(STATUS_EVERY));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(status) = admin.status().await else {
            continue;
        };
        let line = line(&status);
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog, NotifyState::Status(&line)]);
        } else {
            tell(&[NotifyState::Status(&line)]);
        }
    }
}

/// The state in one line.
fn line(status: &Status) -> String {
    let waiting: u64 = status.routes.iter().map(|r| r.waiting).sum();
    let mut line = format!(
        "{} connections, {:.0} messages/s, {waiting} waiting",
        status.mqtt.peers, status.messages.accepted_per_second
    );
    if let Some(problem) = status.problems.first() {
        line.push_str("; ");
        line.push_str(problem);
    }
    line
}

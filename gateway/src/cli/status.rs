//! `tidegate status`: asks the running gateway how it is and lays the answer out for a person, or hands it on to a script.

use super::http::{self, HttpError};
use super::table::{plain, table};
use super::{Exit, refuse};
use crate::admin::status::{Protocol, Status};
use crate::config;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print everything as JSON, for scripts
    #[arg(long)]
    json: bool,
    /// The gateway's admin port [default: admin.listen of the configuration]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
}

pub(super) fn show(
    args: &Args,
    file: Option<&Path>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let address = match args.admin {
        Some(address) => address,
        None => match config::admin_listen(file) {
            Err(mistakes) => {
                let exit = refuse(&mistakes, err)?;
                writeln!(err, "Name the gateway's admin port with --admin ADDRESS:PORT to do without it.")?;
                return Ok(exit);
            }
            Ok(None) => {
                writeln!(err, "error: admin.listen is \"\" in the configuration, so there is nobody to ask")?;
                return Ok(Exit::Failure);
            }
            Ok(Some(address)) if address.port() == 0 => {
                writeln!(err, "error: admin.listen leaves the port to the system: name it with --admin")?;
                return Ok(Exit::Failure);
            }
            Ok(Some(address)) => address,
        },
    };
    let address = reachable(address);
    let answer = http::get(address, "/status").and_then(|body| {
        let status: Status = serde_json::from_slice(&body).map_err(|_| HttpError::Stranger)?;
        Ok((body, status))
    });
    match answer {
        Ok((body, _)) if args.json => {
            out.write_all(&body)?;
            writeln!(out)?;
            Ok(Exit::Well)
        }
        Ok((_, status)) => {
            out.write_all(human(&status).as_bytes())?;
            Ok(Exit::Well)
        }
        Err(error) => {
            writeln!(err, "error: no answer from the gateway at {address}: {error}")?;
            let help = match error {
                HttpError::Refused => {
                    "is it running? `systemctl status tidegate` or `tidegate run`; is this its address? see --config and --admin"
                }
                HttpError::Io(_) => {
                    "is the address right, and does a firewall stand between? see --config and --admin"
                }
                HttpError::Stranger => "another program has this port; see --config and --admin",
                HttpError::Status(_) => "its log says why",
            };
            writeln!(err, "  = help: {help}")?;
            Ok(Exit::Failure)
        }
    }
}

/// Where one connects to reach a listener on every address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Lays a status out in lines.
fn human(status: &Status) -> String {
    let mut text = String::new();
    let ready = match (status.ready, status.holding) {
        (true, false) => "takes messages",
        (true, true) => "tells devices to hold",
        (false, _) => "does not take messages",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} {ready}  (tidegate {}, up {}, {} of memory)",
        plain(&status.gateway),
        plain(&status.version),
        elapsed(Duration::from_secs(status.uptime_seconds)),
        bytes(status.process.resident_bytes),
    );
    if !status.clock_synchronised {
        let _ = writeln!(text, "  ! the clock is not synchronised");
    }
    for problem in &status.problems {
        let _ = writeln!(text, "  ! {}", plain(problem));
    }
    let m = &status.messages;
    let _ = writeln!(
        text,
        "\nmessages  {:.1}/s in, {:.1}/s out; {} accepted, {} without a route; {} not safe yet",
        m.accepted_per_second,
        m.confirmed_per_second,
        m.accepted,
        m.unrouted,
        bytes(m.unsafe_bytes),
    );
    let _ = writeln!(
        text,
        "mqtt      {} connections, {} sessions, {} subscriptions; {}",
        status.mqtt.peers,
        status.mqtt.sessions,
        status.mqtt.subscriptions,
        traffic(&status.mqtt),
    );
    let _ = writeln!(text, "coap      {} peers; {}", status.coap.peers, traffic(&status.coap));
    let _ = writeln!(
        text,
        "store     {} in {}, {} free; {} commits, {} failed",
        bytes(status.store.bytes),
        plain(&status.store.data_dir),
        bytes(status.store.free_bytes),
        status.store.commits,
        status.store.commit_failures,
    );

    let lost = status.losses.messages.iter().filter(|(_, count)| **count > 0);
    let lost: Vec<_> = lost.map(|(reason, count)| format!("{count} {}", plain(reason))).collect();
    if !lost.is_empty() || status.losses.untold > 0 {
        let lost = if lost.is_empty() { "none since the start".to_owned() } else { lost.join(", ") };
        let _ = writeln!(
            text,
            "lost      {lost}; {} messages in {} tombstones wait for their upstreams",
            status.losses.untold, status.losses.entries
        );
    }

    let upstreams = status.upstreams.iter().map(|u| {
        let state = match (u.up, u.blocked) {
            (true, false) => "up",
            (true, true) => "blocked",
            (false, _) => "DOWN",
        };
        let counts = [u.in_flight, u.confirmed, u.resent, u.returned, u.nacked, u.refused, u.lost];
        row(&u.name, [state.to_owned()].into_iter().chain(counts.iter().map(u64::to_string)))
    });
    let head =
        ["UPSTREAM", "LINK", "UNDER WAY", "CONFIRMED", "RESENT", "RETURNED", "NACKED", "REFUSED", "LOST"];
    table(&mut text, &head, upstreams.collect());
    let routes = status.routes.iter().map(|r| {
        let size = bytes(r.on_disk_bytes);
        let mut cells = row(&r.name, [r.waiting, r.on_disk].iter().map(u64::to_string));
        cells.push(size);
        cells.push(r.oldest_seconds.map_or("-".to_owned(), |seconds| elapsed(Duration::from_secs(seconds))));
        cells.extend([r.delivered, r.buried, r.damaged, r.discarded].iter().map(u64::to_string));
        cells
    });
    let head = ["ROUTE", "WAITING", "ON DISK", "SIZE", "OLDEST", "DELIVERED", "DEAD", "DAMAGED", "DISCARDED"];
    table(&mut text, &head, routes.collect());
    text
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(plain(name)).chain(cells).collect()
}

fn traffic(p: &Protocol) -> String {
    let mut text = format!("{} received, {} acknowledged", p.received, p.acknowledged);
    let exceptions = [
        (p.repeated, "repeated"),
        (p.dropped, "dropped"),
        (p.not_retained, "not retained"),
        (p.refused, "peers refused"),
        (p.sign_ins_refused, "sign-ins refused"),
        (p.publishes_denied, "publishes denied"),
        (p.subscriptions_denied, "subscriptions denied"),
    ];
    for (count, what) in exceptions {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// A size to look at: three figures or so.
fn bytes(bytes: u64) -> String {
    let mut unit = "B";
    let mut value = bytes;
    let mut rest = 0;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1_024 {
            break;
        }
        rest = value % 1_024;
        value /= 1_024;
        unit = next;
    }
    if unit == "B" || value >= 100 {
        format!("{value} {unit}")
    } else {
        format!("{value}.{} {unit}", rest * 10 / 1_024)
    }
}

/// A duration to look at: its two largest units.
fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m} min {s} s"),
        (0, _, _) => format!("{h} h {m} min"),
        _ => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, elapsed, human};
    use crate::admin::status::{Route, Status, Upstream};
    use std::time::Duration;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(300 << 20), "300 MiB");
        assert_eq!(bytes(u64::MAX), "16777215 TiB");
        assert_eq!(elapsed(Duration::from_secs(59)), "59 s");
        assert_eq!(elapsed(Duration::from_secs(3_700)), "1 h 1 min");
        assert_eq!(elapsed(Duration::from_secs(90_000)), "1 d 1 h");
    }

    #[test]
    fn a_problem_stands_on_top_and_cannot_steer_the_terminal() {
        let status = Status {
            gateway: "site-a".to_owned(),
            problems: vec!["the uplink says \u{1b}[31mno".to_owned()],
            upstreams: vec![Upstream { name: "cloud".to_owned(), ..Upstream::default() }],
            routes: vec![Route { name: "readings".to_owned(), waiting: 12, ..Route::default() }],
            ..Status::default()
        };
        let text = human(&status);
        assert!(text.lines().nth(2).is_some_and(|line| line.contains("the uplink says")), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("DOWN"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("readings") && line.contains("12")), "{text}");
    }
}

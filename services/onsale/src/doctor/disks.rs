//! Room on the disks of the broker and of the databases, as far as it is visible from here.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use mesh::postgres;

use super::{
    broker,
    check::{Checked, Outcome, alone, skipped},
};
use crate::{config::Config, registry::WITH_DATABASE};

/// Percent of what JetStream may store, above which it should be given more …
const WARN_PERCENT: u64 = 80;
/// … and above which it will soon refuse messages.
const WRONG_PERCENT: u64 = 90;
/// Percent of a disk that should be free …
const FREE_WARN_PERCENT: u64 = 10;
/// … and without which a server soon stops.
const FREE_WRONG_PERCENT: u64 = 2;

/// A disk of this machine that a server writes to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Disk {
    free: u64,
    total: u64,
}

impl Disk {
    /// The disk of a folder; `None` when it cannot be seen from here.
    fn of(folder: &str) -> Option<Self> {
        let found = rustix::fs::statvfs(Path::new(folder)).ok()?;
        Some(Self { free: found.f_bavail * found.f_frsize, total: found.f_blocks * found.f_frsize })
    }

    fn percent(self) -> u64 {
        share(self.free, self.total)
    }
}

fn share(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

/// Room in JetStream, and on the disk of its store when it runs on this machine.
pub(super) async fn of_broker(config: &Config) -> Outcome {
    let servers = match broker::servers(config).await {
        Ok(servers) => servers,
        Err(outcome) => return outcome,
    };
    let (mut said, mut worst) = (Vec::new(), Checked::Good(String::new()));
    for server in servers {
        let disk = is_here(&config.nats_url).then(|| Disk::of(&server.store_dir)).flatten();
        worst = worse(worst, room(&server.name, server.used, server.used_max, disk)?, &mut said);
    }
    Ok(with(worst, &said))
}

/// Room for one server of the broker.
fn room(name: &str, used: u64, used_max: u64, disk: Option<Disk>) -> Outcome {
    let percent = share(used, used_max);
    let jetstream = format!("{name} stores {} of {}", bytes(used), bytes(used_max));
    let more = "raise max_file_store (jetstream/nats.conf) when its disk has room, or shorten \
                max_age in jetstream/streams";
    if used_max > 0 && percent >= WRONG_PERCENT {
        bail!("{jetstream}, and will soon refuse messages: {more}");
    }
    let on_disk = match disk {
        Some(disk) => on_disk("its disk", disk).map_err(|why| anyhow!("{jetstream}; {why}"))?,
        None => Checked::Good("its disk is not visible from here".into()),
    };
    Ok(match (percent >= WARN_PERCENT && used_max > 0, on_disk) {
        (true, _) => Checked::Warning(format!("{jetstream}: {more}")),
        (false, Checked::Warning(disk)) => Checked::Warning(format!("{jetstream}; {disk}")),
        (false, Checked::Good(disk) | Checked::Skipped(disk)) => {
            Checked::Good(format!("{jetstream}; {disk}"))
        }
    })
}

fn on_disk(whose: &str, disk: Disk) -> Outcome {
    let said = format!("{whose} has {} of {} free", bytes(disk.free), bytes(disk.total));
    match disk.percent() {
        0..FREE_WRONG_PERCENT => {
            bail!("{said}: free space at once; a server that meets a full disk stops")
        }
        FREE_WRONG_PERCENT..FREE_WARN_PERCENT => {
            Ok(Checked::Warning(format!("{said}: free some space")))
        }
        _ => Ok(Checked::Good(said)),
    }
}

/// Sizes of the databases, and the disk of PostgreSQL where its folder may be read.
pub(super) async fn of_databases(config: &Config) -> Outcome {
    let (mut total, mut count, mut disk) = (0_u64, 0, None);
    for service in WITH_DATABASE {
        let Some(url) = config.database_urls.get(service) else { continue };
        // A database that cannot be reached is another check's finding.
        let Ok((size, folder)) = of_database(url).await else { continue };
        total += size;
        count += 1;
        disk = disk.or(folder.filter(|_| is_here(url)).and_then(|folder| Disk::of(&folder)));
    }
    if count == 0 {
        return skipped("no database can be asked");
    }
    let sizes = format!("{count} databases have {}", bytes(total));
    match disk {
        None => Ok(Checked::Good(format!("{sizes}; their disk is not visible from here"))),
        Some(disk) => {
            Ok(match on_disk("their disk", disk).map_err(|why| anyhow!("{sizes}; {why}"))? {
                Checked::Warning(disk) => Checked::Warning(format!("{sizes}; {disk}")),
                Checked::Good(disk) | Checked::Skipped(disk) => {
                    Checked::Good(format!("{sizes}; {disk}"))
                }
            })
        }
    }
}

/// The size of a database, and the folder of the server when this role may know it.
async fn of_database(url: &str) -> Result<(u64, Option<String>)> {
    let mut database = postgres::connect(url).await.map_err(alone)?;
    let (size, folder): (i64, Option<String>) = sqlx::query_as(
        "select pg_database_size(current_database()),
             (select setting from pg_settings where name = 'data_directory')",
    )
    .fetch_one(&mut database)
    .await?;
    Ok((size.unsigned_abs(), folder))
}

/// Whether the server at this address runs on this machine, so that its folders are here.
fn is_here(url: &str) -> bool {
    let host = url.rsplit_once('@').map_or(url, |(_, host)| host);
    let host = host.split_once("://").map_or(host, |(_, host)| host);
    ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

/// Keeps the worse of two findings, and what both say.
fn worse(one: Checked, other: Checked, said: &mut Vec<String>) -> Checked {
    let (Checked::Good(text) | Checked::Warning(text) | Checked::Skipped(text)) = &other;
    said.push(text.clone());
    if matches!(one, Checked::Warning(_)) { one } else { other }
}

fn with(finding: Checked, said: &[String]) -> Checked {
    match finding {
        Checked::Warning(_) => Checked::Warning(said.join(", ")),
        _ => Checked::Good(said.join(", ")),
    }
}

/// A number of bytes in the largest unit that fits.
fn bytes(count: u64) -> String {
    let units = [(1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let fits = units.into_iter().find(|(unit, _)| count >= *unit);
    fits.map_or(format!("{count} bytes"), |(unit, name)| {
        format!("{:.1} {name}", count as f64 / unit as f64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_almost_full_is_a_warning_and_then_wrong() {
        let disk = |free| Some(Disk { free, total: 100 });
        assert!(matches!(room("n", 10, 100, disk(50)), Ok(Checked::Good(_))));
        assert!(matches!(room("n", 10, 100, None), Ok(Checked::Good(_))));
        assert!(matches!(room("n", 10, 100, disk(5)), Ok(Checked::Warning(_))));
        assert!(room("n", 10, 100, disk(1)).is_err());
        assert!(matches!(room("n", 85, 100, disk(50)), Ok(Checked::Warning(_))));
        assert!(room("n", 95, 100, disk(50)).is_err());
        assert!(Disk::of("/").is_some_and(|disk| disk.total > 0 && disk.free <= disk.total));
        assert_eq!(Disk::of("/no/such/folder"), None);
    }

    #[test]
    fn folders_are_looked_for_only_where_the_server_runs_on_this_machine() {
        assert!(is_here("nats://127.0.0.1:4222") && is_here("postgres://u:p@localhost/x"));
        assert!(!is_here("nats://nats:4222") && !is_here("postgres://127.0.0.1:p@db/x"));
        assert_eq!((bytes(512), bytes(3 << 29)), ("512 bytes".into(), "1.5 GB".into()));
    }
}

//! The gateway itself: attach, resync, copy, and begin again when a side is lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::Options;
use crate::rows::{Rows, read_all, read_changes};
use crate::side::Side;
use crate::status::{Shared, Wishes};

/// The description with which the multitier automation ends the backup's standing in.
const FAILOVER_GATE: &str = "failover_gate";

/// Copied rows that are remembered, so that a copy is not copied back; far more than change within the time that a look goes back.
const KNOWN_MAX: usize = 100_000;

/// The gateway.
#[derive(Debug)]
pub struct Gate {
    primary: Side,
    backup: Side,
    /// The backup has been told that the primary is gone.
    told_down: bool,
    /// Rows as they were copied last, by `Identifier`.
    known: HashMap<String, String>,
    failover: bool,
    locks: bool,
    interval: Duration,
    reconnect_delay: Duration,
    shared: Shared,
    wishes: watch::Receiver<Wishes>,
}

impl Gate {
    /// One that is attached to nothing.
    pub fn new(options: &Options, shared: Shared) -> anyhow::Result<Self> {
        Ok(Self {
            primary: Side::new(&options.primary_name, &options.primary, options)?,
            backup: Side::new(&options.backup_name, &options.backup, options)?,
            told_down: false,
            known: HashMap::new(),
            failover: options.description == FAILOVER_GATE,
            locks: options.resync_locks,
            interval: options.interval,
            reconnect_delay: options.reconnect_delay,
            wishes: shared.wishes(),
            shared,
        })
    }

    /// Works for ever.
    pub async fn run(&mut self) {
        loop {
            if let Err(error) = self.work().await {
                tracing::warn!(error = format!("{error:#}"), "not in step");
                self.shared
                    .update(|status| status.last_error = Some(format!("{error:#}")));
            }
            self.report(false, false);
            self.unlock().await;
            if let Err(error) = self.tell_down().await {
                tracing::warn!(error = format!("{error:#}"), "the backup was not told");
            }
            self.pause(self.reconnect_delay).await;
        }
    }

    /// Says good-bye to both.
    pub async fn leave(&mut self) {
        self.primary.leave().await;
        self.backup.leave().await;
    }

    /// Attaches, resyncs and copies until something goes wrong.
    async fn work(&mut self) -> anyhow::Result<()> {
        self.obey().await;
        let wanted = self.wishes.borrow_and_update().clone();
        let wants = |side: &Side| wanted.attach.get(&side.name).copied().unwrap_or_default();
        let backup = if self.backup.is_attached() || !wants(&self.backup) {
            Ok(())
        } else {
            self.backup.attach().await
        };
        self.tell_down().await?;
        if !self.primary.is_attached() && wants(&self.primary) {
            self.primary.attach().await?;
        }
        backup?;
        self.report(false, false);
        if !self.primary.is_attached() || !self.backup.is_attached() {
            return Ok(());
        }
        self.resync(wanted.resync_at_least).await?;
        self.copy().await
    }

    /// While the gateway is not attached to the primary, the backup stands in.
    async fn tell_down(&mut self) -> anyhow::Result<()> {
        if !self.backup.is_attached() {
            self.told_down = false;
        } else if !self.primary.is_attached() && !self.told_down {
            self.backup.set_acting_primary(true).await?;
            self.told_down = true;
        }
        Ok(())
    }

    async fn resync(&mut self, at_least: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        self.report(true, false);
        if self.locks {
            self.primary.ask("lock tables").await?;
            self.backup.ask("lock tables").await?;
        }
        let on_primary = read_all(&mut self.primary).await?;
        let on_backup = read_all(&mut self.backup).await?;
        self.send(&on_backup.missing_in(&on_primary), true).await?;
        self.send(&on_primary.missing_in(&on_backup), false).await?;
        while let Some(left) = at_least.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.stay(left).await?;
        }
        if self.locks {
            self.primary.ask("unlock tables").await?;
            self.backup.ask("unlock tables").await?;
        }
        if self.failover {
            self.backup.set_acting_primary(false).await?;
        }
        self.told_down = false;
        let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(took_ms = took, "resync finished");
        self.shared.update(|status| {
            status.resyncs += 1;
            status.last_resync_ms = Some(took);
        });
        Ok(())
    }

    /// A resync that ended early has left its locks where it is still attached.
    async fn unlock(&mut self) {
        for side in [&mut self.primary, &mut self.backup] {
            if self.locks && side.is_attached() {
                let _ = side.ask("unlock tables").await;
            }
        }
    }

    async fn copy(&mut self) -> anyhow::Result<()> {
        self.report(false, true);
        loop {
            let changes = read_changes(&mut self.primary).await?;
            self.send_unknown(changes, false).await?;
            let changes = read_changes(&mut self.backup).await?;
            self.send_unknown(changes, true).await?;
            if self.known.len() > KNOWN_MAX {
                self.known.clear();
            }
            self.stay(self.interval).await?;
        }
    }

    /// Sends what is not the copy of a copy.
    async fn send_unknown(&mut self, mut changes: Rows, to_primary: bool) -> anyhow::Result<()> {
        let known = &mut self.known;
        changes
            .values
            .retain(|identifier, values| known.insert(identifier.clone(), values.clone()).as_ref() != Some(values));
        self.send(&changes, to_primary).await
    }

    async fn send(&mut self, rows: &Rows, to_primary: bool) -> anyhow::Result<()> {
        let side = if to_primary {
            &mut self.primary
        } else {
            &mut self.backup
        };
        let count = rows.write_to(side).await?;
        self.shared
            .update(|status| *status.rows_copied.entry(side.name.clone()).or_default() += count);
        Ok(())
    }

    /// Lets time pass, unless a side is lost or shall be left.
    async fn stay(&mut self, time: Duration) -> anyhow::Result<()> {
        self.pause(time).await;
        self.obey().await;
        anyhow::ensure!(self.primary.is_attached(), "detached from {}", self.primary.name);
        anyhow::ensure!(self.backup.is_attached(), "detached from {}", self.backup.name);
        Ok(())
    }

    /// Lets time pass, less of it when a side is lost or a wish comes.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.primary.lost() => {}
            () = self.backup.lost() => {}
            _ = self.wishes.changed() => {}
        }
    }

    /// Leaves what it shall not be attached to.
    async fn obey(&mut self) {
        let wanted = self.wishes.borrow_and_update().attach.clone();
        for side in [&mut self.primary, &mut self.backup] {
            if wanted.get(&side.name) == Some(&false) {
                side.leave().await;
            }
        }
    }

    fn report(&self, resyncing: bool, copying: bool) {
        self.shared.update(|status| {
            for side in [&self.primary, &self.backup] {
                status.attached.insert(side.name.clone(), side.is_attached());
            }
            status.resyncing = resyncing;
            status.copying = copying;
            if copying {
                status.last_error = None;
            }
        });
    }
}

//! The gateway's store worker: carries out one order after the other on the model disk, and on the real store where there is one
//! beneath it, takes its time, and reports.
//! Decides nothing about what is stored.

use super::disk::Condition;
use super::gateway::{Job, Work};
use super::oracle::Held;
use super::plan::MS;
use super::world::{Event, World};
use tidegate::store::Store;
use tidegate_engine::event::{Input, StoreFault};

/// The store's worker: one order at a time, in their order.
impl World {
    pub(super) fn work_store(&mut self) {
        if self.gateway.work.is_some() {
            return;
        }
        let Some(job) = self.gateway.jobs.pop_front() else { return };
        let life = self.gateway.life;
        let stall = self.disk_stall();
        let work = match job {
            Job::Commit(batch) => match self.disk.write(batch.ops.as_slice().into()) {
                Ok(()) => {
                    let time = self.rng.u64(self.plan.commit_time.clone()) + stall;
                    self.clock.after(self.rng.u64(..=time), Event::Synced { life });
                    self.clock.after(time, Event::StoreDone { life });
                    self.gateway.work = Some(Work::Commit { batch: batch.id });
                    return;
                }
                Err(fault) => {
                    self.coverage.commits_failed += 1;
                    self.coverage.commits_full += u64::from(fault == StoreFault::Full);
                    Work::Failed { batch: batch.id, fault }
                }
            },
            Job::Load { lane, after, messages, bytes } => Work::Load { lane, after, messages, bytes },
        };
        self.gateway.work = Some(work);
        let time = self.rng.u64(100..3 * MS) + stall;
        self.clock.after(time, Event::StoreDone { life });
    }

    pub(crate) fn store_synced(&mut self) -> Held {
        if let Some(real) = &mut self.real {
            real.commit(&self.disk)?;
        }
        self.disk.sync();
        self.see_forgotten()
    }

    /// Tells the oracle which rows have left the disk.
    pub(crate) fn see_forgotten(&mut self) -> Held {
        for (lane, message) in self.disk.take_forgotten() {
            self.oracle.forgotten(lane, &message)?;
        }
        Ok(())
    }

    pub(crate) fn store_done(&mut self) -> Held {
        let fault = || StoreFault::Failed("the medium does not answer".into());
        match self.gateway.work.take() {
            Some(Work::Commit { batch }) => {
                self.store_synced()?;
                self.report(Input::Committed { batch });
            }
            Some(Work::Failed { batch, fault }) => self.report(Input::CommitFailed { batch, fault }),
            Some(Work::Load { lane, .. }) if self.disk.condition == Condition::Failing => {
                self.coverage.loads_failed += 1;
                self.report(Input::LoadFailed { lane, fault: fault() });
            }
            Some(Work::Load { lane, after, messages, bytes }) => {
                let loaded = match &mut self.real {
                    Some(real) => real.load(lane, after, messages, bytes),
                    None => self.disk.load(lane, after, messages, bytes),
                };
                let input = match loaded {
                    Ok(page) => Input::Loaded {
                        lane,
                        messages: page.messages,
                        damaged: page.damaged,
                        note: page.note,
                        upto: page.upto,
                    },
                    Err(fault) => Input::LoadFailed { lane, fault },
                };
                self.report(input);
            }
            None => {}
        }
        self.work_store();
        Ok(())
    }
}

//! The simulation's disk held to the durability contract: what the simulation proves, it proves about a store that
//! keeps the same promises as SQLite.

use std::cell::RefCell;
use std::rc::Rc;
use tidegate::store::{Lanes, Page, Store};
use tidegate_engine::event::{Letter, Op, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tidegate_tests::sim::disk::Disk;
use tidegate_tests::store_contract::{Medium, Reopened};

#[derive(Clone, Default)]
struct Model(Rc<RefCell<Disk>>);

impl Store for Model {
    fn commit(&mut self, ops: &[Op]) -> Result<(), StoreFault> {
        self.0.borrow_mut().commit(ops)
    }

    fn load(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, StoreFault> {
        self.0.borrow_mut().load(lane, after, messages, bytes)
    }

    fn lanes(&mut self, routes: &[(&str, &str)]) -> Result<Lanes, StoreFault> {
        self.0.borrow_mut().lanes(routes)
    }

    fn letters(&mut self, letters: &[LetterId], bytes: usize) -> Result<Vec<Letter>, StoreFault> {
        self.0.borrow_mut().letters(letters, bytes)
    }

    fn letters_there(&mut self, letters: &[LetterId]) -> Result<Vec<LetterId>, StoreFault> {
        self.0.borrow_mut().letters_there(letters)
    }
}

impl Medium for Model {
    fn open(&mut self, routes: &[(&str, &str)]) -> Reopened {
        let opened = self.0.borrow_mut().open(routes);
        Reopened {
            store: Box::new(self.clone()),
            recovered: opened.recovered,
            epoch: opened.epoch,
            lanes: opened.lanes,
        }
    }
}

tidegate_tests::store_contract!(Model::default());

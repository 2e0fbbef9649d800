//! SQLite held to the durability contract.

use crate::sizes;
use tempfile::TempDir;
use tidegate::store::Lanes;
use tidegate::store::sqlite::open;
use tidegate_tests::store_contract::{Medium, Reopened};

struct Sqlite(TempDir);

impl Medium for Sqlite {
    fn open(&mut self, routes: &[(&str, &str)]) -> Reopened {
        let opened = open(self.0.path(), routes, sizes()).unwrap();
        Reopened {
            store: Box::new(opened.store),
            recovered: opened.recovered,
            epoch: opened.epoch,
            lanes: Lanes { ids: opened.lanes, orphans: opened.orphans },
        }
    }
}

tidegate_tests::store_contract!(Sqlite(TempDir::new().unwrap()));

//! What an operator does with dead letters: sends them again, or gives them up. The letters are named by their numbers, so that
//! asking twice does no more than asking once; the answer comes when the change is durable.

use super::Admin;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tidegate_engine::event::Letter;
use tidegate_engine::id::LetterId;

/// Letters of one request.
const LETTERS_MOST: usize = 256;

/// Their messages together, in bytes of footprint; those beyond are where they were, and may be asked for again.
const BYTES_MOST: usize = 1 << 20;

/// How long a request waits for its commit. What is not through by then is in no list of the answer.
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Which letters.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Letters {
    /// Their numbers, 256 at the most.
    pub letters: Vec<u64>,
}

/// What became of them. Those in neither list are where they were: there is no room for them at the moment, or the medium is slow.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Moved {
    /// Sent again, or gone.
    pub done: Vec<u64>,
    /// Those for which it cannot be done.
    pub stayed: Vec<Stayed>,
}

/// A letter that stayed, and why.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stayed {
    /// Its number.
    pub letter: u64,
    /// Why, and what can be done.
    pub why: String,
    /// It is not there (any more).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// `POST /dead/requeue`.
pub(super) async fn requeue(State(admin): State<Admin>, Json(asked): Json<Letters>) -> Response {
    let (found, mut moved) = match look(&admin, asked).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    let mut letters = Vec::new();
    for Letter { id, route, lane, message } in found {
        let why = match (lane, message) {
            (Some(lane), Some(message)) => {
                letters.push((id, lane, message));
                continue;
            }
            (None, _) => format!(
                "its route {route} is no longer configured: write a [[route]] with this `name`, reload, and try again"
            ),
            (_, None) => "it is damaged; it can only be purged".to_owned(),
        };
        moved.stayed.push(Stayed { letter: id.0, why, gone: false });
    }
    let ids = letters.iter().map(|(id, ..)| *id).collect();
    admin.0.driver.requeue(letters).await;
    gone(&admin, ids, moved).await
}

/// `POST /dead/purge`.
pub(super) async fn purge(State(admin): State<Admin>, Json(asked): Json<Letters>) -> Response {
    let (found, moved) = match look(&admin, asked).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    let ids = found.iter().map(|letter| letter.id).collect();
    tracing::warn!(letters = found.len(), "an operator gives up dead letters");
    admin.0.driver.purge(found).await;
    gone(&admin, ids, moved).await
}

/// Looks for the letters, as many as are read at once; those that are not there are named as such.
async fn look(admin: &Admin, Letters { letters }: Letters) -> Result<(Vec<Letter>, Moved), Response> {
    if letters.len() > LETTERS_MOST {
        let advice = format!("ask for {LETTERS_MOST} letters at the most");
        return Err((StatusCode::BAD_REQUEST, advice).into_response());
    }
    let wanted: BTreeSet<LetterId> = letters.into_iter().map(LetterId).collect();
    let driver = &admin.0.driver;
    let there = driver.letters_there(wanted.iter().copied().collect()).await.map_err(unreadable)?;
    let found = driver.letters(there.clone(), BYTES_MOST).await.map_err(unreadable)?;
    let there: BTreeSet<LetterId> = there.into_iter().collect();
    let missing = wanted.difference(&there);
    let stayed =
        missing.map(|id| Stayed { letter: id.0, why: "there is no such dead letter".to_owned(), gone: true });
    Ok((found, Moved { done: Vec::new(), stayed: stayed.collect() }))
}

/// Waits until the letters are no longer there, for a while.
async fn gone(admin: &Admin, ids: Vec<LetterId>, mut moved: Moved) -> Response {
    let until = Instant::now() + COMMITTED_WITHIN;
    loop {
        let left: BTreeSet<LetterId> = match admin.0.driver.letters_there(ids.clone()).await {
            Ok(left) => left.into_iter().collect(),
            Err(fault) => return unreadable(fault),
        };
        if left.is_empty() || Instant::now() >= until {
            moved.done = ids.iter().filter(|id| !left.contains(id)).map(|id| id.0).collect();
            return Json(moved).into_response();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn unreadable(fault: Option<tidegate_engine::event::StoreFault>) -> Response {
    let why = fault.map_or("the gateway is stopping".to_owned(), |fault| format!("{fault:?}"));
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

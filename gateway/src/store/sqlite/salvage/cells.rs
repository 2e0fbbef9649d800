//! Rows out of pages that may be damaged, by SQLite's file format (1.6 and 2.1): along the page's own pointers, and where these
//! cannot be right, at every place where a row could begin. Nothing that comes from here is believed before its checksum is.

use super::image::{Image, PAGE, Page, number};
use crate::store::sqlite::row;
use bytes::Bytes;
use rusqlite::types::ValueRef;
use std::io;
use tidegate_engine::message::Message;

/// What a page is (1.6): its first byte.
const TABLE_LEAF: u8 = 0x0D;
const INDEX_LEAF: u8 = 0x0A;
const INDEX_INTERIOR: u8 = 0x02;

/// The most of a row that stands on its page, in a table and in an index, and the least where it goes on elsewhere.
const TABLE_LOCAL: usize = PAGE - 35;
const INDEX_LOCAL: usize = (PAGE - 12) * 64 / 255 - 23;
const LEAST_LOCAL: usize = (PAGE - 12) * 32 / 255 - 23;
/// What an overflow page carries behind the number of the next one.
const OVERFLOW: usize = PAGE - 4;

/// The longest row that is looked for, in bytes: more than the largest message that any listener takes.
const ROW_BYTES_MAX: usize = 272 << 20;

/// The columns of what is looked for.
const MESSAGE_COLUMNS: usize = 14;
const DEAD_COLUMNS: usize = 21;
/// Dead letters of the first version say nothing of what was tried; rows keep the columns with which they were written.
const DEAD_COLUMNS_BEFORE: usize = 18;
const RECORD_COLUMNS: usize = 4;

/// A row that is whole.
#[derive(Debug)]
pub(super) enum Row {
    /// What waited: the number of its lane in the database that it comes from.
    Message { lane: i64, message: Message },
    /// A dead letter: its number, when it became one, its route and the reason.
    Dead { id: i64, buried_ms: i64, route: String, reason: String, message: Message, tried: Tried },
    /// A keyed record.
    Record { kind: i64, key: Bytes, value: Bytes },
}

/// What was tried with a dead letter: how often it was refused, and when and why for the first time.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) attempts: i64,
    pub(super) first_ms: Option<i64>,
    pub(super) first_reason: Option<String>,
}

/// What a page has.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// The page is as it should be, as far as can be seen.
    pub(super) sound: bool,
    /// What the rows take, in bytes.
    pub(super) bytes: usize,
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages and dead letters.
    Messages,
    /// Keyed records.
    Records,
}

/// The whole rows of a page.
///
/// # Errors
/// When the medium cannot be read.
pub(super) fn rows(image: &Image, page: u32, kind: Kind) -> io::Result<Found> {
    let bytes = image.page(page)?;
    let mut found = Found::default();
    let pointers = pointers(&bytes, page);
    let shape = match kind {
        Kind::Messages => TABLE_LEAF,
        Kind::Records => INDEX_LEAF,
    };
    let is_ours = bytes[0] == shape || (kind == Kind::Records && bytes[0] == INDEX_INTERIOR);
    // Where whole rows stand.
    let mut taken = vec![false; PAGE];
    let mut sound = true;
    match &pointers {
        Some(pointers) if is_ours => {
            for at in pointers {
                match row(image, &bytes, *at, bytes[0], kind)? {
                    Cell::Foreign => {}
                    Cell::Damaged => sound = false,
                    Cell::Whole { row, end } => {
                        taken[*at..end].fill(true);
                        found.take(row);
                    }
                }
            }
        }
        Some(_) => {} // Somebody else's.
        // What a row goes on to begins with the number of a page; nothing in it begins a row, whatever it looks like.
        None => sound = number(&bytes, 0) <= image.pages,
    }
    found.sound = sound && (is_ours || kind == Kind::Messages);
    let mut at = if sound { PAGE } else { 0 };
    // The page is damaged: whatever else in it is whole, wherever it begins, and not within a row that is.
    while at < PAGE {
        if !taken[at]
            && let Cell::Whole { row, end } = row(image, &bytes, at, shape, kind)?
        {
            found.take(row);
            at = end;
        } else {
            at += 1;
        }
    }
    Ok(found)
}

/// The pages below a page of an index, leftmost first and the rightmost last; none below a leaf.
pub(super) fn below(bytes: &Page, page: u32) -> Vec<u32> {
    if bytes[0] != INDEX_INTERIOR {
        return Vec::new();
    }
    let cells = pointers(bytes, page).unwrap_or_default();
    cells.into_iter().map(|at| number(bytes, at)).chain([number(bytes, 8)]).collect()
}

/// Where the cells of a page begin; `None` when it cannot be a page of a tree.
fn pointers(bytes: &Page, page: u32) -> Option<Vec<usize>> {
    // Before the first page's own header stands the file's.
    let header = if page == 1 { 100 } else { 0 };
    let length = match bytes[header] {
        TABLE_LEAF | INDEX_LEAF => 8,
        INDEX_INTERIOR | 0x05 => 12,
        _ => return None,
    };
    let short = |at: usize| Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    let first = header + length;
    let count = short(header + 3)?;
    let end = first + 2 * count;
    (end <= PAGE).then_some(())?;
    (first..end).step_by(2).map(|at| short(at).filter(|at| (end..PAGE).contains(at))).collect()
}

impl Found {
    fn take(&mut self, row: Row) {
        self.bytes += match &row {
            Row::Message { message, .. } | Row::Dead { message, .. } => message.footprint(),
            Row::Record { key, value, .. } => key.len() + value.len(),
        };
        self.rows.push(row);
    }
}

/// What stands at a place of a page.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, and never kept")]
enum Cell {
    /// Nothing, or a row of another table.
    Foreign,
    /// What should be a row.
    Damaged,
    /// A row, and where on the page it ends.
    Whole { row: Row, end: usize },
}

/// A variable-length integer (1.6), and how long it is.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(9).enumerate() {
        if n == 8 {
            return Some((value << 8 | u64::from(*byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    None
}

fn row(image: &Image, page: &Page, at: usize, shape: u8, kind: Kind) -> io::Result<Cell> {
    let Some((length, rowid, at)) = cell(page, at, shape) else { return Ok(Cell::Damaged) };
    let most = if shape == TABLE_LEAF { TABLE_LOCAL } else { INDEX_LOCAL };
    let local = if length <= most {
        length
    } else {
        let fitting = LEAST_LOCAL + (length - LEAST_LOCAL) % OVERFLOW;
        if fitting <= most { fitting } else { LEAST_LOCAL }
    };
    let Some(start) = page.get(at..at + local) else { return Ok(Cell::Damaged) };
    let Some(types) = types(start, length) else { return Ok(Cell::Damaged) };
    let wanted = match kind {
        Kind::Messages => matches!(types.len(), MESSAGE_COLUMNS | DEAD_COLUMNS | DEAD_COLUMNS_BEFORE),
        Kind::Records => types.len() == RECORD_COLUMNS,
    };
    if !wanted {
        return Ok(Cell::Foreign);
    }
    let mut whole = start.to_vec();
    let mut next = number(page, at + local);
    let mut pages = 0;
    while whole.len() < length {
        pages += 1;
        // A chain that damage led astray ends at the latest when every page was in it.
        if next < 2 || next > image.pages || pages > image.pages {
            return Ok(Cell::Damaged);
        }
        let page = image.page(next)?;
        let count = OVERFLOW.min(length - whole.len());
        whole.extend_from_slice(&page[4..4 + count]);
        next = number(&page, 0);
    }
    let row = values(&whole, &types).and_then(|values| believed(rowid, &values));
    Ok(row.map_or(Cell::Damaged, |row| Cell::Whole { row, end: at + local }))
}

/// The length of the row at a place, its number, and where it begins.
fn cell(page: &Page, mut at: usize, shape: u8) -> Option<(usize, i64, usize)> {
    if shape == INDEX_INTERIOR {
        at += 4;
    }
    let (length, bytes) = varint(page.get(at..)?)?;
    at += bytes;
    let mut rowid = 0;
    if shape == TABLE_LEAF {
        let (number, bytes) = varint(page.get(at..)?)?;
        rowid = number.cast_signed();
        at += bytes;
    }
    let length = usize::try_from(length).ok().filter(|length| (4..=ROW_BYTES_MAX).contains(length))?;
    Some((length, rowid, at))
}

/// The types of a row's columns (2.1), where they add up to its length.
fn types(start: &[u8], length: usize) -> Option<Vec<u64>> {
    let (header, mut at) = varint(start)?;
    let header = usize::try_from(header).ok().filter(|header| *header <= start.len())?;
    let mut types = Vec::new();
    let mut total = header;
    while at < header {
        let (kind, bytes) = varint(start.get(at..header)?)?;
        at += bytes;
        total = total.checked_add(size(kind)?)?;
        types.push(kind);
        if types.len() > DEAD_COLUMNS {
            return None;
        }
    }
    (total == length).then_some(types)
}

fn size(kind: u64) -> Option<usize> {
    match kind {
        0 | 8 | 9 => Some(0),
        1..=4 => usize::try_from(kind).ok(),
        5 => Some(6),
        6 => Some(8),
        12.. => usize::try_from((kind - 12) / 2).ok(),
        // A floating-point number, which no table of ours has, and what is reserved.
        _ => None,
    }
}

fn values<'a>(row: &'a [u8], types: &[u64]) -> Option<Vec<ValueRef<'a>>> {
    let (header, _) = varint(row)?;
    let mut rest = row.get(usize::try_from(header).ok()?..)?;
    let mut values = Vec::with_capacity(types.len());
    for kind in types {
        let (bytes, after) = rest.split_at_checked(size(*kind)?)?;
        rest = after;
        values.push(match kind {
            0 => ValueRef::Null,
            8 | 9 => ValueRef::Integer((kind - 8).cast_signed()),
            1..=6 => {
                let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
                let start = if negative { -1 } else { 0 };
                ValueRef::Integer(bytes.iter().fold(start, |n: i64, byte| n << 8 | i64::from(*byte)))
            }
            kind if kind % 2 == 0 => ValueRef::Blob(bytes),
            _ => ValueRef::Text(bytes),
        });
    }
    Some(values)
}

/// The row that these values are; `None` unless its checksum says so.
fn believed(rowid: i64, values: &[ValueRef<'_>]) -> Option<Row> {
    match values {
        [_, rest @ ..] if values.len() == MESSAGE_COLUMNS => {
            let mut whole = [ValueRef::Null; MESSAGE_COLUMNS];
            whole[0] = ValueRef::Integer(rowid);
            whole[1..].copy_from_slice(rest);
            Some(Row::Message { lane: row::lane_of(rowid), message: row::check(&whole)? })
        }
        [_, buried_ms, route, reason, rest @ ..]
            if matches!(values.len(), DEAD_COLUMNS | DEAD_COLUMNS_BEFORE) =>
        {
            let (message, rest) = rest.split_first_chunk()?;
            let tried = match rest {
                [attempts, first_ms, first_reason] => Tried {
                    attempts: attempts.as_i64().ok()?,
                    first_ms: first_ms.as_i64_or_null().ok()?,
                    first_reason: first_reason.as_str_or_null().ok()?.map(str::to_owned),
                },
                _ => Tried::default(),
            };
            Some(Row::Dead {
                id: rowid,
                buried_ms: buried_ms.as_i64().ok()?,
                route: route.as_str().ok()?.to_owned(),
                reason: reason.as_str().ok()?.to_owned(),
                message: row::check(message)?,
                tried,
            })
        }
        [kind, key, value, checksum] => {
            let (kind, key, value) = (kind.as_i64().ok()?, key.as_bytes().ok()?, value.as_bytes().ok()?);
            let whole = checksum.as_i64().ok()? == i64::from(row::record_checksum(kind, key, value));
            whole.then(|| Row::Record {
                kind,
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            })
        }
        _ => None,
    }
}

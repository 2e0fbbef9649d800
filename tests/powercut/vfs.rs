//! SQLite's files on the medium in memory: a VFS under the name [`NAME`] that does what SQLite's own does on Linux, with the same
//! answers about sectors and power, and hands every operation on to the medium. The only unsafe code of the tests.
#![expect(unsafe_code, reason = "a VFS is a table of C functions that SQLite calls with raw pointers")]

use super::medium::{Entry, Inode, Medium, Node, Synced, find, lock};
use rusqlite::ffi;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// The VFS's name.
pub(super) const NAME: &str = "powercut";
const C_NAME: &CStr = c"powercut";

/// The longest path, in bytes; unix-vfs has 512.
const PATH_BYTES_MAX: c_int = 512;
/// What SQLite's own VFS says of a disk that tells nothing about itself.
const SECTOR_BYTES: c_int = 4_096;
/// 2000-01-01T12:00:00Z as a Julian day, in milliseconds.
const JULIAN_2000_MS: i64 = 2_451_545 * 86_400_000;

/// Registers the VFS, once.
///
/// # Panics
/// When SQLite does not take it.
pub(super) fn register() {
    static ANSWER: OnceLock<c_int> = OnceLock::new();
    let answer = *ANSWER.get_or_init(|| {
        let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: c_int::try_from(size_of::<File>()).unwrap_or(c_int::MAX),
            mxPathname: PATH_BYTES_MAX,
            pNext: std::ptr::null_mut(),
            zName: C_NAME.as_ptr(),
            pAppData: std::ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(wait_a_little),
            xCurrentTime: Some(current_time),
            xGetLastError: Some(last_error),
            xCurrentTimeInt64: Some(current_time_int64),
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the table is whole, lives for ever, and is registered once.
        unsafe { ffi::sqlite3_vfs_register(vfs, 0) }
    });
    assert_eq!(answer, ffi::SQLITE_OK, "SQLite takes the VFS");
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_nothing),
    xUnlock: Some(lock_nothing),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// An open file, in the memory that SQLite gives for it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// From `Box::into_raw` in `open` until `close`.
    handle: *mut Handle,
}

struct Handle {
    medium: Arc<Mutex<Medium>>,
    inode: Inode,
    what: Synced,
    /// Its directory is synced with its first sync: SQLite's own VFS does so for journals and WALs that it may have created.
    dir: Option<PathBuf>,
    /// The WAL's index, which is memory and does not outlive the process. One connection has it for itself.
    index: Vec<Box<[u64]>>,
}

/// The handle of an open file.
///
/// # Safety
/// `file` comes from SQLite, was opened by `open`, is not closed yet, and is used by no other thread meanwhile.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: SQLite gives `szOsFile` bytes for each file, aligned for any type; `open` has written a whole `File` there.
    unsafe { &mut *(*file.cast::<File>()).handle }
}

/// The path that SQLite gives.
///
/// # Safety
/// `name` is a C string that outlives the call.
unsafe fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: as the caller promises.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: `file` points to `szOsFile` bytes. Without methods SQLite will not close what could not be opened.
    unsafe { (*file).pMethods = std::ptr::null() };
    // Nothing of the store is temporary on the medium: it keeps such things in memory.
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: SQLite's names are C strings that live as long as the file is open.
    let Some((medium, path)) = find(unsafe { path(name) }) else { return ffi::SQLITE_CANTOPEN };
    let create = flags & ffi::SQLITE_OPEN_CREATE != 0;
    let opened = lock(&medium).open(&path, create);
    let Ok((inode, _)) = opened else { return ffi::SQLITE_CANTOPEN };
    let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    let what = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Synced::Database
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Synced::Wal
    } else {
        Synced::Other
    };
    let dir = (create && flags & journal != 0).then(|| path.parent().map(Path::to_path_buf)).flatten();
    let handle = Box::into_raw(Box::new(Handle { medium, inode, what, dir, index: Vec::new() }));
    // SAFETY: `file` points to room for a `File`; `out` is null or points to an integer.
    unsafe {
        file.cast::<File>().write(File { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, handle });
        if !out.is_null() {
            *out = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `open` made the handle with `Box::into_raw`; SQLite closes a file once and does not use it again.
    drop(unsafe { Box::from_raw((*file.cast::<File>()).handle) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: the file is open; `to` has room for `count` bytes, which zeros make good ones.
    let (handle, to) = unsafe {
        std::ptr::write_bytes(to.cast::<u8>(), 0, count.unsigned_abs() as usize);
        (handle(file), std::slice::from_raw_parts_mut(to.cast::<u8>(), count.unsigned_abs() as usize))
    };
    let medium = lock(&handle.medium);
    let Some(content) = medium.content(handle.inode) else { return ffi::SQLITE_IOERR };
    if content.read(at.unsigned_abs(), to) < to.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    // SAFETY: the file is open; `from` has `count` bytes.
    let (handle, from) = unsafe {
        (handle(file), std::slice::from_raw_parts(from.cast::<u8>(), count.unsigned_abs() as usize))
    };
    let is_wal = handle.what == Synced::Wal;
    match lock(&handle.medium).write(handle.inode, at.unsigned_abs(), from, is_wal) {
        Ok(()) => ffi::SQLITE_OK,
        Err(_) => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    match lock(&handle.medium).set_len(handle.inode, bytes.unsigned_abs()) {
        Ok(()) => ffi::SQLITE_OK,
        Err(_) => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    let mut medium = lock(&handle.medium);
    if medium.sync(handle.inode, handle.what).is_err() {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    match handle.dir.take().map(|dir| medium.sync_dir(&dir)) {
        Some(Err(_)) => ffi::SQLITE_IOERR_DIR_FSYNC,
        _ => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, bytes: *mut i64) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    let Some(len) = lock(&handle.medium).content(handle.inode).map(super::content::Content::len) else {
        return ffi::SQLITE_IOERR_FSTAT;
    };
    // SAFETY: `bytes` points to an integer.
    unsafe { *bytes = len.cast_signed() };
    ffi::SQLITE_OK
}

/// The store's own lock keeps other processes away, and it has one connection.
unsafe extern "C" fn lock_nothing(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: `out` points to an integer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES
}

/// As on Linux: a write that a power cut tears leaves the bytes beside it as they were.
unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: the file is open.
    let index = &mut unsafe { handle(file) }.index;
    let region = region.unsigned_abs() as usize;
    if extend != 0 {
        while index.len() <= region {
            index.push(vec![0; (bytes.unsigned_abs() as usize).div_ceil(size_of::<u64>())].into());
        }
    }
    let memory = index.get_mut(region).map_or(std::ptr::null_mut(), |memory| memory.as_mut_ptr().cast());
    // SAFETY: `out` points to a pointer. The memory stays where it is until `shm_unmap` or `close`.
    unsafe { *out = memory };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(_: *mut ffi::sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open, and SQLite does not use the index after this.
    unsafe { handle(file) }.index.clear();
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite's names are C strings.
    let Some((medium, path)) = find(unsafe { path(name) }) else { return ffi::SQLITE_IOERR_DELETE_NOENT };
    let mut medium = lock(&medium);
    if medium.node(&path).is_none() {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    }
    let dir = path.parent().map(Path::to_path_buf);
    if medium.entry(Entry::Remove { path }).is_err() {
        return ffi::SQLITE_IOERR_DELETE;
    }
    match dir.filter(|_| sync_dir & 1 != 0).map(|dir| medium.sync_dir(&dir)) {
        Some(Err(_)) => ffi::SQLITE_IOERR_DIR_FSYNC,
        _ => ffi::SQLITE_OK,
    }
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's names are C strings.
    let found = find(unsafe { path(name) });
    let there = found.is_some_and(|(medium, path)| {
        let medium = lock(&medium);
        match medium.node(&path) {
            // As unix-vfs has it: an empty file is as good as none.
            Some(Node::File(inode)) if flags == ffi::SQLITE_ACCESS_EXISTS => {
                medium.content(inode).is_some_and(|content| content.len() > 0)
            }
            node => node.is_some(),
        }
    });
    // SAFETY: `out` points to an integer.
    unsafe { *out = c_int::from(there) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's names are C strings.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if name.len() > room.unsigned_abs() as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: `out` has `room` bytes, which are enough, and is not the name's own memory.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len()) };
    ffi::SQLITE_OK
}

/// SQLite asks its default VFS for random numbers; this one is not it.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    // SAFETY: `out` has `count` bytes.
    unsafe { std::ptr::write_bytes(out, 0x5A, count.unsigned_abs() as usize) };
    count
}

/// Nobody else holds a lock that would come free meanwhile.
unsafe extern "C" fn wait_a_little(_: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: `out` points to a number.
    unsafe { *out = JULIAN_2000_MS as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_int64(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: `out` points to a number.
    unsafe { *out = JULIAN_2000_MS };
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

#[cfg(test)]
mod tests {
    use super::super::medium::Mount;
    use super::*;
    use fastrand::Rng;
    use rusqlite::{Connection, OpenFlags};

    /// Random statements, in transactions, with checkpoints and reopening.
    fn history(seed: u64, mut open: impl FnMut() -> Connection) -> Vec<String> {
        let mut rng = Rng::with_seed(seed);
        let mut db = open();
        let wal = rng.bool();
        let mode: String = db
            .query_row(
                if wal { "PRAGMA journal_mode = WAL" } else { "PRAGMA journal_mode = DELETE" },
                [],
                |r| r.get(0),
            )
            .unwrap();
        let mut seen = vec![mode];
        db.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)").unwrap();
        for _ in 0..60 {
            match rng.u8(..8) {
                0 => {
                    drop(db);
                    db = open();
                }
                1 => db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap(),
                2 => _ = db.execute("DELETE FROM t WHERE a % 3 = ?1", [rng.u8(..3)]).unwrap(),
                3 => db.execute_batch("VACUUM").unwrap(),
                _ => {
                    let tx = db.transaction().unwrap();
                    for _ in 0..rng.usize(1..20) {
                        let blob: Vec<u8> = (0..rng.usize(..9_000)).map(|_| rng.u8(..)).collect();
                        tx.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2)", (rng.u16(..200), blob))
                            .unwrap();
                    }
                    if rng.bool() { tx.commit().unwrap() } else { tx.rollback().unwrap() }
                }
            }
            let sum = "SELECT count(*) || ' ' || ifnull(sum(a * length(b)), 0) || ' ' || ifnull(hex(max(b)), '') FROM t";
            seen.push(db.query_row(sum, [], |row| row.get(0)).unwrap());
        }
        seen.push(db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap());
        seen
    }

    #[test]
    fn sqlite_does_the_same_on_the_medium_as_on_a_file_system() {
        register();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        for seed in 0..20 {
            let dir = tempfile::TempDir::new().unwrap();
            let real = history(seed, || Connection::open(dir.path().join("db")).unwrap());
            let mount = Mount::new(Medium::recording(None, 0));
            mount.lock().entry(Entry::Add { path: "/data".into(), node: Node::Dir }).unwrap();
            let path = mount.dir().join("db");
            let ours = history(seed, || Connection::open_with_flags_and_vfs(&path, flags, NAME).unwrap());
            assert_eq!(ours, real, "seed {seed}");
        }
    }
}

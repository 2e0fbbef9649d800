//! The repository as the rules see it: text files with their paths, and Rust code without its comments and texts.
//! Reads only; holds no rule.

use std::path::Path;
use std::sync::OnceLock;

/// One text file.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// Rust only: the text with comments and literals blanked out, line by line the same.
    pub(crate) code: String,
}

impl Source {
    /// Makes one from its path and text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code_of(text) } else { text.to_owned() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Whether this is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Where the tests of this file begin: at the start for a file of tests alone, at the end when it has none.
    pub(crate) fn tests_begin(&self) -> usize {
        if self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs")) {
            return 0;
        }
        self.code.find("#[cfg(test)]").unwrap_or(self.code.len())
    }

    /// The number of the line that `at` stands in, from one.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Where in the code the words stand that `is` accepts; a word is an identifier.
    pub(crate) fn words<'a>(
        &'a self,
        is: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = (usize, &'a str)> {
        words(&self.code).filter(move |(_, word)| is(word))
    }

    /// The paths that the code names (`a::b::c`), groups in braces taken apart, each with where it stands.
    pub(crate) fn paths(&self) -> Vec<(usize, Vec<&str>)> {
        let mut found = Vec::new();
        let mut skip_to = 0;
        for (at, word) in words(&self.code) {
            let before = self.code[..at].trim_end();
            if at < skip_to || before.ends_with("::") {
                continue;
            }
            skip_to = walk(&self.code, at, &mut vec![word], at + word.len(), &mut found);
        }
        found
    }
}

/// Follows a path from the end of its last segment; gives back where it ends.
fn walk<'a>(
    code: &'a str,
    at: usize,
    segments: &mut Vec<&'a str>,
    end: usize,
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let rest = &code[end..];
    let after = rest.trim_start();
    let Some(after) = after.strip_prefix("::") else {
        if segments.len() > 1 {
            found.push((at, segments.clone()));
        }
        return end;
    };
    let next = after.trim_start();
    let next_at = code.len() - next.len();
    if let Some(inside) = next.strip_prefix('{') {
        let mut at = code.len() - inside.len();
        loop {
            at += code[at..].len() - code[at..].trim_start_matches([' ', '\n', ',', '\t']).len();
            if code[at..].starts_with('}') || code[at..].is_empty() {
                return (at + 1).min(code.len());
            }
            let Some((_, word)) = words(&code[at..]).next().filter(|(offset, _)| *offset == 0) else {
                // `*`, or something that is no use tree.
                at += code[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            segments.push(word);
            let depth = segments.len();
            let next = walk(code, at, segments, at + word.len(), found);
            segments.truncate(depth - 1);
            at = next;
        }
    }
    match words(next).next() {
        Some((0, word)) => {
            segments.push(word);
            let end = walk(code, at, segments, next_at + word.len(), found);
            segments.pop();
            end
        }
        _ => {
            found.push((at, segments.clone()));
            next_at
        }
    }
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |len| start + len);
        at = end;
        Some((start, &code[start..end]))
    })
}

/// Blanks out comments, texts and characters; every line break stays.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = literal(rest, out.chars().next_back()) {
            len
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            out.push(c);
            at += c.len_utf8();
            continue;
        };
        out.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        at += len;
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the text or character literal that begins here.
fn literal(rest: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let quoted = |open: usize, end: char| {
        let mut escaped = false;
        for (i, c) in rest[open..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == end => return open + i + 1,
                _ => {}
            }
        }
        rest.len()
    };
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let open = rest.len() - raw.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(rest[open..].find(&end).map_or(rest.len(), |i| open + i + end.len()));
        }
    }
    if rest.starts_with('"') {
        return Some(quoted(1, '"'));
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote after its first character.
        let first = inside.chars().next()?;
        if first == '\\' {
            return Some(quoted(1, '\''));
        }
        if inside[first.len_utf8()..].starts_with('\'') {
            return Some(first.len_utf8() + 2);
        }
    }
    None
}

/// Every text file of the repository but what is built, hidden, or not UTF-8. Read once for all rules.
pub(crate) fn repository() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(read)
}

fn read() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().unwrap();
            if name.starts_with('.') || name == "target" || name == "tidegate-data" || name == "__pycache__" {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(text) = std::fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                sources.push(Source::new(&path, &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

#[test]
fn comments_and_texts_are_no_code() {
    let code = code_of("a // b\nc /* d /* e */ f */ g \"h \\\" i\" 'j' '\\'' r#\"k \" l\"# &'m n b\"o\"");
    let words: Vec<_> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(words, ["a", "c", "g", "m", "n", "b"]);
    assert_eq!(code.matches('\n').count(), 1);
}

#[test]
fn paths_are_found_in_groups_too() {
    let source = Source::new("x.rs", "use a::{b::{self, c}, d};\nuse e::*;\nlet f = g::h::<I>(j::k); l");
    let paths: Vec<_> = source.paths().into_iter().map(|(_, path)| path.join("::")).collect();
    assert_eq!(paths, ["a::b::self", "a::b::c", "a::d", "e", "g::h", "j::k"]);
}

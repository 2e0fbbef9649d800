//! Walks a TOML document with its places, table by table, and gathers every mistake instead of stopping at the first.
//! Knows no key by name and no meaning.

use super::mistake::{Mistake, Severity, locate, quoted};
use super::schema::Table;
use super::value::{Wrong, suggestion};
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A piece of the source, in bytes.
pub(super) type Span = Range<usize>;

/// Where the mistakes go.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: Option<&'a Path>,
    source: &'a str,
    found: RefCell<Vec<(Option<usize>, Mistake)>>,
    /// What is wrong in other files that this one names.
    elsewhere: RefCell<Vec<Mistake>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: Option<&'a Path>, source: &'a str) -> Self {
        Self { file, source, found: RefCell::default(), elsewhere: RefCell::default() }
    }

    fn add(&self, severity: Severity, span: Option<Span>, what: String, right: String) {
        let place = span.clone().map(|span| locate(self.source, span));
        let mistake = Mistake { severity, file: self.file.map(Path::to_path_buf), place, what, right };
        self.found.borrow_mut().push((span.map(|span| span.start), mistake));
    }

    /// Something that stops the start.
    pub(super) fn error(&self, span: Option<Span>, what: impl Into<String>, right: impl Into<String>) {
        self.add(Severity::Error, span, what.into(), right.into());
    }

    /// Something that should be looked at.
    pub(super) fn warning(&self, span: Option<Span>, what: impl Into<String>, right: impl Into<String>) {
        self.add(Severity::Warning, span, what.into(), right.into());
    }

    /// Takes over what was found in another file.
    pub(super) fn append(&self, other: Report<'_>) {
        self.elsewhere.borrow_mut().extend(other.into_found());
    }

    /// Everything that was found, in the order of the file; then what was found in others.
    pub(super) fn into_found(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(start, _)| *start);
        found.dedup(); // A table that is looked at for two purposes says the same twice.
        found.into_iter().map(|(_, mistake)| mistake).chain(self.elsewhere.into_inner()).collect()
    }
}

/// A table of the document; an absent one has no keys.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    schema: &'static Table,
    /// How the operator reaches it: the schema's path with the name that they chose.
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Where the table begins; `None` when it is absent.
    pub(super) span: Option<Span>,
}

impl<'a> Section<'a> {
    /// Takes a table and reports the keys that it must not have.
    pub(super) fn new(
        report: &'a Report<'a>,
        schema: &'static Table,
        path: String,
        table: Option<&'a DeTable<'a>>,
        span: Option<Span>,
    ) -> Self {
        let section = Self { report, schema, path, table, span };
        for (key, _) in table.into_iter().flatten() {
            section.check_key(key.get_ref(), key.span());
        }
        section
    }

    fn check_key(&self, name: &str, span: Span) {
        let inside = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
        match self.schema.keys.iter().find(|key| key.name == name) {
            Some(key) => {
                if let Some(meanwhile) = key.not_yet {
                    let what = format!("{}{inside} is not supported yet by this version", quoted(name));
                    self.report.error(Some(span), what, meanwhile);
                }
            }
            None if name == "password" && self.schema.path == "device.*" => self.report.error(
                Some(span),
                "a password must not stand in the configuration",
                "write its hash in `password_hash`; `tidegate device add ID` makes a token and its hash",
            ),
            None if name == "password" => self.report.error(
                Some(span),
                "a password must not stand in the configuration",
                "write it to a file that only the gateway may read, and name that in `password_file`",
            ),
            None => {
                if let Some(belongs) = self.schema.elsewhere(name) {
                    self.report.error(Some(span), format!("unknown key {}{inside}", quoted(name)), belongs);
                    return;
                }
                let known = self.schema.keys.iter().filter(|key| key.not_yet.is_none()).map(|key| key.name);
                self.report.error(
                    Some(span),
                    format!("unknown key {}{inside}", quoted(name)),
                    suggestion(name, known, "the keys here are"),
                );
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.schema.keys.iter().any(|known| known.name == key),
            "{key} is missing from the schema"
        );
        self.table?.get(key)
    }

    /// Where a value stands; `None` when it is absent.
    pub(super) fn at(&self, key: &str) -> Option<Span> {
        self.entry(key).map(Spanned::span)
    }

    /// A value; `None` when it is absent, or wrong and reported.
    pub(super) fn get<T>(
        &self,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let value = self.entry(key)?;
        self.read(value, read)
    }

    /// A value, or what it is when it is absent.
    pub(super) fn get_or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> T {
        self.get(key, read).map_or(default, Spanned::into_inner)
    }

    /// A list of values; `None` when it is absent. Wrong elements are reported and left out.
    pub(super) fn list<T>(
        &self,
        key: &str,
        most: usize,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.entry(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let text = self.report.source.get(value.span()).filter(|_| value.get_ref().is_str());
            let example = text.map_or("[\"…\"]".to_owned(), |text| format!("[{text}]"));
            self.report.error(
                Some(value.span()),
                format!("`{key}` is a list"),
                format!("write it in brackets: {example}"),
            );
            return Some(Vec::new());
        };
        if array.len() > most {
            self.report.error(
                Some(value.span()),
                format!("`{key}` has {} elements", array.len()),
                format!("write {most} at the most"),
            );
        }
        Some(array.iter().take(most).filter_map(|value| self.read(value, &read)).collect())
    }

    fn read<T>(
        &self,
        value: &Spanned<DeValue<'_>>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        match read(value.get_ref()) {
            Ok(meant) => Some(Spanned::new(value.span(), meant)),
            Err(wrong) => {
                self.report.error(Some(value.span()), wrong.what, wrong.right);
                None
            }
        }
    }

    /// A table under a key.
    pub(super) fn section(&self, schema: &'static Table) -> Section<'a> {
        let key = schema.path.rsplit('.').next().unwrap_or(schema.path);
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let absent = || Self { report: self.report, schema, path: path.clone(), table: None, span: None };
        let Some(value) = self.entry(key) else {
            return absent();
        };
        match value.get_ref().as_table() {
            Some(table) => Section::new(self.report, schema, path.clone(), Some(table), Some(value.span())),
            None => {
                self.not_a_table(value.span(), key, &format!("[{path}]"));
                absent()
            }
        }
    }

    /// The tables under a key, each with the name that the operator gave it.
    pub(super) fn named(&self, key: &str) -> Vec<(&'a str, Span, &'a DeTable<'a>)> {
        let Some(value) = self.entry(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.not_a_table(value.span(), key, &format!("[{key}.NAME]"));
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, value) in table {
            match value.get_ref().as_table() {
                Some(inner) => named.push((name.get_ref().as_ref(), name.span(), inner)),
                None => self.not_a_table(name.span(), name.get_ref(), &format!("[{key}.NAME]")),
            }
        }
        named
    }

    /// The tables of a list of tables.
    pub(super) fn sections(&self, schema: &'static Table) -> Vec<Section<'a>> {
        let key = schema.path.rsplit('.').next().unwrap_or(schema.path);
        let Some(value) = self.entry(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.not_a_table(value.span(), key, &format!("[[{}]]", schema.path));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for value in array {
            match value.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section::new(
                        self.report,
                        schema,
                        schema.path.to_owned(),
                        Some(table),
                        Some(value.span()),
                    ));
                }
                None => self.not_a_table(value.span(), key, &format!("[[{}]]", schema.path)),
            }
        }
        sections
    }

    fn not_a_table(&self, span: Span, key: &str, right: &str) {
        self.report.error(
            Some(span),
            format!("{} is not written as a table", quoted(key)),
            format!("write {right} on a line of its own, and its keys beneath"),
        );
    }
}

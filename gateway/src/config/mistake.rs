//! What is wrong with a configuration, where, and what would be right; shown as a compiler shows it.
//! Never shows a secret: what stands in for a password in the source line is masked before it is kept.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The widest piece of a source line that is shown, in characters: a terminal's line with room to spare.
const SHOWN_LINE_CHARS: usize = 160;
/// How much of a line stands before the mistake when the line is too long to be shown whole, in characters.
const SHOWN_BEFORE_CHARS: usize = 40;
/// The longest text of the operator's that is quoted in a sentence, in characters.
const QUOTED_CHARS: usize = 60;

/// Whether the gateway can start in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is taken, and something in it should be looked at.
    Warning,
}

/// Where in the file, counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    /// The offending text, up to the end of its first line, secrets masked.
    pub text: String,
    /// The line as shown, secrets masked, cut when too long, and where in it the offending text begins (in characters).
    shown: (String, usize),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Whether it stops the start.
    pub severity: Severity,
    /// The configuration file; `None` when the gateway runs without one.
    pub file: Option<PathBuf>,
    /// Where; `None` when it concerns the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub right: String,
}

impl Mistake {
    /// All of it in one line, for a log: `FILE:LINE:COLUMN: what; what would be right`.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let mut line = String::new();
        if let Some(file) = &self.file {
            line += &file.display().to_string();
            line += ":";
        }
        if let Some(place) = &self.place {
            line += &format!("{}:{}:", place.line, place.column);
        }
        if !line.is_empty() {
            line += " ";
        }
        line + &self.what + "; " + &self.right
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.what)?;
        let file = self.file.as_deref().unwrap_or(Path::new("(no file)")).display();
        match &self.place {
            Some(place) => {
                let (line, before) = &place.shown;
                let number = place.line.to_string();
                let margin = number.len();
                let marks =
                    place.text.chars().count().clamp(1, SHOWN_LINE_CHARS.saturating_sub(*before).max(1));
                // A tab before the mark stays a tab, so that the mark stands below its text.
                let indent: String =
                    line.chars().take(*before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                write!(f, "\n{:margin$}--> {file}:{}:{}", "", place.line, place.column)?;
                write!(f, "\n{:margin$} |\n{number} | {line}", "")?;
                write!(f, "\n{:margin$} | {indent}{}", "", "^".repeat(marks))?;
                write!(f, "\n{:margin$} = help: {}", "", self.right)
            }
            None => {
                if self.file.is_some() {
                    write!(f, "\n --> {file}")?;
                }
                write!(f, "\n  = help: {}", self.right)
            }
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Quotes a piece of the operator's text in a sentence: cut, and with control characters written out.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (i, c) in text.chars().enumerate() {
        if i == QUOTED_CHARS {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('`');
    out
}

/// Finds the line and column of `span` in `source`.
pub(super) fn locate(source: &str, span: Range<usize>) -> Place {
    let start = floor_boundary(source, span.start);
    let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
    let end = floor_boundary(source, span.end).clamp(start, line_end);

    let column = source[line_start..start].chars().count();
    let masked: Vec<char> = mask(source[line_start..line_end].trim_end_matches('\r'));
    let text = masked.iter().skip(column).take(source[start..end].chars().count()).collect();
    let (skip, cut) = if masked.len() <= SHOWN_LINE_CHARS {
        (0, false)
    } else {
        (column.saturating_sub(SHOWN_BEFORE_CHARS), true)
    };
    let mut shown = String::new();
    let mut before = column - skip;
    if skip > 0 {
        shown.push('…');
        before += 1;
    }
    shown.extend(masked.iter().skip(skip).take(SHOWN_LINE_CHARS));
    if cut && masked.len() > skip + SHOWN_LINE_CHARS {
        shown.push('…');
    }
    Place {
        line: source[..start].matches('\n').count() + 1,
        column: column + 1,
        text,
        shown: (shown, before),
    }
}

fn floor_boundary(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Replaces what could be a secret by stars, and control characters by a sign, keeping every column:
/// the userinfo of URLs, and the whole value of a key whose name speaks of a secret.
fn mask(line: &str) -> Vec<char> {
    let mut chars: Vec<char> =
        line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let lower = line.to_ascii_lowercase();
    for word in ["password", "passphrase", "secret", "token", "psk"] {
        for (at, _) in lower.match_indices(word) {
            let rest = &line[at + word.len()..];
            // `password_file` names a place and is no secret.
            // `password_hash` is none either, but what stands there by mistake may be.
            let rest = rest.strip_prefix("_hash").unwrap_or(rest);
            let value = rest.trim_start_matches(['"', '\'']).trim_start();
            if let Some(value) = value.strip_prefix('=') {
                let secret = value.trim_start();
                let from = line[..line.len() - secret.len()].chars().count();
                chars.iter_mut().skip(from).filter(|c| !matches!(c, '"' | '\'')).for_each(|c| *c = '*');
            }
        }
    }
    let mut from = 0;
    while let Some(at) = find(&chars, from, "://") {
        let begin = at + 3;
        let authority =
            chars[begin..].iter().take_while(|c| !matches!(c, '/' | '"' | '\'' | ' ' | ',')).count();
        // The last `@` ends the userinfo, even when the password has one; a `/` in a password is looked past too.
        let quoted = chars[begin..].iter().take_while(|c| !matches!(c, '"' | '\'')).count();
        let end = [authority, quoted]
            .into_iter()
            .filter_map(|len| chars[begin..begin + len].iter().rposition(|c| *c == '@'))
            .max();
        if let Some(end) = end {
            chars[begin..begin + end].fill('*');
        }
        from = begin;
    }
    chars
}

fn find(chars: &[char], from: usize, what: &str) -> Option<usize> {
    let what: Vec<char> = what.chars().collect();
    chars.get(from..)?.windows(what.len()).position(|w| w == what).map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use super::{SHOWN_LINE_CHARS, locate, mask, quoted};

    fn masked(line: &str) -> String {
        mask(line).into_iter().collect()
    }

    #[test]
    fn secrets_are_masked_and_columns_kept() {
        assert_eq!(masked(r#"urls = ["amqp://me:pw@host"]"#), r#"urls = ["amqp://*****@host"]"#);
        assert_eq!(masked(r#"urls = ["amqp://me:p/w@h@host"]"#), r#"urls = ["amqp://********@host"]"#);
        assert_eq!(masked(r#"password = "hunter2""#), r#"password = "*******""#);
        assert_eq!(masked(r#"password_hash = "hunter2""#), r#"password_hash = "*******""#);
        assert_eq!(masked(r#"password_file = "cloud.password""#), r#"password_file = "cloud.password""#);
        assert_eq!(masked("a\u{1b}[31m"), "a\u{fffd}[31m");
    }

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let place = locate("a = 1\nü = \"x\"", 6..8);
        assert_eq!((place.line, place.column, place.text.as_str()), (2, 1, "ü"));
        let place = locate("a = 1\nü = \"x\"", 11..14);
        assert_eq!((place.line, place.column, place.text.as_str()), (2, 5, "\"x\""));
    }

    #[test]
    fn any_span_of_any_source_has_a_place() {
        for source in ["", "\n", "ü", "a\r\nb"] {
            for start in 0..6 {
                for end in 0..6 {
                    let _ = locate(source, start..end);
                }
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let line = format!("{}x = 1{}", " ".repeat(500), "y".repeat(5_000));
        let place = locate(&line, 500..501);
        assert_eq!(place.text, "x");
        assert!(place.shown.0.chars().count() <= SHOWN_LINE_CHARS + 2);
        assert_eq!(place.shown.0.chars().nth(place.shown.1), Some('x'));
    }

    #[test]
    fn quoted_text_is_short_and_harmless() {
        assert_eq!(quoted("a\u{1b}b"), "`a\\u{1b}b`");
        assert!(quoted(&"x".repeat(1_000)).chars().count() < 100);
    }
}

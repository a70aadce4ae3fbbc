//! What goes to the person: stdout is data, stderr the rest. A closed pipe is no failure.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde_json::Value;

/// The form of output. Drawings are for `route graph` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Jsonl,
    /// A graph for Graphviz.
    Dot,
    /// A drawing.
    Svg,
}

impl Format {
    /// Reads the forms that every verb has.
    pub(crate) fn common() -> impl clap::builder::TypedValueParser<Value = Format> {
        let words = [Format::Table, Format::Json, Format::Jsonl];
        let words = words.iter().filter_map(clap::ValueEnum::to_possible_value);
        let parser = clap::builder::PossibleValuesParser::new(words.collect::<Vec<_>>());
        clap::builder::TypedValueParser::try_map(parser, |word| <Format as clap::ValueEnum>::from_str(&word, false))
    }
}

/// Writes to stdout; a reader that went away ends the program well.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Writes a text to stderr, from a new line on; further lines of it are indented, so that none can pass for a note.
pub(crate) fn note(text: &str) {
    // Where stderr is closed nobody wants to know.
    let _ = writeln!(io::stderr().lock(), "{}", noted(text));
}

fn noted(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n  ")
}

/// A text of a device's or an operator's for a terminal: what would control the terminal, or turn the direction in which
/// it writes (Unicode UAX #9), is shown as `\u{1b}`.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let controls = c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match controls {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// JSON in the asked form: a list becomes a line an item with `jsonl`. JSON itself escapes all that controls a terminal
/// but these, which are escaped as it escapes others.
pub(crate) fn json(value: &Value, format: Format) -> String {
    let text = match (format, value) {
        (Format::Jsonl, Value::Array(items)) => items.iter().map(|item| format!("{item}\n")).collect(),
        (Format::Jsonl, value) => format!("{value}\n"),
        _ => format!("{value:#}\n"),
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// A table without borders, its cells escaped.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| escaped(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// An age for people: seconds up to two minutes, then minutes, hours, days.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A count of bytes for people, in decimal units.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A time of day in UTC: `2026-11-24 12:00:00Z`. Days from the civil calendar (Howard Hinnant's `civil_from_days`).
pub(crate) fn time_text(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The same to the millisecond: `2026-11-24 12:00:00.123Z`.
pub(crate) fn moment_text(millis: u64) -> String {
    format!("{}.{:03}Z", time_text(millis).trim_end_matches('Z'), millis % 1000)
}

/// A multiaddress in short: `quic 192.0.2.1:4410`.
pub(crate) fn endpoint(address: &str) -> String {
    match address.split('/').collect::<Vec<_>>()[..] {
        ["", "ip6", ip, "udp", port, "quic-v1"] => format!("quic [{ip}]:{port}"),
        ["", "ip6", ip, "tcp", port] => format!("tcp [{ip}]:{port}"),
        ["", _, host, "udp", port, "quic-v1"] => format!("quic {host}:{port}"),
        ["", _, host, "tcp", port] => format!("tcp {host}:{port}"),
        _ => address.to_owned(),
    }
}

/// Why a dial failed, with its address in short: `quic 192.0.2.1:4410: refused`.
pub(crate) fn dial_error(error: &str) -> String {
    let Some((address, cause)) = error.split_once(": ") else { return error.to_owned() };
    let plain = address.split("/p2p/").next().unwrap_or(address);
    format!("{}: {cause}", endpoint(plain))
}

/// A value as people read it, escaped.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text),
        other => escaped(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window title, a cleared screen, a line that looks like a hint, a C1 control sequence and a turned text.
    const HOSTILE: &str = "a\u{1b}]0;x\u{7}\u{1b}[2J\r\nhint: rm\u{9b}31m\u{202e}b";

    #[test]
    fn what_controls_a_terminal_is_escaped() {
        let harmless = r"a\u{1b}]0;x\u{7}\u{1b}[2J\r\nhint: rm\u{9b}31m\u{202e}b";
        assert_eq!(escaped(HOSTILE), harmless);
        assert_eq!(escaped(harmless), harmless);
        assert_eq!(escaped("Kühlung 30 °C 🧊"), "Kühlung 30 °C 🧊");
        assert_eq!(scalar(&Value::from(HOSTILE)), harmless);
        assert_eq!(table(&["NAME"], &[vec![HOSTILE.to_owned()]]), format!("NAME\n{harmless}\n"));
        assert_eq!(
            noted(&format!("cause: {HOSTILE}")),
            r"cause: a\u{1b}]0;x\u{7}\u{1b}[2J".to_owned() + "\n  " + r"hint: rm\u{9b}31m\u{202e}b"
        );
        let value = Value::from(vec![HOSTILE]);
        for format in [Format::Json, Format::Jsonl] {
            let text = json(&value, format);
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(text.contains("\\u009b"), "{text}");
        }
        assert_eq!(serde_json::from_str::<Value>(&json(&value, Format::Json)).unwrap(), value);
    }

    #[test]
    fn addresses_and_errors_in_short() {
        assert_eq!(endpoint("/ip4/192.0.2.1/udp/4410/quic-v1"), "quic 192.0.2.1:4410");
        assert_eq!(endpoint("/ip6/2001:db8::1/udp/4410/quic-v1"), "quic [2001:db8::1]:4410");
        assert_eq!(endpoint("/dns4/a.example/tcp/4410"), "tcp a.example:4410");
        assert_eq!(endpoint("/unix/x"), "/unix/x");
        assert_eq!(dial_error("/ip4/192.0.2.1/tcp/4410/p2p/12D3KooW: late: 8 s"), "tcp 192.0.2.1:4410: late: 8 s");
        assert_eq!(dial_error("closed: it was silent"), "closed: it was silent");
        assert_eq!(dial_error("no address"), "no address");
    }

    #[test]
    fn times_and_ages() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00Z");
        assert_eq!(time_text(1_709_210_096_000), "2024-02-29 12:34:56Z");
        assert_eq!(moment_text(1_709_210_096_007), "2024-02-29 12:34:56.007Z");
        assert_eq!((age(5), age(119), age(120), age(7_200), age(172_800)).4, "2 d");
        assert_eq!(age(121), "2 min");
    }
}

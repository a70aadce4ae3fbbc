//! `--watch`: a resource shown again every second, in place on a terminal, one after the other elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Common, Failure, Outcome, code};
use crate::clock::wall_ms;
use crate::output::{Format, json, print, time_text};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what a resource says, once or until interrupted; `table` is its form for people.
pub(super) async fn show(common: &Common, resource: &str, watch: bool, table: fn(&Value) -> String) -> Outcome {
    let mut client = common.connect().await?;
    if !watch {
        let shown = client.get(resource).await?;
        print(&match common.format() {
            Format::Table => table(&shown),
            format => json(&shown, format),
        });
        return Ok(());
    }
    let mut signals = Signals::start()?;
    let mut screen = (common.format() == Format::Table && std::io::stdout().is_terminal()).then(Screen::open);
    loop {
        let shown = tokio::select! {
            shown = client.get(resource) => shown?,
            () = signals.interrupted() => return Ok(()),
        };
        match (common.format(), &mut screen) {
            (Format::Table, Some(screen)) => screen.draw(&table(&shown)),
            (Format::Table, None) => print(&format!("{}\n{}\n", time_text(wall_ms()), table(&shown))),
            (Format::Jsonl, _) => print(&json(&shown, Format::Jsonl)),
            // One value a line, also where it is a list: that is what one look saw.
            _ => print(&json(&Value::Array(vec![shown]), Format::Jsonl)),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = signals.interrupted() => return Ok(()),
        }
    }
}

/// What asks for the end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn start() -> Result<Signals, Failure> {
        let start = |kind: SignalKind| {
            signal(kind).map_err(|error| Failure::new(code::REFUSED, "signals cannot be caught").cause(error))
        };
        Ok(Signals { interrupt: start(SignalKind::interrupt())?, terminate: start(SignalKind::terminate())? })
    }

    pub(super) async fn interrupted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The terminal while it is drawn on; the cursor is back when this goes.
struct Screen;

impl Screen {
    fn open() -> Screen {
        print("\x1b[?25l\x1b[2J");
        Screen
    }

    fn draw(&mut self, text: &str) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        // A terminal that does not know its size says 0.
        let known = size.ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, rows) = known.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
        print(&frame(&format!("{}\n{text}", time_text(wall_ms())), columns, rows));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print("\x1b[?25h\n");
    }
}

/// A text drawn over the one before: lines are cut where the terminal ends, what is left of longer ones is cleared, and of
/// lines that do not fit it is said how many there are.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The last row stays free: a line feed there would move all others up.
    let room = rows.saturating_sub(1).max(2);
    let fits = lines.len() <= room;
    let shown = if fits { lines.len() } else { room - 1 };
    let cut = |line: &str| line.chars().take(columns.max(1)).collect::<String>();
    let mut drawn: Vec<String> = lines[..shown].iter().map(|line| cut(line)).collect();
    if !fits {
        drawn.push(cut(&format!("… and {} more lines", lines.len() - shown)));
    }
    let drawn: Vec<String> = drawn.into_iter().map(|line| line + "\x1b[K").collect();
    format!("\x1b[H{}\x1b[J", drawn.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_clears_what_was_there() {
        assert_eq!(frame("ab\ncde\n", 80, 24), "\x1b[Hab\x1b[K\ncde\x1b[K\x1b[J");
        assert_eq!(frame("äbcdef", 3, 24), "\x1b[Häbc\x1b[K\x1b[J");
        let many: String = (0..50).map(|number| format!("{number}\n")).collect();
        let drawn = frame(&many, 80, 10);
        assert_eq!(drawn.lines().count(), 9);
        assert!(drawn.contains("7\x1b[K\n… and 42 more lines\x1b[K"), "{drawn:?}");
        assert!(frame(&many, 0, 0).lines().count() <= 2);
    }
}

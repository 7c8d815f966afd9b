//! Shows how far a command has come: one line redrawn on a terminal, a plain line every few seconds elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Where a command writes: results to one stream, everything else to the other.
pub struct Terminal {
    /// Results.
    pub out: Box<dyn Write + Send>,
    /// Progress, warnings.
    pub err: Box<dyn Write + Send>,
    /// Whether the second is a terminal that can be redrawn.
    pub is_interactive: bool,
    /// Whether colours are wanted.
    pub has_colour: bool,
}

/// Progress of one command.
pub struct Progress<'t> {
    terminal: &'t mut Terminal,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl<'t> Progress<'t> {
    /// Starts showing.
    pub fn new(terminal: &'t mut Terminal) -> Self {
        let bar = terminal.is_interactive.then(|| {
            let bar = ProgressBar::new_spinner().with_style(style(terminal.has_colour));
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { terminal, bar, last_line: None }
    }

    /// Updates the progress line; may be called often.
    pub fn update(&mut self, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => bar.set_message(text()),
            None if self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) => {
                self.last_line = Some(Instant::now());
                let _ = writeln!(self.terminal.err, "{}", text());
            }
            None => {}
        }
    }

    /// Prints a line that stays.
    pub fn say(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| {
                let _ = writeln!(self.terminal.err, "{text}");
            }),
            None => {
                let _ = writeln!(self.terminal.err, "{text}");
            }
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(has_colour: bool) -> ProgressStyle {
    let template = if has_colour { "{spinner:.cyan} {wide_msg}" } else { "{spinner} {wide_msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

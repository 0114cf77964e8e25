//! Progress bars on stderr, drawn only on a terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| {
        // indicatif itself falls silent off a terminal; NO_COLOR and TERM=dumb it respects too.
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        MultiProgress::with_draw_target(target)
    })
}

/// Runs `print` with the bars out of its way.
pub fn above<T>(print: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(print),
        None => print(),
    }
}

/// A bar of `length` steps of `what`, `done` of which lie behind it.
pub fn bar(what: &'static str, done: u64, length: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:30.cyan/blue} {pos}/{len} {msg}  {elapsed} elapsed, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars().add(ProgressBar::new(length).with_style(style).with_prefix(what));
    bar.set_position(done);
    // The rate begins now, not with what lies behind.
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

//! Progress bars on stderr, drawn only on a terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::is_quiet;

static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| {
        // indicatif draws nothing without a terminal; it also respects NO_COLOR and TERM=dumb.
        let target = if std::io::stderr().is_terminal() && !is_quiet() {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        MultiProgress::with_draw_target(target)
    })
}

/// Runs `print` with the bars hidden, so that its lines appear above them.
pub fn above<T>(print: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(print),
        None => print(),
    }
}

/// A bar labelled `what` with `length` steps, `done` of which are finished.
pub fn bar(what: &'static str, done: u64, length: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} {bar:30.cyan/blue} {pos}/{len} {msg}  {elapsed} elapsed, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars().add(ProgressBar::new(length).with_style(style).with_prefix(what));
    bar.set_position(done);
    // The rate counts from now, without the finished steps.
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

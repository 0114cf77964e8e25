//! The log on stderr, printed above any progress bar.

use std::fmt;
use std::io::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging to stderr at the level of `RUST_LOG`. Default: warnings and errors, as lines like the command's own;
/// a service also logs its requests, with times.
pub fn start(service: bool) {
    let default = if service { "warn,skipstone_serve=info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = io::IsTerminal::is_terminal(&io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(AboveBars);
    if service { log.init() } else { log.event_format(Lines(format().without_time())).init() }
}

/// Prints warnings and errors as the command prints its own, without time and module. Lower levels, which only
/// `RUST_LOG` turns on, stay a log.
struct Lines(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let kind = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => return self.0.format_event(context, writer, event),
        };
        let mut told = Told::default();
        event.record(&mut told);
        writeln!(writer, "{kind}: {told}")
    }
}

/// What an event says: its message, and its other fields as names and values.
#[derive(Default)]
struct Told {
    message: String,
    fields: Vec<String>,
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push(format!("{name} {value:?}")),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.fields.is_empty() { Ok(()) } else { write!(f, " ({})", self.fields.join(", ")) }
    }
}

struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // tracing writes whole lines at once.
        crate::bars::above(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn warnings_are_lines_without_time_and_module() {
        let buffer = Buffer::default();
        let written = buffer.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || buffer.clone());
        let log = log.event_format(Lines(format().without_time())).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!("{}: missing", "f.json");
            tracing::warn!(folder = %"/x", n = 3, "cannot lock");
            tracing::info!("loaded");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let (lines, rest) = text.split_at(text.find(" INFO").unwrap());
        assert_eq!(lines, "warning: f.json: missing\nwarning: cannot lock (folder /x, n 3)\n");
        // What is below a warning still says where it comes from.
        assert!(rest.contains("logs::tests: loaded"), "{rest}");
    }
}

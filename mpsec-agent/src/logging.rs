//! Where the agent's own words go: standard error, or the journal with its fields. `log` records (aya's, and those of
//! the eBPF programs) take the same way.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{KernelLog, LogConfig, LogFormat, LogLevel};

/// Starts logging for the whole process; to be called once.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&config.level, config.kernel));
    let output = Output::choose(config.format)?;
    let to_journal = matches!(output, Output::Journal(_));
    tracing_subscriber::registry().with(filter).with(output.into_layer()).try_init()?;
    let handle = LogHandle { filter: handle, kernel: config.kernel, to_journal };
    handle.bridge();
    Ok(handle)
}

/// What is logged: what the agent was told, and of the eBPF programs what they were told, whose records carry the paths of
/// their own modules.
fn filter(level: &LogLevel, kernel: KernelLog) -> EnvFilter {
    match format!("mpsec::={kernel}").parse() {
        Ok(directive) if kernel != KernelLog::Off => level.filter().add_directive(directive),
        _ => level.filter(),
    }
}

/// Changes what is logged while the agent runs.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    kernel: KernelLog,
    to_journal: bool,
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

impl LogHandle {
    /// Takes another level from now on.
    pub fn set_level(&self, level: &LogLevel) -> Result<(), LogError> {
        self.filter.reload(filter(level, self.kernel))?;
        self.bridge();
        Ok(())
    }

    /// Whether lines go to the journal by its own protocol.
    #[must_use]
    pub fn to_journal(&self) -> bool {
        self.to_journal
    }

    /// The `log` crate drops early what no directive wants; it has to be told of each change.
    fn bridge(&self) {
        let level = match LevelFilter::current() {
            LevelFilter::OFF => log::LevelFilter::Off,
            LevelFilter::ERROR => log::LevelFilter::Error,
            LevelFilter::WARN => log::LevelFilter::Warn,
            LevelFilter::INFO => log::LevelFilter::Info,
            LevelFilter::DEBUG => log::LevelFilter::Debug,
            _ => log::LevelFilter::Trace,
        };
        log::set_max_level(level);
    }
}

/// Why logging could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `format = "journald"` where there is no journal.
    #[error("the journal cannot be reached (is systemd-journald running?)")]
    Journal(#[source] io::Error),
    /// Something else logs in this process already.
    #[error("logging is already set up")]
    Init(#[from] TryInitError),
    /// The subscriber is gone.
    #[error("the log level cannot be changed")]
    Reload(#[from] reload::Error),
}

enum Output {
    Journal(tracing_journald::Layer),
    Text,
}

impl Output {
    fn choose(format: LogFormat) -> Result<Self, LogError> {
        match format {
            LogFormat::Text => Ok(Self::Text),
            LogFormat::Journald => journal().map(Self::Journal).map_err(LogError::Journal),
            // Where standard error is the journal but its socket is not to be had, lines still arrive as text.
            LogFormat::Auto if stderr_is_journal() => Ok(journal().map_or(Self::Text, Self::Journal)),
            LogFormat::Auto => Ok(Self::Text),
        }
    }

    fn into_layer(self) -> Box<dyn Layer<Filtered> + Send + Sync> {
        match self {
            Self::Journal(layer) => layer.boxed(),
            Self::Text => {
                let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
                fmt::layer().with_writer(io::stderr).with_ansi(colour).boxed()
            }
        }
    }
}

fn journal() -> io::Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer()?;
    Ok(layer.with_syslog_identifier("mpsec".into()).with_field_prefix(Some("MPSEC".into())))
}

/// systemd.exec(5): `JOURNAL_STREAM` holds device and inode of the stream, and a program that redirected its standard
/// error has inherited a variable that no longer says anything about it.
fn stderr_is_journal() -> bool {
    let Ok(metadata) = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata()) else {
        return false;
    };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| names_stream(&stream, metadata.dev(), metadata.ino()))
}

fn names_stream(stream: &str, dev: u64, ino: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(dev) && i.parse() == Ok(ino))
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_journal_is_told_by_device_and_inode() {
        assert!(names_stream("8:123", 8, 123));
        for other in ["8:124", "9:123", "8", "", "a:b", "8:123:1"] {
            assert!(!names_stream(other, 8, 123), "{other}");
        }
    }

    #[test]
    fn the_level_changes_for_tracing_and_log_alike() {
        let config = LogConfig { level: "warn".parse().unwrap(), format: LogFormat::Text, ..Default::default() };
        let handle = init(&config).unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        assert_eq!(log::max_level(), log::LevelFilter::Warn);
        handle.set_level(&"debug".parse().unwrap()).unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert_eq!(log::max_level(), log::LevelFilter::Debug);
        assert!(matches!(init(&config), Err(LogError::Init(_))));
        handle.set_level(&"off".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_journal_that_is_asked_for_must_be_there() {
        match Output::choose(LogFormat::Journald) {
            Ok(_) => eprintln!("skipped: this machine has a journal"),
            Err(error) => assert!(matches!(error, LogError::Journal(_))),
        }
    }
}

//! The live view: keys, answers of the agent's, signals and the clock change the model, and the terminal shows it.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};
use ratatui::layout::Rect;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::input::{self, Flow};
use super::model::Model;
use super::status::Status;
use super::view::{self, Look};
use crate::cli::TopArgs;
use crate::control::client::{self, ClientError};

/// Runs until a key or a signal ends it.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    let term = std::env::var("TERM").unwrap_or_default();
    ensure!(io::stdout().is_terminal(), "standard output is no terminal: use `mpsec top --once`");
    ensure!(!term.is_empty() && term != "dumb", "TERM={term} cannot move its cursor: use `mpsec top --once`");
    let model = super::model(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio")?;
    let result = runtime.block_on(live(model, args));
    // A thread that waits for the agent, or for a key, has nothing to finish.
    runtime.shutdown_background();
    result
}

/// What happens.
enum Event {
    Key(KeyEvent),
    /// The terminal has another size, or must be drawn for another reason.
    Redraw,
    /// There is no terminal any more.
    Hangup,
    Answer(Result<Box<Status>, ClientError>),
}

async fn live(mut model: Model, args: &TopArgs) -> anyhow::Result<()> {
    let handle = |kind| signal(kind).context("cannot handle signals");
    let mut terminate = handle(SignalKind::terminate())?;
    let mut interrupt = handle(SignalKind::interrupt())?;
    let mut hangup = handle(SignalKind::hangup())?;
    let mut quit = handle(SignalKind::quit())?;
    let mut screen = Screen::open()?;
    let (sender, mut events) = mpsc::channel(64);
    let asker = Asker::start(args.agent.path(), sender.clone());
    thread::spawn(move || read_keys(&sender));
    let mut tick = interval(Duration::from_secs_f64(args.interval));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_asked = false;
    loop {
        screen.draw(&mut model)?;
        let event = tokio::select! {
            Some(event) = events.recv() => event,
            _ = tick.tick() => {
                if !is_asked && !model.is_paused {
                    asker.ask();
                    is_asked = true;
                }
                continue;
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
        };
        // What has come meanwhile is drawn at once.
        for event in std::iter::once(event).chain(std::iter::from_fn(|| events.try_recv().ok())) {
            match event {
                Event::Key(key) if input::press(&mut model, key) == Flow::Quit => return Ok(()),
                Event::Key(_) | Event::Redraw => {}
                Event::Hangup => return Ok(()),
                Event::Answer(answer) => {
                    is_asked = false;
                    match answer {
                        // What is shown stays while it is paused.
                        Ok(_) if model.is_paused => {}
                        Ok(status) => model.update(*status),
                        Err(error) => model.fail(error.to_string()),
                    }
                }
            }
        }
    }
}

/// Asks the agent on a thread of its own: keys are answered while the agent is not.
struct Asker(blocking::Sender<()>);

impl Asker {
    fn start(socket: PathBuf, events: mpsc::Sender<Event>) -> Asker {
        let (sender, requests) = blocking::channel();
        thread::spawn(move || {
            for () in requests {
                if events.blocking_send(Event::Answer(client::ask(&socket))).is_err() {
                    return;
                }
            }
        });
        Asker(sender)
    }

    fn ask(&self) {
        // The thread lives as long as whoever listens to it.
        let _ = self.0.send(());
    }
}

fn read_keys(events: &mpsc::Sender<Event>) {
    loop {
        let event = match event::read() {
            Ok(TerminalEvent::Key(key)) => Event::Key(key),
            Ok(TerminalEvent::Resize(..)) => Event::Redraw,
            Ok(_) => continue,
            Err(_) => Event::Hangup,
        };
        let is_last = matches!(event, Event::Hangup);
        if events.blocking_send(event).is_err() || is_last {
            return;
        }
    }
}

/// What a panic leaves to be done once ratatui has given the screen back: without unwinding nothing is dropped.
fn show_cursor_after_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let _ = execute!(io::stdout(), EndSynchronizedUpdate, Show);
        next(info);
    }));
}

/// The terminal, given back as it was when dropped, and before the message of a panic.
struct Screen {
    terminal: DefaultTerminal,
    look: Look,
}

impl Screen {
    fn open() -> anyhow::Result<Screen> {
        let look = Look::from_env(|name| std::env::var(name).ok());
        show_cursor_after_panic();
        let terminal = ratatui::try_init().context("cannot use the terminal; `mpsec top --once` needs none");
        let terminal = terminal.inspect_err(|_| drop(ratatui::try_restore()))?;
        Ok(Screen { terminal, look })
    }

    fn draw(&mut self, model: &mut Model) -> anyhow::Result<()> {
        let size = self.terminal.size().context("terminal")?;
        model.set_height(view::table_height(Rect::from((Default::default(), size)), model));
        // Terminals that know it show the whole picture at once; the others pass over it.
        execute!(io::stdout(), BeginSynchronizedUpdate).context("terminal")?;
        let drawn = self.terminal.draw(|frame| view::draw(model, &self.look, frame.buffer_mut())).map(drop);
        execute!(io::stdout(), EndSynchronizedUpdate).and(drawn).context("terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to give back.
        let _ = ratatui::try_restore();
    }
}

//! What is told to the service manager: ready, loading, stopping, alive, and in a line what the agent does.
//!
//! Without systemd there is nobody to tell: the variable NOTIFY_SOCKET is not set, and nothing is sent.

use sd_notify::NotifyState;

/// Who started the agent, and what it was told last.
pub struct Manager {
    /// It ends and starts an agent of which it does not hear (`WatchdogSec=`).
    is_watching: bool,
    status: String,
}

impl Manager {
    /// As the environment of this process says.
    pub fn of_this_process() -> Manager {
        Manager { is_watching: sd_notify::watchdog_enabled().is_some(), status: String::new() }
    }

    /// The agent does all that it is there for, or does so again after [`Self::loading`].
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is read again. The time tells this from what was told before (`Type=notify-reload`, sd_notify(3)).
    pub fn loading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The agent ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The loop goes round. To be called from nowhere else: what else lives says nothing of the loop.
    pub fn alive(&mut self, status: String) {
        if self.is_watching {
            tell(&[NotifyState::Watchdog]);
        }
        if self.status != status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

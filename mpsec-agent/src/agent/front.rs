//! What the outside reaches: the HTTP server, the control socket, signals.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::{self, Access, HttpStats, Limits, Server, WebConfig};
use crate::config::Config;
use crate::control::socket::ControlSocket;
use crate::control::{Command, Commands};

use super::Agent;
use super::site::AgentSite;

/// What the outside reaches: made first, so that a second agent or a used port is told before anything is loaded.
pub struct Front {
    http: Option<Server>,
    /// What the server counts.
    pub stats: Arc<HttpStats>,
    socket: ControlSocket,
    commands: Commands,
    inbox: mpsc::Receiver<Command>,
}

impl Front {
    /// Binds all of it.
    ///
    /// # Errors
    /// What cannot be had, and why.
    pub async fn open(config: &Config) -> anyhow::Result<Front> {
        let stats = Arc::new(HttpStats::default());
        let mut addresses = Vec::new();
        for listen in &config.http.listen {
            addresses.extend(listen.resolve().with_context(|| format!("cannot listen on {listen}"))?);
        }
        let http = if addresses.is_empty() {
            None
        } else {
            let web = match &config.http.web_config {
                Some(path) => WebConfig::load(path).context("the web configuration file cannot be used")?,
                None => WebConfig::default(),
            };
            let limits = Limits { max_connections: config.http.max_connections as usize, ..Limits::default() };
            let access = Access::open(&config.http, &web)?;
            Some(Server::bind(&addresses, Arc::new(web), limits, stats.clone()).await?.with_access(access))
        };
        let socket = ControlSocket::bind(&config.agent.control_socket, &config.agent.control_group).await?;
        let (commands, inbox) = Commands::channel();
        Ok(Front { http, stats, socket, commands, inbox })
    }

    /// Serves, and runs the agent's loop, until the loop ends.
    pub async fn serve(self, mut agent: Agent, signals: Signals) -> anyhow::Result<()> {
        let (ready, readiness) = watch::channel(agent.readiness());
        let (stop, mut stopped) = watch::channel(false);
        let addresses = self.http.as_ref().map(Server::local_addrs).unwrap_or_default();
        let site = Arc::new(AgentSite::new(self.commands.clone(), readiness));
        let http = self.http.map(|server| {
            let router = api::router(site, self.stats.clone());
            tokio::spawn(server.serve(router, async move {
                // An error means that the sender is gone, which is the end too.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }))
        });
        // What is started behind the agent finds what it keeps in force: programs that are given MPTCP, for one.
        agent.reconcile();
        agent.announce(&addresses);
        let result = tokio::select! {
            () = self.socket.serve(self.commands) => Ok(()),
            result = agent.run(self.inbox, signals, &ready) => result,
        };
        stop.send_replace(true);
        agent.stop().await;
        if let Some(http) = http {
            // It ends within the limits' time for shutting down.
            let _ = http.await;
        }
        result
    }
}

/// What the agent does when it is told from outside.
pub struct Signals {
    /// To end.
    pub terminate: Signal,
    /// To end.
    pub interrupt: Signal,
    /// To read the configuration again.
    pub hangup: Signal,
}

impl Signals {
    /// From now on they are handled.
    ///
    /// # Errors
    /// What the system says.
    pub fn handle() -> anyhow::Result<Signals> {
        let handle = |kind| signal(kind).context("cannot handle signals");
        Ok(Signals {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }
}

//! `mpsec top`: a live view of MPTCP connections, paths and interfaces, fed by the running agent.
//!
//! ```text
//! control socket -> status -> row, summary -> model <- input <- keys
//!                                              └-> view -> terminal (live) | text (once)
//! ```
//! Only `live` and `once` do input and output; the model and the view are pure.

mod column;
mod input;
mod live;
mod model;
mod once;
mod row;
mod status;
mod summary;
mod units;
mod view;

use crate::cli::TopArgs;

pub use model::View;

/// Runs `mpsec top` as the command line says.
///
/// # Errors
/// Without an agent for `--once` and `--json`; without a terminal for the live view.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    if args.once || args.json { once::run(args) } else { live::run(args) }
}

/// A model as the command line wants it at first.
fn model(args: &TopArgs) -> anyhow::Result<model::Model> {
    let mut model = model::Model::default();
    model.set_view(args.view);
    model.set_filter(args.filter.clone());
    if args.bytes {
        model.units = units::Units::Bytes;
    }
    let mut sort = model.sort();
    if let Some(key) = &args.sort {
        let columns = args.view.columns();
        let found = columns.iter().map(|(column, _)| *column).find(|column| column.key() == key);
        let known = || columns.iter().map(|(column, _)| column.key()).collect::<Vec<_>>().join(", ");
        sort.column =
            found.ok_or_else(|| anyhow::anyhow!("cannot sort {} by {key:?}: {}", args.view.name(), known()))?;
    }
    sort.is_reversed = args.reverse;
    model.set_sort(sort);
    Ok(model)
}

#[cfg(test)]
mod sample {
    //! What tests show.

    use super::status::Status;
    use crate::snapshot::sample;

    /// The sample snapshot as the agent tells it.
    pub fn status() -> Status {
        serde_json::from_value(sample::snapshot().to_json()).expect("the agent's own answer")
    }

    /// The same a second later: 10 kB more on each path and class.
    pub fn later() -> Status {
        let mut status = status();
        status.taken_at += 1.0;
        for path in status.namespaces.iter_mut().flat_map(|namespace| &mut namespace.paths) {
            path.rx.bytes += 10_000;
            path.tx.bytes += 20_000;
        }
        let classes = status.interfaces.iter_mut().flat_map(|view| view.traffic.values_mut()).flatten();
        classes.for_each(|(_, class)| class.bytes += 10_000);
        status
    }

    /// So many connections.
    pub fn many(count: u32) -> Status {
        let mut status = status();
        status.namespaces[0].connections =
            (0..count).map(|token| sample::connection(token, (token % 20_000) as u16)).collect();
        status
    }
}

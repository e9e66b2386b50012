//! What becomes of connections when an interface goes. Pure.

use crate::control::ask::Effect;
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::{Connection, TcpState};

/// The connections of the agent's own network namespace that use an interface, and what its loss means for each.
pub fn of_losing(interface: &str, snapshot: &Snapshot) -> Vec<Effect> {
    let own = snapshot.namespaces.iter().find(|namespace| namespace.netns.is_empty());
    own.into_iter().flat_map(|namespace| &namespace.connections).filter_map(|one| effect(interface, one)).collect()
}

fn effect(interface: &str, connection: &Connection) -> Option<Effect> {
    let established = || connection.subflows.iter().filter(|subflow| subflow.state == TcpState::Established);
    let subflows = established().count();
    let affected = established().filter(|subflow| subflow.interface.as_deref() == Some(interface)).count();
    let others: Vec<&str> =
        established().filter_map(|subflow| subflow.interface.as_deref().filter(|name| *name != interface)).collect();
    let text = match (affected, others.as_slice()) {
        (0, _) => return None,
        (_, []) => format!("loses its only path: it stalls until {interface} is back, or a new path is made"),
        (_, others) => {
            let names: std::collections::BTreeSet<&str> = others.iter().copied().collect();
            format!("goes on over {}", Vec::from_iter(names).join(", "))
        }
    };
    let Connection { token, role, local, remote, .. } = *connection;
    Some(Effect { token, role, local, remote, subflows, affected, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::sample;

    #[test]
    fn the_loss_of_the_only_path_is_told_from_that_of_one_of_several() {
        let mut snapshot = sample::snapshot();
        let names: Vec<Option<String>> = snapshot.namespaces[0].connections[0]
            .subflows
            .iter()
            .map(|subflow| subflow.interface.as_deref().map(str::to_owned))
            .collect();
        assert!(names.len() > 1, "the sample has a connection with several subflows");
        let first = names[0].clone().unwrap();
        let effects = of_losing(&first, &snapshot);
        assert!(effects.iter().any(|effect| effect.text.contains("goes on over")), "{effects:?}");
        snapshot.namespaces[0].connections[0].subflows.truncate(1);
        let effects = of_losing(&first, &snapshot);
        assert!(effects.iter().any(|effect| effect.text.contains("only path")), "{effects:?}");
        assert!(of_losing("none0", &snapshot).is_empty());
    }
}

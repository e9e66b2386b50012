//! Columns: what each shows of a row, how wide it is, and how rows are sorted by it.

use std::cmp::Ordering;

use super::row::Row;
use super::units::{Units, percent, scaled, time};

/// A column of a table, called as what it shows, which [`Row`] explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Name,
    Via,
    State,
    Rate,
    Rx,
    Tx,
    Share,
    Rtt,
    Retransmitted,
    Lost,
    Reordering,
    Total,
    Role,
    Token,
    Netns,
    Active,
    Backup,
    Opened,
    Closed,
    Encrypted,
    Speed,
    Mtu,
    Detail,
}

use Column::*;

/// Columns of connections, from left to right, each with its importance: where there is no room, the highest go first.
pub const CONNECTIONS: &[(Column, u8)] = &[
    (Name, 0),
    (Via, 1),
    (State, 2),
    (Rx, 1),
    (Tx, 1),
    (Share, 4),
    (Rtt, 3),
    (Retransmitted, 5),
    (Lost, 8),
    (Reordering, 7),
    (Total, 6),
    (Role, 9),
    (Token, 9),
    (Netns, 10),
    (Rate, 12),
    (Detail, 11),
];

/// Columns of paths.
pub const PATHS: &[(Column, u8)] = &[
    (Name, 0),
    (State, 2),
    (Active, 3),
    (Backup, 4),
    (Rx, 1),
    (Tx, 1),
    (Rtt, 3),
    (Retransmitted, 5),
    (Total, 6),
    (Opened, 7),
    (Closed, 7),
    (Netns, 9),
    (Rate, 10),
    (Detail, 8),
];

/// Columns of interfaces.
pub const INTERFACES: &[(Column, u8)] = &[
    (Name, 0),
    (Via, 5),
    (State, 2),
    (Rx, 1),
    (Tx, 1),
    (Encrypted, 3),
    (Total, 4),
    (Speed, 6),
    (Mtu, 7),
    (Rate, 9),
    (Detail, 8),
];

impl Column {
    /// The title.
    pub fn title(self, units: Units) -> String {
        let title = match self {
            Name => "NAME",
            Via => "VIA",
            State => "STATE",
            Rate => return format!("BOTH {}", units.symbol()),
            Rx => return format!("RX {}", units.symbol()),
            Tx => return format!("TX {}", units.symbol()),
            Share => "SHARE",
            Rtt => "RTT",
            Retransmitted => "RETR",
            Lost => "LOST",
            Reordering => "REORD",
            Total => "TOTAL B",
            Role => "ROLE",
            Token => "TOKEN",
            Netns => "NETNS",
            Active => "ACT",
            Backup => "BKUP",
            Opened => "OPENED",
            Closed => "CLOSED",
            Encrypted => "CRYPT",
            Speed => "SPEED",
            Mtu => "MTU",
            Detail => "DETAIL",
        };
        title.to_owned()
    }

    /// The name to sort by on the command line.
    pub const fn key(self) -> &'static str {
        match self {
            Name => "name",
            Via => "via",
            State => "state",
            Rate => "rate",
            Rx => "rx",
            Tx => "tx",
            Share => "share",
            Rtt => "rtt",
            Retransmitted => "retr",
            Lost => "lost",
            Reordering => "reord",
            Total => "total",
            Role => "role",
            Token => "token",
            Netns => "netns",
            Active => "act",
            Backup => "bkup",
            Opened => "opened",
            Closed => "closed",
            Encrypted => "crypt",
            Speed => "speed",
            Mtu => "mtu",
            Detail => "detail",
        }
    }

    /// Characters that it takes. The name takes what is left over.
    pub const fn width(self) -> usize {
        match self {
            Name => 26,
            Via => 10,
            State | Share | Rate => 9,
            Rx | Tx | Role | Opened | Closed => 6,
            Rtt | Total => 7,
            Retransmitted | Reordering | Encrypted | Speed | Mtu => 5,
            Lost | Active | Backup => 4,
            Token => 8,
            Netns => 10,
            Detail => 30,
        }
    }

    /// Whether it holds numbers.
    pub const fn is_right_aligned(self) -> bool {
        !matches!(self, Name | Via | State | Share | Role | Token | Netns | Detail)
    }

    /// Whether the largest value comes first at first.
    pub const fn is_descending(self) -> bool {
        self.is_right_aligned() || matches!(self, Share)
    }

    /// What it shows of a row; the name and the share are drawn with more than text.
    pub fn text(self, row: &Row, units: Units) -> String {
        let count = |value: Option<u64>| value.map(|value| short_count(value, self.width()));
        let text = match self {
            Name => Some(row.name.clone()),
            Via => Some(row.via.clone()),
            State => Some(row.state.clone()),
            Rate => row.rate().map(|rate| units.rate(rate)),
            Rx => row.rx_bytes_per_second.map(|rate| units.rate(rate)),
            Tx => row.tx_bytes_per_second.map(|rate| units.rate(rate)),
            Share => row.scheduler_share.map(percent),
            Rtt => row.rtt_us.map(time),
            Retransmitted => row.retransmitted.map(percent),
            Lost => count(row.lost_segments),
            Reordering => count(row.reordering_segments),
            Total => Some(scaled(row.total_bytes as f64)),
            Role => row.role.map(str::to_owned),
            Token => row.token.map(|token| format!("{token:08x}")),
            Netns => Some(row.netns.clone()),
            Active => count(row.active),
            Backup => count(row.backup),
            Opened => count(row.opened),
            Closed => count(row.closed),
            Encrypted => row.encrypted.map(percent),
            Speed => row.speed_bits_per_second.map(|speed| scaled(speed as f64)),
            Mtu => row.mtu_bytes.map(|mtu| mtu.to_string()),
            Detail => Some(row.detail.clone()),
        };
        text.unwrap_or_else(|| if row.token.is_some() && self == Share { String::new() } else { "-".into() })
    }

    /// The order of two rows, the least first; what is unknown is less than all else.
    pub fn compare(self, a: &Row, b: &Row) -> Ordering {
        fn float(a: Option<f64>, b: Option<f64>) -> Ordering {
            a.unwrap_or(-1.0).total_cmp(&b.unwrap_or(-1.0))
        }
        match self {
            Name => a.name.cmp(&b.name),
            Via => a.via.cmp(&b.via),
            State => a.state.cmp(&b.state),
            Rate => float(a.rate(), b.rate()),
            Rx => float(a.rx_bytes_per_second, b.rx_bytes_per_second),
            Tx => float(a.tx_bytes_per_second, b.tx_bytes_per_second),
            Share => float(a.scheduler_share, b.scheduler_share),
            Rtt => float(a.rtt_us, b.rtt_us),
            Retransmitted => float(a.retransmitted, b.retransmitted),
            Lost => a.lost_segments.cmp(&b.lost_segments),
            Reordering => a.reordering_segments.cmp(&b.reordering_segments),
            Total => a.total_bytes.cmp(&b.total_bytes),
            Role => a.role.cmp(&b.role),
            Token => a.token.cmp(&b.token),
            Netns => a.netns.cmp(&b.netns),
            Active => a.active.cmp(&b.active),
            Backup => a.backup.cmp(&b.backup),
            Opened => a.opened.cmp(&b.opened),
            Closed => a.closed.cmp(&b.closed),
            Encrypted => float(a.encrypted, b.encrypted),
            Speed => a.speed_bits_per_second.cmp(&b.speed_bits_per_second),
            Mtu => a.mtu_bytes.cmp(&b.mtu_bytes),
            Detail => a.detail.cmp(&b.detail),
        }
    }
}

/// Those of `all` that fit into `width`, and the width of the name.
pub fn fitting(all: &[(Column, u8)], width: usize) -> (Vec<Column>, usize) {
    let least = Name.width().max(width * 3 / 10);
    let mut by_importance: Vec<(Column, u8)> = all.iter().copied().filter(|(column, _)| *column != Name).collect();
    by_importance.sort_by_key(|(_, importance)| *importance);
    let mut left = width.saturating_sub(least);
    let mut taken = vec![Name];
    for (column, _) in by_importance {
        let Some(rest) = left.checked_sub(column.width() + 1) else { break };
        left = rest;
        taken.push(column);
    }
    let columns: Vec<Column> = all.iter().map(|(column, _)| *column).filter(|column| taken.contains(column)).collect();
    let others: usize = columns.iter().filter(|column| **column != Name).map(|column| column.width() + 1).sum();
    (columns, width.saturating_sub(others))
}

fn short_count(value: u64, width: usize) -> String {
    let text = value.to_string();
    if text.len() <= width { text } else { scaled(value as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_important_columns_fit_eighty() {
        let (columns, name) = fitting(CONNECTIONS, 80);
        assert_eq!(columns, [Name, Via, State, Rx, Tx, Share, Rtt]);
        assert!(name >= 26, "{name}");
        assert_eq!(fitting(CONNECTIONS, 300).0.len(), CONNECTIONS.len());
        assert_eq!(fitting(CONNECTIONS, 10), (vec![Name], 10));
    }

    #[test]
    fn titles_fit_their_columns() {
        for (column, _) in [CONNECTIONS, PATHS, INTERFACES].concat() {
            assert!(column.title(Units::Bits).len() <= column.width(), "{column:?}");
        }
    }
}

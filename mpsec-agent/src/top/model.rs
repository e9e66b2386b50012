//! What the view shows: the rows, and the state that keys change. It does no input or output and reads no clock.

use std::collections::{HashMap, HashSet};

use super::column::{CONNECTIONS, Column, INTERFACES, PATHS};
use super::row::{Row, path_key};
use super::status::Status;
use super::summary::Summary;
use super::units::Units;

/// The tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum View {
    /// Connections and their subflows.
    #[default]
    Connections,
    /// Paths.
    Paths,
    /// Interfaces.
    Interfaces,
}

impl View {
    /// All of them, in the order of Tab.
    pub const ALL: [View; 3] = [View::Connections, View::Paths, View::Interfaces];

    /// The columns, each with its importance.
    pub const fn columns(self) -> &'static [(Column, u8)] {
        match self {
            View::Connections => CONNECTIONS,
            View::Paths => PATHS,
            View::Interfaces => INTERFACES,
        }
    }

    /// The name, in tabs and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            View::Connections => "connections",
            View::Paths => "paths",
            View::Interfaces => "interfaces",
        }
    }
}

/// The order of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub column: Column,
    /// The other way than usual for this column.
    pub is_reversed: bool,
}

/// Whether the agent answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// It has not answered yet.
    #[default]
    Waiting,
    /// It answers.
    Up,
    /// It does not, and why.
    Down(String),
}

/// What typed characters mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Commands.
    #[default]
    Normal,
    /// The filter's text.
    Filter,
    /// The help is shown.
    Help,
}

/// All that is shown.
#[derive(Debug)]
pub struct Model {
    /// Whether the agent answers.
    pub link: Link,
    /// What stands above the table.
    pub summary: Summary,
    /// The table that is shown.
    pub view: View,
    /// What keys mean.
    pub mode: Mode,
    /// Only rows that hold all words of this are shown.
    pub filter: String,
    /// The unit of rates.
    pub units: Units,
    /// The agent is not asked.
    pub is_paused: bool,
    /// The selected line.
    pub cursor: usize,
    /// The first line that is shown.
    pub top: usize,
    /// Lines that the table has room for.
    pub height: usize,
    status: Option<Status>,
    has_namespaces: bool,
    rows: [Vec<Row>; 3],
    sorts: [Sort; 3],
    /// Rows of the table that are shown, in their order.
    order: Vec<usize>,
    /// The first line of each of them, and at last the number of lines.
    starts: Vec<usize>,
    is_collapsed: bool,
    /// Connections that are not as `is_collapsed` says.
    toggled: HashSet<String>,
    /// The selected row and the line within it; none while the first line is selected, whichever it is.
    selected: Option<(String, usize)>,
}

impl Default for Model {
    fn default() -> Model {
        let sort = |column| Sort { column, is_reversed: false };
        Model {
            link: Link::default(),
            summary: Summary::default(),
            view: View::default(),
            mode: Mode::default(),
            filter: String::new(),
            units: Units::default(),
            is_paused: false,
            cursor: 0,
            top: 0,
            height: 1,
            status: None,
            has_namespaces: false,
            rows: Default::default(),
            sorts: [sort(Column::Rate), sort(Column::Rate), sort(Column::Name)],
            order: Vec::new(),
            starts: vec![0],
            is_collapsed: false,
            toggled: HashSet::new(),
            selected: None,
        }
    }
}

impl Model {
    /// Takes an answer of the agent's.
    pub fn update(&mut self, status: Status) {
        let before = self.status.take();
        // Without a newer moment there is nothing to make rates of.
        let before = before.filter(|before| before.taken_at < status.taken_at);
        self.rows = rows(&status, before.as_ref());
        self.summary = Summary::new(&status, &self.rows);
        self.has_namespaces = self.rows.iter().flatten().any(|row| !row.netns.is_empty());
        if self.toggled.len() > self.rows[0].len() {
            let known: HashSet<&str> = self.rows[0].iter().map(|row| row.key.as_str()).collect();
            self.toggled.retain(|key| known.contains(key.as_str()));
        }
        self.status = Some(status);
        self.link = Link::Up;
        self.arrange();
    }

    /// The agent did not answer. What it said last stays.
    pub fn fail(&mut self, why: String) {
        self.link = Link::Down(why);
    }

    /// When the agent's last answer was taken, in seconds since 1970.
    pub fn taken_at(&self) -> Option<f64> {
        self.status.as_ref().map(|status| status.taken_at)
    }

    /// Version of the agent; empty before its first answer.
    pub fn agent_version(&self) -> &str {
        self.status.as_ref().map_or("", |status| &status.version)
    }

    /// The rows of a table, whatever the filter says.
    pub fn all_rows(&self, view: View) -> &[Row] {
        &self.rows[view as usize]
    }

    /// The rows that are shown, in their order.
    pub fn shown_rows(&self) -> impl Iterator<Item = &Row> {
        self.order.iter().map(|index| &self.rows[self.view as usize][*index])
    }

    /// The columns of the table that is shown, each with its importance. Namespaces have one, which nearly always is shown,
    /// only where there is more than the agent's own.
    pub fn columns(&self) -> Vec<(Column, u8)> {
        let columns = self.view.columns().iter().copied();
        match self.has_namespaces {
            true => columns.map(|(c, importance)| (c, if c == Column::Netns { 2 } else { importance })).collect(),
            false => columns.filter(|(column, _)| *column != Column::Netns).collect(),
        }
    }

    /// The order of the table that is shown.
    pub fn sort(&self) -> Sort {
        self.sorts[self.view as usize]
    }

    /// Changes the order of the table that is shown.
    pub fn set_sort(&mut self, sort: Sort) {
        self.sorts[self.view as usize] = sort;
        self.arrange();
    }

    /// Shows another table.
    pub fn set_view(&mut self, view: View) {
        self.view = view;
        (self.cursor, self.top, self.selected) = (0, 0, None);
        self.arrange();
    }

    /// Shows only what holds all words of a text.
    pub fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    /// Lines of the table, all of them.
    pub fn line_count(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// So many lines from one on: each its row, and which of the row's children it is. Costs no more than those lines.
    pub fn lines(&self, from: usize, count: usize) -> impl Iterator<Item = (&Row, Option<usize>)> {
        let end = from.saturating_add(count).min(self.line_count());
        let mut place = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        (from..end).map(move |line| {
            while self.starts.get(place + 1).is_some_and(|next| *next <= line) {
                place += 1;
            }
            let row = &self.rows[self.view as usize][self.order[place]];
            (row, line.checked_sub(self.starts[place] + 1))
        })
    }

    /// Whether a row's children are shown.
    pub fn is_expanded(&self, row: &Row) -> bool {
        self.is_collapsed == self.toggled.contains(&row.key)
    }

    /// Shows or hides the children of the selected row.
    pub fn toggle_selected(&mut self) {
        let Some(key) = self.lines(self.cursor, 1).next().map(|(row, _)| row.key.clone()) else { return };
        if !self.toggled.remove(&key) {
            self.toggled.insert(key);
        }
        self.arrange();
    }

    /// Shows or hides the children of all rows.
    pub fn toggle_all(&mut self) {
        self.is_collapsed = !self.is_collapsed;
        self.toggled.clear();
        self.arrange();
    }

    /// Moves the selection, and what is shown along with it.
    pub fn select(&mut self, line: usize) {
        self.cursor = line.min(self.line_count().saturating_sub(1));
        let at = |(row, child): (&Row, Option<usize>)| (row.key.clone(), child.map_or(0, |child| child + 1));
        self.selected = if self.cursor == 0 { None } else { self.lines(self.cursor, 1).next().map(at) };
        self.scroll();
    }

    /// The table has room for so many lines.
    pub fn set_height(&mut self, height: usize) {
        self.height = height.max(1);
        self.scroll();
    }

    fn scroll(&mut self) {
        let last = self.line_count().saturating_sub(self.height);
        self.top = self.top.clamp((self.cursor + 1).saturating_sub(self.height), self.cursor).min(last);
    }

    /// Filters and sorts anew, once for each change; the selected row stays so.
    fn arrange(&mut self) {
        let selected = self.selected.take();
        let rows = &self.rows[self.view as usize];
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let is_shown = |row: &Row| words.iter().all(|word| row.haystack.contains(word));
        self.order = (0..rows.len()).filter(|index| is_shown(&rows[*index])).collect();
        let Sort { column, is_reversed } = self.sort();
        let is_descending = column.is_descending() != is_reversed;
        self.order.sort_by(|a, b| {
            let (a, b) = (&rows[*a], &rows[*b]);
            let order = column.compare(a, b);
            // Rows that are equal keep their place from one refresh to the next.
            if is_descending { order.reverse() } else { order }.then_with(|| a.key.cmp(&b.key))
        });
        let lines = |index: &usize| match &rows[*index] {
            row if self.is_expanded(row) => 1 + row.children.len(),
            _ => 1,
        };
        let ends = self.order.iter().scan(0, |end, index| {
            *end += lines(index);
            Some(*end)
        });
        self.starts = std::iter::once(0).chain(ends).collect();
        let found = selected.and_then(|(key, child)| {
            let place = self.order.iter().position(|index| rows[*index].key == key)?;
            Some((self.starts[place] + child).min(self.starts[place + 1] - 1))
        });
        self.select(found.unwrap_or(self.cursor));
    }
}

/// The rows of all tables. What was `before` makes the rates of those that the agent tells none of.
fn rows(status: &Status, before: Option<&Status>) -> [Vec<Row>; 3] {
    let seconds = before.map_or(0.0, |before| status.taken_at - before.taken_at);
    let mut old_paths = HashMap::new();
    for namespace in before.iter().flat_map(|before| &before.namespaces) {
        old_paths.extend(namespace.paths.iter().map(|path| (path_key(&namespace.netns, path), path)));
    }
    let old_interfaces: HashMap<&str, _> =
        before.iter().flat_map(|before| &before.interfaces).map(|view| (view.name.as_str(), view)).collect();
    let (mut connections, mut paths) = (Vec::new(), Vec::new());
    for namespace in &status.namespaces {
        let netns = namespace.netns.as_str();
        connections.extend(namespace.connections.iter().map(|connection| Row::connection(netns, connection)));
        paths.extend(namespace.paths.iter().map(|path| {
            let before = old_paths.get(&path_key(netns, path)).map(|before| (*before, seconds));
            Row::path(netns, path, before)
        }));
    }
    let hosts: HashMap<u32, _> = status.host.interfaces.iter().map(|host| (host.index, host)).collect();
    let interface = |view| {
        let view: &crate::snapshot::json::InterfaceView = view;
        let host = view.index.and_then(|index| hosts.get(&index)).copied();
        // An index that was given to another interface since would tell of that one.
        let before = old_interfaces.get(view.name.as_str()).filter(|before| before.index == view.index);
        Row::interface(view, host, before.map(|before| (*before, seconds)))
    };
    [connections, paths, status.interfaces.iter().map(interface).collect()]
}

#[cfg(test)]
mod tests;

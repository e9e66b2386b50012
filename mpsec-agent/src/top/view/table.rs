//! The table: a line of titles, and a line for each row.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::column::{Column, fitting};
use super::super::model::{Model, View};
use super::super::row::Row;
use super::cell::Look;

/// Characters before a name: the mark of a row that opens, or a branch.
const INDENT: usize = 3;
/// Characters of a bar; a space and the percentage come behind it.
const BAR: usize = 4;

/// The titles. The column that rows are sorted by is marked.
pub fn title_line(model: &Model, look: &Look, width: usize) -> Line<'static> {
    let (columns, name_width) = fitting(&model.columns(), width);
    let sorted = model.sort().column;
    let title = |column: Column| {
        let title = match (column, model.view) {
            (Column::Name, View::Connections) => "CONNECTION".to_owned(),
            (Column::Name, View::Paths) => "PATH".to_owned(),
            (Column::Name, View::Interfaces) => "INTERFACE".to_owned(),
            (Column::Via, View::Interfaces) => "KIND".to_owned(),
            _ => column.title(model.units),
        };
        let text = look.fit(&title, width_of(column, name_width), column.is_right_aligned());
        Span::styled(text, look.title_style(column == sorted))
    };
    spaced(columns.into_iter().map(title))
}

/// One line: a row, or one of its children.
pub fn row_line(model: &Model, look: &Look, row: &Row, child: Option<usize>, width: usize) -> Line<'static> {
    let (columns, name_width) = fitting(&model.columns(), width);
    let shown = child.and_then(|child| row.children.get(child)).unwrap_or(row);
    let cell = |column: Column| {
        let width = width_of(column, name_width);
        let text = match column {
            Column::Name => {
                let mark = mark(look, row, child, model.is_expanded(row));
                let is_short = !shown.short_name.is_empty() && mark.width() + shown.name.width() > width;
                let name = if is_short { &shown.short_name } else { &shown.name };
                look.fit(&format!("{mark}{name}"), width, false)
            }
            Column::Share => look.fit(&share(look, shown), width, false),
            _ => look.fit(&column.text(shown, model.units), width, column.is_right_aligned()),
        };
        Span::styled(text, style(look, column, shown, child.is_some()))
    };
    spaced(columns.into_iter().map(cell))
}

/// The width at which no name is cut off.
pub fn natural_width(model: &Model) -> usize {
    let longest = |row: &Row| std::iter::once(row).chain(&row.children).map(|row| row.name.width()).max().unwrap_or(0);
    let name = model.shown_rows().map(longest).max().unwrap_or(0) + INDENT;
    let columns = model.columns();
    let others: usize =
        columns.iter().filter(|(column, _)| *column != Column::Name).map(|(column, _)| column.width() + 1).sum();
    // The name has three tenths of the whole at least.
    (others + name.max(Column::Name.width())).max(others * 10 / 7 + 10)
}

fn width_of(column: Column, name_width: usize) -> usize {
    if column == Column::Name { name_width } else { column.width() }
}

fn mark(look: &Look, row: &Row, child: Option<usize>, is_expanded: bool) -> &'static str {
    let is_last = child.is_some_and(|child| child + 1 == row.children.len());
    match (child, look.has_unicode) {
        (None, _) if row.children.is_empty() => "",
        (None, true) if is_expanded => "▾ ",
        (None, true) => "▸ ",
        (None, false) if is_expanded => "- ",
        (None, false) => "+ ",
        (Some(_), true) if is_last => " └ ",
        (Some(_), true) => " ├ ",
        (Some(_), false) => " | ",
    }
}

fn share(look: &Look, row: &Row) -> String {
    match row.scheduler_share {
        Some(part) => format!("{}{:>5}", look.bar(part, BAR), format!("{:.0}%", part * 100.0)),
        None => Column::Share.text(row, Default::default()),
    }
}

fn style(look: &Look, column: Column, row: &Row, is_child: bool) -> Style {
    let is_bad = match column {
        Column::State | Column::Detail => row.is_wrong,
        Column::Retransmitted => row.retransmitted.is_some_and(|part| part >= 0.02),
        Column::Lost => row.lost_segments.is_some_and(|lost| lost > 0),
        _ => false,
    };
    let is_busy = match column {
        Column::Rx => row.rx_bytes_per_second.is_some_and(|rate| rate >= 1.0),
        Column::Tx => row.tx_bytes_per_second.is_some_and(|rate| rate >= 1.0),
        Column::Share => row.scheduler_share.is_some_and(|share| share > 0.0),
        _ => false,
    };
    match () {
        () if is_bad => look.wrong_style(),
        () if is_busy => look.busy_style(),
        () if is_child && column == Column::Name => look.soft_style(),
        () => Style::new(),
    }
}

/// A space between one cell and the next.
fn spaced(cells: impl Iterator<Item = Span<'static>>) -> Line<'static> {
    let mut spans = Vec::new();
    for cell in cells {
        if !spans.is_empty() {
            spans.push(Span::raw(" "));
        }
        spans.push(cell);
    }
    Line::from(spans)
}

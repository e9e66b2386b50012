//! The view: a pure function from the model to what a terminal, or a text, shows.

mod cell;
mod head;
mod table;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Widget as _};

use super::input::HELP;
use super::model::{Mode, Model};

pub use cell::Look;
pub use head::{findings, state, sums, tabs, title};
pub use table::{natural_width, row_line, title_line};

/// Where everything goes. What there is no room for has no lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    head: u16,
    trouble: u16,
    findings: u16,
    table: u16,
    foot: u16,
}

impl Layout {
    /// `trouble` lines tell what is the matter with the agent.
    fn new(area: Rect, model: &Model, trouble: u16) -> Layout {
        // The table's titles and one row come first, then what is wrong, then the head, then the foot.
        let mut left = area.height.saturating_sub(2);
        let mut take = |wanted: u16| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let trouble = take(trouble.min(4));
        let found = u16::try_from(model.summary.findings.len()).unwrap_or(u16::MAX);
        let findings = take(found.min((area.height / 4).max(1)));
        let head = take(3);
        let foot = take(1);
        Layout { head, trouble, findings, table: area.height - head - trouble - findings - foot, foot }
    }
}

fn trouble(area: Rect, model: &Model) -> u16 {
    let look = Look { has_color: false, has_unicode: false };
    u16::try_from(state(model, &look, usize::from(area.width)).len()).unwrap_or(u16::MAX)
}

/// Lines that the table's rows have.
pub fn table_height(area: Rect, model: &Model) -> usize {
    usize::from(Layout::new(area, model, trouble(area, model)).table.saturating_sub(1))
}

/// Draws everything.
pub fn draw(model: &Model, look: &Look, buffer: &mut Buffer) {
    let area = buffer.area;
    let layout = Layout::new(area, model, trouble(area, model));
    let width = usize::from(area.width);
    let mut lines: Vec<Line<'_>> = Vec::new();
    // What is left out first, where there is little room, is the host.
    let always = [title(model, look, width), sums(model, look, width), tabs(model, look, width)];
    let state = state(model, look, width).into_iter().take(usize::from(layout.trouble));
    lines.extend(always.into_iter().skip(3 - usize::from(layout.head)).chain(state));
    lines.extend(findings(model, look, width, usize::from(layout.findings)));
    lines.push(title_line(model, look, width));
    let rows = usize::from(layout.table.saturating_sub(1));
    for (number, (row, child)) in (model.top..).zip(model.lines(model.top, rows)) {
        let line = row_line(model, look, row, child, width);
        lines.push(if number == model.cursor { look.selected(line, width) } else { line });
    }
    if model.line_count() == 0 && rows > 0 {
        lines.push(look.soft(nothing(model)));
    }
    for (y, line) in (area.y..area.bottom()).zip(&lines) {
        buffer.set_line(area.x, y, line, area.width);
    }
    if layout.foot > 0 {
        buffer.set_line(area.x, area.bottom() - 1, &foot(model, look), area.width);
    }
    if model.mode == Mode::Help {
        help(look, buffer);
    }
}

/// Why the table is empty.
fn nothing(model: &Model) -> String {
    let name = model.view.name();
    if model.taken_at().is_none() {
        return "waiting for the agent's first answer".into();
    }
    match model.all_rows(model.view).len() {
        0 => format!("no {name}"),
        hidden => format!("none of {hidden} {name} holds {:?}; Esc shows them all", model.filter),
    }
}

fn foot(model: &Model, look: &Look) -> Line<'static> {
    match model.mode {
        Mode::Filter => look.strong(format!("filter: {}_   Enter keeps it, Esc takes it away", model.filter)),
        _ => look.soft("? help  q quit  Tab table  s sort  r reverse  / filter  Enter open  p pause".into()),
    }
}

/// The help, in place of everything else.
fn help(look: &Look, buffer: &mut Buffer) {
    let area = buffer.area;
    Clear.render(area, buffer);
    let mut lines = vec![look.strong(" Keys".into()), Line::default()];
    lines.extend(HELP.iter().map(|(keys, what)| Line::from(format!("  {keys:<19} {what}"))));
    lines.extend([
        Line::default(),
        look.soft(" The RTT of a path is the median since the agent started. Any key: back".into()),
    ]);
    for (y, line) in (area.y..area.bottom()).zip(&lines) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

#[cfg(test)]
mod tests;

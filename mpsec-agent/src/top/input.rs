//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::column::Column;
use super::model::{Mode, Model, Sort, View};

/// Keys and what they do, for the help.
pub const HELP: &[(&str, &str)] = &[
    ("Tab, Shift-Tab", "next, previous table: connections, paths, interfaces"),
    ("Up Down PgUp PgDn", "move (also k, j, Ctrl-B, Ctrl-F)"),
    ("Home End", "first, last line (also g, G)"),
    ("Enter, Space", "show or hide the subflows of a connection"),
    ("e", "show or hide the subflows of all connections"),
    ("s, S", "sort by the next, previous column"),
    ("1 ... 9", "sort by that column; again: the other way"),
    ("r", "sort the other way"),
    ("/", "filter: lines that hold all words (address, interface,"),
    ("", "state, namespace, token); Esc takes it away"),
    ("b", "bits or bytes per second"),
    ("p", "pause and go on"),
    ("?, h", "this help"),
    ("q, Ctrl-C", "quit"),
];

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End.
    Quit,
}

/// Does what a key asks for.
pub fn press(model: &mut Model, key: KeyEvent) -> Flow {
    if key.kind == KeyEventKind::Release {
        return Flow::Continue;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Flow::Quit;
    }
    match model.mode {
        Mode::Filter => edit(model, key.code, control),
        // Any key closes the help, and does no more than that.
        Mode::Help => model.mode = Mode::Normal,
        Mode::Normal => return command(model, key.code, control),
    }
    Flow::Continue
}

fn edit(model: &mut Model, code: KeyCode, control: bool) {
    let mut filter = model.filter.clone();
    match code {
        KeyCode::Enter => return model.mode = Mode::Normal,
        KeyCode::Esc => {
            model.mode = Mode::Normal;
            filter.clear();
        }
        KeyCode::Backspace if filter.is_empty() => return model.mode = Mode::Normal,
        KeyCode::Backspace => drop(filter.pop()),
        KeyCode::Char('u') if control => filter.clear(),
        KeyCode::Char(character) if !control && !character.is_control() => filter.push(character),
        _ => return,
    }
    model.set_filter(filter);
}

fn command(model: &mut Model, code: KeyCode, control: bool) -> Flow {
    match code {
        KeyCode::Char('b') if control => model.select(model.cursor.saturating_sub(model.height)),
        KeyCode::Char('f') if control => model.select(model.cursor + model.height),
        KeyCode::Char(_) if control => {}
        KeyCode::Char('q') => return Flow::Quit,
        KeyCode::Tab | KeyCode::Right => next_view(model, 1),
        KeyCode::BackTab | KeyCode::Left => next_view(model, View::ALL.len() - 1),
        KeyCode::Up | KeyCode::Char('k') => model.select(model.cursor.saturating_sub(1)),
        KeyCode::Down | KeyCode::Char('j') => model.select(model.cursor + 1),
        KeyCode::PageUp => model.select(model.cursor.saturating_sub(model.height)),
        KeyCode::PageDown => model.select(model.cursor + model.height),
        KeyCode::Home | KeyCode::Char('g') => model.select(0),
        KeyCode::End | KeyCode::Char('G') => model.select(usize::MAX),
        KeyCode::Enter | KeyCode::Char(' ') => model.toggle_selected(),
        KeyCode::Char('e') => model.toggle_all(),
        KeyCode::Char('s') => next_sort(model, 1),
        KeyCode::Char('S') => next_sort(model, model.view.columns().len() - 1),
        KeyCode::Char('r') => {
            let sort = model.sort();
            model.set_sort(Sort { is_reversed: !sort.is_reversed, ..sort });
        }
        KeyCode::Char(digit @ '1'..='9') => sort_by_number(model, digit),
        KeyCode::Char('/') => model.mode = Mode::Filter,
        KeyCode::Esc => model.set_filter(String::new()),
        KeyCode::Char('b') => model.units = model.units.other(),
        KeyCode::Char('p') => model.is_paused = !model.is_paused,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => model.mode = Mode::Help,
        _ => {}
    }
    Flow::Continue
}

fn next_view(model: &mut Model, step: usize) {
    model.set_view(View::ALL[(model.view as usize + step) % View::ALL.len()]);
}

fn next_sort(model: &mut Model, step: usize) {
    let columns = model.view.columns();
    let place = columns.iter().position(|(column, _)| *column == model.sort().column).unwrap_or(0);
    set_column(model, columns[(place + step) % columns.len()].0);
}

fn sort_by_number(model: &mut Model, digit: char) {
    let place = digit.to_digit(10).unwrap_or(1) as usize - 1;
    let Some((column, _)) = model.view.columns().get(place).copied() else { return };
    let sort = model.sort();
    let is_reversed = sort.column == column && !sort.is_reversed;
    model.set_sort(Sort { column, is_reversed });
}

fn set_column(model: &mut Model, column: Column) {
    model.set_sort(Sort { column, is_reversed: false });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::units::Units;

    fn type_in(model: &mut Model, text: &str) -> Flow {
        text.chars().map(|c| press(model, KeyEvent::from(KeyCode::Char(c)))).last().unwrap()
    }

    #[test]
    fn letters_are_commands_or_text() {
        let mut model = Model::default();
        type_in(&mut model, "p/qp b");
        assert_eq!((model.mode, model.filter.as_str(), model.is_paused), (Mode::Filter, "qp b", true));
        press(&mut model, KeyEvent::from(KeyCode::Backspace));
        press(&mut model, KeyEvent::from(KeyCode::Enter));
        assert_eq!((model.mode, model.filter.as_str()), (Mode::Normal, "qp "));
        press(&mut model, KeyEvent::from(KeyCode::Esc));
        assert_eq!(model.filter, "");
        assert_eq!(type_in(&mut model, "b"), Flow::Continue);
        assert_eq!(model.units, Units::Bytes);
        assert_eq!(type_in(&mut model, "?q"), Flow::Continue);
        assert_eq!(type_in(&mut model, "q"), Flow::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!([Mode::Normal, Mode::Filter, Mode::Help].into_iter().all(|mode| {
            model.mode = mode;
            press(&mut model, interrupt) == Flow::Quit
        }));
    }

    #[test]
    fn sorting_goes_round_and_back() {
        let mut model = Model::default();
        let first = model.sort();
        for _ in 0..model.view.columns().len() {
            type_in(&mut model, "s");
        }
        assert_eq!(model.sort(), first);
        type_in(&mut model, "sS");
        assert_eq!(model.sort(), first);
        type_in(&mut model, "44");
        assert_eq!(model.sort(), Sort { column: Column::Rx, is_reversed: true });
        type_in(&mut model, "r");
        assert!(!model.sort().is_reversed);
        press(&mut model, KeyEvent::from(KeyCode::Tab));
        assert_eq!((model.view, model.sort().column), (View::Paths, Column::Rate));
        press(&mut model, KeyEvent::from(KeyCode::BackTab));
        assert_eq!((model.view, model.sort().column), (View::Connections, Column::Rx));
    }
}

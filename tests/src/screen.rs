//! As much of a terminal's screen as a full-screen program needs: text, places, and what is cleared.

/// A grid of characters.
#[derive(Debug)]
pub struct Screen {
    rows: Vec<Vec<char>>,
    columns: usize,
    at: (usize, usize),
    /// The alternate screen is on.
    pub is_alternate: bool,
    /// The cursor is hidden.
    pub is_cursor_hidden: bool,
    state: State,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Text,
    Escape,
    Sequence(String),
}

impl Screen {
    /// An empty one.
    pub fn new(columns: u16, rows: u16) -> Screen {
        let mut screen = Screen {
            rows: Vec::new(),
            columns: 0,
            at: (0, 0),
            is_alternate: false,
            is_cursor_hidden: false,
            state: State::Text,
            partial: Vec::new(),
        };
        screen.resize(columns, rows);
        screen
    }

    /// Another size; what was there is gone.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.columns = usize::from(columns);
        self.rows = vec![vec![' '; self.columns]; usize::from(rows)];
    }

    /// What it shows, a line for each row, without the spaces at its end.
    pub fn text(&self) -> String {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    /// Takes what a program writes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.partial.push(*byte);
            match std::str::from_utf8(&self.partial) {
                Ok(text) => {
                    let characters: Vec<char> = text.chars().collect();
                    self.partial.clear();
                    characters.into_iter().for_each(|character| self.take(character));
                }
                Err(error) if error.error_len().is_some() => self.partial.clear(),
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, character: char) {
        self.state = match (std::mem::replace(&mut self.state, State::Text), character) {
            (State::Text, '\u{1b}') => State::Escape,
            (State::Text, character) => {
                self.put(character);
                State::Text
            }
            (State::Escape, '[') => State::Sequence(String::new()),
            (State::Escape, _) => State::Text,
            (State::Sequence(text), last @ '@'..='~') => {
                self.control(&text, last);
                State::Text
            }
            (State::Sequence(text), character) => State::Sequence(text + &character.to_string()),
        };
    }

    fn put(&mut self, character: char) {
        match character {
            '\r' => self.at.0 = 0,
            '\n' => self.at.1 += 1,
            character if character.is_control() => {}
            character => {
                if let Some(cell) = self.rows.get_mut(self.at.1).and_then(|row| row.get_mut(self.at.0)) {
                    *cell = character;
                }
                self.at.0 += 1;
            }
        }
    }

    /// A control sequence (ECMA-48), by its last character.
    fn control(&mut self, text: &str, last: char) {
        let numbers: Vec<usize> = text.split(';').map(|number| number.parse().unwrap_or(0)).collect();
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0).max(1);
        match (last, text) {
            ('H', _) => self.at = (number(1) - 1, number(0) - 1),
            ('G', _) => self.at.0 = number(0) - 1,
            ('C', _) => self.at.0 += number(0),
            ('J', "2" | "" | "3") => self.rows.iter_mut().flatten().for_each(|cell| *cell = ' '),
            ('K', "" | "0") => {
                let (x, y) = self.at;
                self.rows.get_mut(y).into_iter().flat_map(|row| row.iter_mut().skip(x)).for_each(|cell| *cell = ' ');
            }
            ('h' | 'l', "?1049") => self.is_alternate = last == 'h',
            ('h' | 'l', "?25") => self.is_cursor_hidden = last == 'l',
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_where_it_is_told_to() {
        let mut screen = Screen::new(6, 2);
        screen.feed(b"\x1b[?1049h\x1b[?25l\x1b[2J\x1b[2;3Hab\x1b[31mc\xe2");
        screen.feed(b"\x96\xbe");
        assert_eq!(screen.text(), "\n  abc▾\n");
        assert!(screen.is_alternate && screen.is_cursor_hidden);
        screen.feed(b"\x1b[2;4H\x1b[K\x1b[?1049l\x1b[?25h");
        assert_eq!(screen.text(), "\n  a\n");
        assert!(!screen.is_alternate && !screen.is_cursor_hidden);
    }
}

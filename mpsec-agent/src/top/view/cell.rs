//! Cells: text of a fixed width, colours where there are any, bars.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// It has colours, and the user wants them.
    pub has_color: bool,
    /// It shows more than ASCII.
    pub has_unicode: bool,
}

impl Look {
    /// From the environment: `NO_COLOR` (when not empty), `TERM`, and the locale, of which `LC_ALL` comes before
    /// `LC_CTYPE`, and that before `LANG` (locale(7)).
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Look {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let term = set("TERM").unwrap_or_default();
        let is_plain = ["", "dumb", "vt52", "vt100", "vt102", "vt220", "vt320"].contains(&term.as_str());
        let is_mono = term.ends_with("-m") || term.ends_with("-mono");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_uppercase();
        Look {
            has_color: set("NO_COLOR").is_none() && !is_plain && !is_mono,
            has_unicode: locale.contains("UTF-8") || locale.contains("UTF8"),
        }
    }

    /// A text that is important.
    pub fn strong(&self, text: String) -> Line<'static> {
        Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
    }

    /// A text that is not.
    pub fn soft(&self, text: String) -> Line<'static> {
        Line::styled(text, self.soft_style())
    }

    /// A text that says what is wrong.
    pub fn wrong(&self, text: String) -> Line<'static> {
        Line::styled(text, self.wrong_style())
    }

    /// A line that is selected, to the end of the screen.
    pub fn selected(&self, mut line: Line<'static>, width: usize) -> Line<'static> {
        line.push_span(Span::raw(" ".repeat(width.saturating_sub(line.width()))));
        line.patch_style(Style::new().add_modifier(Modifier::REVERSED))
    }

    /// Titles of columns.
    pub fn title_style(&self, is_sorted: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        match is_sorted {
            true => self.colored(style, Color::Cyan).add_modifier(Modifier::UNDERLINED),
            false => style,
        }
    }

    /// What is wrong.
    pub fn wrong_style(&self) -> Style {
        self.colored(Style::new().add_modifier(Modifier::BOLD), Color::Red)
    }

    /// What is less important than the rest.
    pub fn soft_style(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What moves.
    pub fn busy_style(&self) -> Style {
        self.colored(Style::new(), Color::Green)
    }

    fn colored(&self, style: Style, color: Color) -> Style {
        if self.has_color { style.fg(color) } else { style }
    }

    /// A bar of so many characters, as full as `part` says.
    pub fn bar(&self, part: f64, width: usize) -> String {
        let part = part.clamp(0.0, 1.0);
        if !self.has_unicode {
            let full = (part * width as f64).round() as usize;
            return format!("{}{}", "#".repeat(full), ".".repeat(width - full));
        }
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let eighths = (part * width as f64 * 8.0).round() as usize;
        let bar = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
        self.fit(&bar, width, false)
    }

    /// A text of exactly this width: filled up, or cut off with a mark.
    pub fn fit(&self, text: &str, width: usize, is_right_aligned: bool) -> String {
        let has = text.width();
        if has > width {
            return self.cut(text, width);
        }
        let space = " ".repeat(width - has);
        if is_right_aligned { format!("{space}{text}") } else { format!("{text}{space}") }
    }

    fn cut(&self, text: &str, width: usize) -> String {
        let mark = if self.has_unicode { '…' } else { '~' };
        let mut cut = String::new();
        let mut left = width.saturating_sub(1);
        for character in text.chars() {
            let Some(rest) = left.checked_sub(character.width().unwrap_or(0)) else { break };
            left = rest;
            cut.push(character);
        }
        if width > 0 {
            cut.push(mark);
        }
        cut + &" ".repeat(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_environment_decides() {
        let look = |pairs: &[(&str, &str)]| {
            let look = Look::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned()));
            (look.has_color, look.has_unicode)
        };
        assert_eq!(look(&[("TERM", "xterm-256color"), ("LANG", "C.UTF-8")]), (true, true));
        assert_eq!(look(&[("TERM", "xterm"), ("NO_COLOR", "1"), ("LANG", "en_US.utf8")]), (false, true));
        assert_eq!(look(&[("TERM", "xterm"), ("NO_COLOR", "")]), (true, false));
        assert_eq!(look(&[("TERM", "vt100"), ("LC_ALL", "C"), ("LANG", "C.UTF-8")]), (false, false));
        assert_eq!((look(&[]), look(&[("TERM", "screen-mono")])), ((false, false), (false, false)));
    }

    #[test]
    fn bars_are_as_long_as_the_part() {
        let (old, new) = (Look { has_color: false, has_unicode: false }, Look { has_color: true, has_unicode: true });
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(|part| old.bar(part, 4)), ["....", "##..", "####", "####"]);
        assert_eq!([0.0, 0.5, 0.78125, f64::NAN].map(|part| new.bar(part, 4)), ["    ", "██  ", "███▏", "    "]);
    }

    proptest! {
        #[test]
        fn a_cell_is_as_wide_as_its_column(text in "[^\\p{C}]*", width in 0usize..40, right: bool, has_unicode: bool) {
            let look = Look { has_color: false, has_unicode };
            prop_assert_eq!(look.fit(&text, width, right).chars().map(|c| c.width().unwrap_or(0)).sum::<usize>(), width);
        }
    }
}

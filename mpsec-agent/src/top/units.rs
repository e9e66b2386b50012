//! Numbers as people read them, never wider than five or six characters.

use serde::Serialize;

/// The unit of rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// Bits per second, as links are sold.
    #[default]
    Bits,
    /// Bytes per second.
    Bytes,
}

impl Units {
    /// The other one.
    pub fn other(self) -> Units {
        match self {
            Self::Bits => Self::Bytes,
            Self::Bytes => Self::Bits,
        }
    }

    /// As it stands in titles.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Bits => "b/s",
            Self::Bytes => "B/s",
        }
    }

    /// As it stands in text.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bits => "bit/s",
            Self::Bytes => "B/s",
        }
    }

    /// A rate that is given in bytes per second, without its unit.
    pub fn rate(self, bytes_per_second: f64) -> String {
        match self {
            Self::Bits => scaled(bytes_per_second * 8.0),
            Self::Bytes => scaled(bytes_per_second),
        }
    }
}

const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Three digits and an SI prefix: 0, 950, 1.23k, 45.6M, 789G.
pub fn scaled(value: f64) -> String {
    if !value.is_finite() || value < 0.5 {
        return "0".into();
    }
    let mut value = value;
    let mut prefixes = PREFIXES.iter();
    let mut prefix = prefixes.next().copied().unwrap_or_default();
    // What would be rounded to four digits gets the next prefix.
    while value >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        (value, prefix) = (value / 1000.0, next);
    }
    let decimals = match value {
        _ if prefix.is_empty() => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{prefix}")
}

/// A time that is given in microseconds: 850us, 12.3ms, 1.50s.
pub fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 999.5 => format!("{us:.0}us"),
        us if us < 9_995.0 => format!("{:.2}ms", us / 1e3),
        us if us < 99_950.0 => format!("{:.1}ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0}ms", us / 1e3),
        us => format!("{:.2}s", us / 1e6),
    }
}

/// A part of a whole, 0 to 1, as percentage: 0%, 0.35%, 2.5%, 100%.
pub fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0%".into(),
        percent if percent < 0.005 => ">0%".into(),
        percent if percent < 0.995 => format!("{percent:.2}%"),
        percent if percent < 9.95 => format!("{percent:.1}%"),
        percent => format!("{percent:.0}%"),
    }
}

/// A span that is given in seconds: 45s, 3m, 2h 5m, 4d 1h.
pub fn span(seconds: f64) -> String {
    // Casting saturates, and nobody waits so long.
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let rates = [0.0, 0.4, 950.0, 999.6, 1234.0, 9_996.0, 45_600.0, 99_960.0, 999_600.0, 7.89e11, f64::NAN];
        let texts = ["0", "0", "950", "1.00k", "1.23k", "10.0k", "45.6k", "100k", "1.00M", "789G", "0"];
        assert_eq!(rates.map(scaled), texts);
        assert_eq!((Units::Bits.rate(125_000.0), Units::Bytes.rate(125_000.0)), ("1.00M".into(), "125k".into()));
        let times = [0.0, 999.4, 999.6, 12_340.0, 123_400.0, 1_500_000.0].map(time);
        assert_eq!(times, ["0us", "999us", "1.00ms", "12.3ms", "123ms", "1.50s"]);
        assert_eq!([0.0, 0.00001, 0.0035, 0.025, 1.0].map(percent), ["0%", ">0%", "0.35%", "2.5%", "100%"]);
        assert_eq!([45.0, 200.0, 7_500.0, 350_000.0, -1.0].map(span), ["45s", "3m", "2h 5m", "4d 1h", "0s"]);
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_its_column(value in 0.0..1e20f64, part in 0.0..=1.0f64, us in 0.0..4.3e9f64) {
            prop_assert!(scaled(value).len() <= 5, "{}", scaled(value));
            prop_assert!(percent(part).len() <= 5, "{}", percent(part));
            prop_assert!(time(us).len() <= 8, "{}", time(us));
        }
    }
}

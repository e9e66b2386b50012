//! Pictures of the view, compared with those in golden/; `MPSEC_BLESS=1` paints them anew.

use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::Color;

use super::super::input::press;
use super::super::model::View;
use super::super::sample;
use super::*;

const ASCII: Look = Look { has_color: false, has_unicode: false };
const COLOR: Look = Look { has_color: true, has_unicode: true };

fn model() -> Model {
    let mut model = Model::default();
    model.update(sample::status());
    model.update(sample::later());
    model
}

fn painted(model: &mut Model, look: &Look, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    model.set_height(table_height(Rect::new(0, 0, width, height), model));
    terminal.draw(|frame| draw(model, look, frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn picture(model: &mut Model, look: &Look, width: u16, height: u16) -> String {
    let buffer = painted(model, look, width, height);
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(row).collect()
}

fn golden(name: &str, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/view/golden").join(format!("{name}.txt"));
    if std::env::var_os("MPSEC_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, picture).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == picture, "{name}: MPSEC_BLESS=1 paints it anew; expected\n{expected}\nfound\n{picture}");
}

#[test]
fn every_table_at_several_sizes() {
    for (width, height) in [(80, 24), (120, 30), (200, 50), (40, 12)] {
        for view in View::ALL {
            let mut model = model();
            model.set_view(view);
            let name = format!("{}-{width}x{height}", view.name());
            golden(&name, &picture(&mut model, &COLOR, width, height));
        }
    }
    golden("connections-ascii-80x24", &picture(&mut model(), &ASCII, 80, 24));
}

#[test]
fn the_help_the_filter_and_a_lost_agent() {
    let mut model = model();
    "/wan1".chars().for_each(|c| {
        press(&mut model, KeyEvent::from(KeyCode::Char(c)));
    });
    golden("filter-80x24", &picture(&mut model, &COLOR, 80, 24));
    press(&mut model, KeyEvent::from(KeyCode::Enter));
    "p?".chars().for_each(|c| {
        press(&mut model, KeyEvent::from(KeyCode::Char(c)));
    });
    golden("help-80x24", &picture(&mut model, &COLOR, 80, 24));
    press(&mut model, KeyEvent::from(KeyCode::Esc));
    model.fail("no agent answers on /run/x: no such file; is `mpsec run` running, and may you use its socket?".into());
    golden("lost-80x24", &picture(&mut model, &COLOR, 80, 24));
    golden("waiting-80x24", &picture(&mut Model::default(), &COLOR, 80, 24));
}

#[test]
fn what_is_wrong_is_always_there() {
    for height in 5..60 {
        let picture = picture(&mut model(), &ASCII, 80, height);
        assert!(picture.contains("! 192.0.2.1:40002") || picture.contains("! 2 more findings"), "{height}:\n{picture}");
        assert!(picture.contains("CONNECTION"), "{height}:\n{picture}");
    }
}

#[test]
fn no_size_is_too_small_or_odd() {
    for width in [1, 2, 7, 20, 33, 81, 300] {
        for height in [1, 2, 3, 4, 9, 70] {
            for view in View::ALL {
                for mode in [Mode::Normal, Mode::Help, Mode::Filter] {
                    let mut model = model();
                    model.set_view(view);
                    model.mode = mode;
                    model.fail("gone".into());
                    picture(&mut model, &COLOR, width, height);
                }
            }
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    let colors = |look| {
        let buffer = painted(&mut model(), &look, 120, 30);
        buffer.content().iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colors(ASCII), 0);
    assert!(colors(COLOR) > 10);
    assert!(picture(&mut model(), &ASCII, 120, 30).is_ascii());
}

/// A draw costs what is on the screen, not what is in the table.
#[test]
fn ten_thousand_connections_stay_quick() {
    let draws = |count| {
        let mut model = Model::default();
        let text = serde_json::to_string(&serde_json::json!({"namespaces": sample::many(count).namespaces})).unwrap();
        let start = Instant::now();
        let status = serde_json::from_str(&text).unwrap();
        let parse = start.elapsed();
        model.update(status);
        let refresh = start.elapsed();
        println!("{count} connections: {} bytes of JSON are read in {parse:?}", text.len());
        model.select(model.line_count() / 2);
        let start = Instant::now();
        (0..20).for_each(|_| drop(painted(&mut model, &COLOR, 80, 24)));
        (refresh, start.elapsed() / 20)
    };
    let ((_, few), (refresh, many)) = (draws(20), draws(10_000));
    println!("a draw of 20 connections {few:?}, of 10,000 {many:?}; a refresh of those {refresh:?}");
    assert!(many < few * 5 + Duration::from_millis(5), "{many:?} instead of {few:?}");
    assert!(refresh < Duration::from_secs(5), "{refresh:?}");
}

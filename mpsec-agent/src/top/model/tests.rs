//! The model: what is shown after which change.

use proptest::prelude::*;

use super::*;
use crate::top::sample;

fn model() -> Model {
    let mut model = Model::default();
    model.set_height(5);
    model.update(sample::many(20));
    model
}

fn lines(model: &Model) -> Vec<(u32, Option<usize>)> {
    model.lines(0, usize::MAX).map(|(row, child)| (row.token.unwrap_or_default(), child)).collect()
}

#[test]
fn rates_are_what_came_in_between() {
    let mut model = Model::default();
    model.update(sample::status());
    assert!(model.all_rows(View::Paths).iter().all(|row| row.rate().is_none()));
    model.update(sample::later());
    let rates: Vec<_> = model.all_rows(View::Paths).iter().map(Row::rate).collect();
    assert_eq!(rates, [Some(30_000.0), Some(30_000.0)]);
    let wan0 = &model.all_rows(View::Interfaces)[0];
    assert_eq!((wan0.rx_bytes_per_second, wan0.mtu_bytes), (Some(40_000.0), Some(1500)));
    // The same moment again tells nothing of rates.
    model.update(sample::later());
    assert!(model.all_rows(View::Paths).iter().all(|row| row.rate().is_none()));
}

#[test]
fn the_busiest_come_first_and_keep_their_subflows() {
    let mut model = model();
    let shown = lines(&model);
    assert_eq!(&shown[..4], [(19, None), (19, Some(0)), (19, Some(1)), (18, None)]);
    assert_eq!(shown.len(), 60);
    model.set_sort(Sort { column: Column::Token, is_reversed: false });
    assert_eq!(lines(&model)[3], (1, None));
    model.set_sort(Sort { column: Column::Token, is_reversed: true });
    assert_eq!(lines(&model)[0], (19, None));
}

#[test]
fn what_is_selected_stays_selected() {
    let mut model = model();
    model.select(4);
    assert_eq!(model.lines(model.cursor, 1).next().map(|(row, child)| (row.token, child)), Some((Some(18), Some(0))));
    model.set_sort(Sort { column: Column::Rate, is_reversed: true });
    assert_eq!(model.lines(model.cursor, 1).next().map(|(row, child)| (row.token, child)), Some((Some(18), Some(0))));
    assert!((model.top..model.top + model.height).contains(&model.cursor));
    model.toggle_selected();
    assert_eq!((model.line_count(), model.cursor), (58, 54));
    model.toggle_all();
    assert_eq!((model.line_count(), model.cursor), (20, 18));
    model.toggle_selected();
    assert_eq!(model.line_count(), 22);
    // Gone: the line stays, as far as there is one.
    model.update(sample::many(2));
    assert!(model.cursor < model.line_count());
    // The first line is the first, whoever is there.
    model.select(0);
    model.update(sample::many(20));
    assert_eq!((model.cursor, model.top), (0, 0));
}

#[test]
fn the_filter_looks_at_everything_and_wants_all_words() {
    let mut model = model();
    for (filter, count) in [("", 20), ("WAN1", 20), ("wan1 40003", 1), ("estab", 20), ("guest", 0), ("00000013", 1)] {
        model.set_filter(filter.into());
        assert_eq!(model.shown_rows().count(), count, "{filter}");
    }
}

#[test]
fn namespaces_are_shown_where_there_are_any() {
    let mut model = model();
    let has_netns = |model: &Model| model.columns().iter().any(|(column, _)| *column == Column::Netns);
    assert!(!has_netns(&model));
    let mut status = sample::many(1);
    status.namespaces[0].netns = "guest".into();
    model.update(status);
    assert!(has_netns(&model));
}

#[test]
fn a_failure_keeps_what_was_told_and_says_why() {
    let mut model = model();
    model.fail("no agent".into());
    assert_eq!((&model.link, model.line_count()), (&Link::Down("no agent".into()), 60));
    model.update(sample::many(1));
    assert_eq!(model.link, Link::Up);
}

#[derive(Clone, Debug)]
enum Step {
    Update(u32),
    Filter(String),
    Sort(usize, bool),
    Select(usize),
    Height(usize),
    Toggle,
    ToggleAll,
    View(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u32..30).prop_map(Step::Update),
        "(4000)?[0-9]?".prop_map(Step::Filter),
        (0usize..30, any::<bool>()).prop_map(|(column, reversed)| Step::Sort(column, reversed)),
        any::<usize>().prop_map(|line| Step::Select(line % 100)),
        (0usize..50).prop_map(Step::Height),
        Just(Step::Toggle),
        Just(Step::ToggleAll),
        (0usize..3).prop_map(Step::View),
    ]
}

proptest! {
    #[test]
    fn the_selection_is_always_on_the_screen(steps in prop::collection::vec(step(), 0..40)) {
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Update(count) => model.update(sample::many(count)),
                Step::Filter(filter) => model.set_filter(filter),
                Step::Sort(column, is_reversed) => {
                    let columns = model.view.columns();
                    model.set_sort(Sort { column: columns[column % columns.len()].0, is_reversed });
                }
                Step::Select(line) => model.select(line),
                Step::Height(height) => model.set_height(height),
                Step::Toggle => model.toggle_selected(),
                Step::ToggleAll => model.toggle_all(),
                Step::View(view) => model.set_view(View::ALL[view]),
            }
            let count = model.line_count();
            prop_assert_eq!(model.lines(0, usize::MAX).count(), count);
            prop_assert!(model.cursor < count.max(1));
            prop_assert!(model.top <= model.cursor && model.cursor < model.top + model.height);
            // A part of the lines is a part of all of them.
            let part: Vec<_> = model.lines(model.top, 7).map(|(row, child)| (&row.key, child)).collect();
            let all: Vec<_> = model.lines(0, usize::MAX).map(|(row, child)| (&row.key, child)).collect();
            prop_assert_eq!(&part[..], &all[model.top..(model.top + 7).min(count)]);
        }
    }
}

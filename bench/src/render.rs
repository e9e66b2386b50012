//! Turning a snapshot of a hundred thousand series into text.

use std::convert::Infallible;
use std::hint::black_box;

use anyhow::{Result, ensure};
use mpsec_agent::publish::prometheus::{Dialect, render};

use crate::measure::{cpu_time, interleave, median, pairs};
use crate::report::{Row, Section};
use crate::{Options, series};

/// How much longer the walk over the tables may take than code that knows its output.
const GOAL: f64 = 1.5;

/// `cargo xtask bench render`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let snapshot = series::snapshot();
    let len = render(&snapshot, Dialect::Classic, 0).len() + 4096;
    let text = render(&snapshot, Dialect::Classic, len);
    let by_hand = series::written_by_hand(&snapshot, len);
    ensure!(series::samples(std::str::from_utf8(&text)?).eq(series::samples(&by_hand)), "not the same text");
    let subjects: [&dyn Fn(); 3] = [
        &|| drop(black_box(series::written_by_hand(&snapshot, len))),
        &|| drop(black_box(render(&snapshot, Dialect::Classic, len))),
        &|| drop(black_box(render(&snapshot, Dialect::OpenMetrics, len))),
    ];
    let times = interleave(options.rounds, subjects.len(), |_, subject| {
        Ok::<_, Infallible>(cpu_time(subjects[subject]).0.as_secs_f64() * 1e3)
    })?;
    let against = |case, index: usize| {
        Row::new(case, median(&times[index])).ratio(median(&pairs(&times[index], &times[0], |ours, hand| ours / hand)))
    };
    Ok(vec![Section {
        bench: "render",
        title: format!("Rendering {} series", series::count()),
        method: format!(
            "CPU time of one rendering of a synthetic snapshot ({} MB of text), into a buffer of the right size, beside code \
             that writes the same samples and knows nothing else.",
            text.len() / 1_000_000
        ),
        unit: "ms",
        against: "written by hand",
        rows: vec![
            against("written by hand", 0),
            against("tables, classic text format", 1).ratio_at_most(GOAL),
            against("tables, OpenMetrics", 2).ratio_at_most(GOAL),
        ],
    }])
}

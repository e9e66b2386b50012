//! The lines above the table.

use ratatui::text::{Line, Span};

use super::super::model::{Link, Model, View};
use super::super::units::{percent, scaled, span};
use super::cell::Look;
use unicode_width::UnicodeWidthStr as _;

/// The host: name, load, memory. What there is no room for is left out from the end.
pub fn title(model: &Model, look: &Look, width: usize) -> Line<'static> {
    let host = &model.summary.host;
    let memory = host.memory_available_bytes.zip(host.memory_total_bytes);
    let parts = [
        Some("mpsec top".to_owned()),
        host.hostname.as_deref().map(crate::control::client::plain),
        host.uptime_seconds.map(|seconds| format!("up {}", span(seconds))),
        host.load_averages.map(|[one, five, fifteen]| format!("load {one:.2} {five:.2} {fifteen:.2}")),
        host.cpu_use.map(|part| format!("cpu {}", percent(part))),
        memory.map(|(free, all)| format!("mem {} free of {} B", scaled(free as f64), scaled(all as f64))),
        host.tasks.map(|tasks| format!("{tasks} tasks")),
        host.kernel_release.as_deref().map(|release| format!("Linux {}", crate::control::client::plain(release))),
    ];
    look.strong(joined(parts.into_iter().flatten(), width))
}

/// Sums over everything.
pub fn sums(model: &Model, _: &Look, width: usize) -> Line<'static> {
    let (summary, units) = (&model.summary, model.units);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| units.rate(rate));
    let paths = model.all_rows(View::Paths);
    let silent = paths.iter().filter(|path| path.is_wrong).count();
    let parts = [
        format!("host rx {} tx {}", rate(summary.rx_bytes_per_second), rate(summary.tx_bytes_per_second)),
        format!(
            "MPTCP rx {} tx {} {}",
            units.rate(summary.mptcp_rx_bytes_per_second),
            units.rate(summary.mptcp_tx_bytes_per_second),
            units.word()
        ),
        format!("{} fell back", summary.fallbacks),
        format!("{} subflows", summary.subflows),
        format!("{silent} of {} paths silent", paths.len()),
    ];
    Line::raw(joined(parts.into_iter(), width))
}

/// The tables, the order, the filter.
pub fn tabs(model: &Model, look: &Look, width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for view in View::ALL {
        let count = model.all_rows(view).len();
        let text = if view == model.view {
            format!("[{} {count}] ", view.name())
        } else {
            format!(" {} {count}  ", view.name())
        };
        let style = if view == model.view { look.title_style(true) } else { look.soft_style() };
        spans.push(Span::styled(text, style));
    }
    let sort = model.sort();
    let arrow = if sort.column.is_descending() != sort.is_reversed { "down" } else { "up" };
    let mut notes = vec![format!("sort {} {arrow}", sort.column.key())];
    if model.line_count() > model.height {
        notes.push(format!("line {} of {}", model.cursor + 1, model.line_count()));
    }
    if !model.filter.is_empty() {
        notes.push(format!("filter {:?}", model.filter));
    }
    if model.is_paused {
        notes.push("PAUSED".into());
    }
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(joined(notes.into_iter().rev(), width.saturating_sub(used))));
    Line::from(spans)
}

/// What is the matter with the agent, and what to do, in as many lines as it takes; none where all is well.
pub fn state(model: &Model, look: &Look, width: usize) -> Vec<Line<'static>> {
    let Link::Down(why) = &model.link else { return Vec::new() };
    let old = if model.taken_at().is_some() { ". What is shown is old" } else { "" };
    let text = format!("The agent is not reachable, trying again{old}: {why}");
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| look.wrong(line)).collect()
}

/// What is wrong, in so many lines; the last one tells how much more there is.
pub fn findings(model: &Model, look: &Look, width: usize, lines: usize) -> Vec<Line<'static>> {
    let all = &model.summary.findings;
    let shown = if all.len() > lines { lines.saturating_sub(1) } else { all.len() };
    let line = |text: String| look.wrong(look.fit(&format!("! {text}"), width, false));
    let mut found: Vec<Line<'static>> = all.iter().take(shown).map(|finding| line(finding.line())).collect();
    if lines > 0 && all.len() > lines {
        found.push(line(format!("{} more findings: mpsec status lists them", all.len() - shown)));
    }
    found
}

/// As many parts as fit, two spaces between them.
fn joined(parts: impl Iterator<Item = String>, width: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        if !text.is_empty() && text.chars().count() + gap.len() + part.chars().count() > width {
            break;
        }
        text.push_str(gap);
        text.push_str(&part);
    }
    text
}

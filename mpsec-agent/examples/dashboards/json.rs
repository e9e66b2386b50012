//! JSON as text that is pleasant to read and to compare: keys in order, and on one line what fits there.

use serde_json::Value;

const WIDTH: usize = 120;
const INDENT: usize = 2;

/// The text, with a line end at its end.
pub fn tidy(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0, 0);
    text.push('\n');
    text
}

/// Writes `value`, whose first character comes behind `before` others on its line.
fn write(text: &mut String, value: &Value, indent: usize, before: usize) {
    let line = one_line(value);
    let parts: Vec<(String, &Value)> = match value {
        _ if indent > 0 && indent + before + line.len() < WIDTH => Vec::new(),
        Value::Object(members) => sorted(members).map(|(key, value)| (format!("{}: ", quoted(key)), value)).collect(),
        Value::Array(items) => items.iter().map(|item| (String::new(), item)).collect(),
        _ => Vec::new(),
    };
    if parts.is_empty() {
        return text.push_str(&line);
    }
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    text.push(open);
    for (number, (key, value)) in parts.iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { ",\n" });
        text.push_str(&" ".repeat(indent + INDENT));
        text.push_str(key);
        write(text, value, indent + INDENT, key.len());
    }
    text.push('\n');
    text.push_str(&" ".repeat(indent));
    text.push(close);
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Object(members) if members.is_empty() => "{}".to_owned(),
        Value::Object(members) => {
            let members: Vec<_> =
                sorted(members).map(|(key, value)| format!("{}: {}", quoted(key), one_line(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// A map's own order depends on how serde_json was built.
fn sorted(members: &serde_json::Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(key, _)| *key);
    members.into_iter()
}

fn quoted(key: &str) -> String {
    Value::from(key).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_fits_is_on_one_line_and_nothing_is_lost() {
        let value = json!({ "b": [1, 2.5, null], "a": { "long": "x".repeat(WIDTH), "short": "\"" }, "c": {}, "d": [] });
        let text = tidy(&value);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "  \"a\": {");
        assert_eq!(lines[3], r#"    "short": "\"""#);
        assert_eq!(lines[5..], [r#"  "b": [1, 2.5, null],"#, r#"  "c": {},"#, r#"  "d": []"#, "}"]);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}

//! A JSON object in each line.

use serde::Deserialize;
use serde_json::{Value, error::Category};

use super::{Raw, csv};

/// The first whole number that a double cannot tell from its neighbour, 2^53.
const INEXACT: u64 = 1 << 53;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    agent_id: Option<Value>,
    entry_id: Option<Value>,
    priority: Option<Value>,
    due_at: Option<Value>,
    label: Option<Value>,
}

/// The texts in an object.
///
/// # Errors
/// If the line is not an object with known fields, each a string or an exact number.
pub(super) fn read(line: &str) -> Result<Raw, String> {
    if !line.starts_with('{') {
        return Err("is not a JSON object".to_owned());
    }
    let object: Object = serde_json::from_str(line).map_err(|error| {
        // serde_json counts lines in this text, which is one line of the input: the caller names its number.
        let said = error.to_string().replace(" at line 1 column ", ", at column ");
        match error.classify() {
            Category::Data => match unknown_field(&said).and_then(csv::meant) {
                Some(field) => format!("{said}; did you mean {field}?"),
                None => said,
            },
            Category::Io | Category::Syntax | Category::Eof => format!("is not JSON: {said}"),
        }
    })?;
    Ok(Raw {
        agent: text_of("agent_id", object.agent_id)?,
        entry: text_of("entry_id", object.entry_id)?,
        priority: text_of("priority", object.priority)?,
        due: text_of("due_at", object.due_at)?,
        label: text_of("label", object.label)?,
    })
}

/// The field that is named in serde's message about an unknown one.
fn unknown_field(said: &str) -> Option<&str> {
    said.strip_prefix("unknown field `")?.split('`').next()
}

/// The text of a string, or of an integer that a program with doubles cannot have rounded.
fn text_of(name: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) if number.as_i64().is_some_and(|exact| exact.unsigned_abs() < INEXACT) => {
            Ok(Some(number.to_string()))
        }
        Some(Value::Number(number)) => Err(format!(
            "{name} {number} may be a rounded number, because many programs keep numbers as doubles: write it as a string"
        )),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("{name} must be a string or a number"))
        }
    }
}

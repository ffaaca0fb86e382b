//! The fields of an event, as a line for people shows them.

use std::{fmt, time::Duration};

use jiff::tz::TimeZone;
use tracing::{
    Event,
    field::{Field, Visit},
};

use super::Look;
use crate::{durations, model::clock::Timestamp, printable};

/// The value of a field. Text is escaped.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Number(i64),
    Float(f64),
    Bool(bool),
}

/// The fields of an event by name, its message and its name among them.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The text of a field; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            Some(Value::Number(_) | Value::Float(_) | Value::Bool(_)) | None => "",
        }
    }

    /// A number; 0 if there is none.
    pub(super) fn number(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Number(number)) => *number,
            Some(Value::Text(_) | Value::Float(_) | Value::Bool(_)) | None => 0,
        }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// A field as [`Fields::rest`] shows it; empty if there is none.
    pub(super) fn shown(&self, name: &str, look: &Look<'_>) -> String {
        self.value(name).map_or_else(String::new, |value| shown(name, value, look))
    }

    /// `name=value` for each field but these.
    pub(super) fn rest<'a>(&'a self, but: &'a [&str], look: &'a Look<'_>) -> impl Iterator<Item = String> + 'a {
        self.0.iter().filter(|(name, _)| !but.contains(name)).map(|(name, value)| {
            let text = shown(name, value, look);
            if text.contains(' ') || text.is_empty() { format!("{name}=\"{text}\"") } else { format!("{name}={text}") }
        })
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::Text(printable::line(value).into_owned())));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), Value::Number(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), Value::Float(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), Value::Bool(value)));
    }
}

/// A value for people. The end of a field's name tells its unit: `_at` is a time, `_ms` and `_s` are durations.
fn shown(name: &str, value: &Value, look: &Look<'_>) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Float(number) => number.to_string(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => {
            let (sign, span) = (if *number < 0 { "-" } else { "" }, number.unsigned_abs());
            match name.rsplit_once('_').map(|(_, unit)| unit) {
                Some("at") => time(Timestamp(*number), look),
                Some("ms") => format!("{sign}{}", durations::show(Duration::from_millis(span))),
                Some("s") => format!("{sign}{}", durations::show_roughly(Duration::from_secs(span))),
                _ => number.to_string(),
            }
        }
    }
}

/// The local time of day, with the date if that is another day.
fn time(at: Timestamp, look: &Look<'_>) -> String {
    let day = "%Y-%m-%d";
    let is_today = local(at, look.zone, day) == local(look.now, look.zone, day);
    local(at, look.zone, if is_today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" })
}

/// A time in this zone. A time on the last day of the year 9999 has no local time, and is shown in UTC.
pub(super) fn local(at: Timestamp, zone: &TimeZone, form: &str) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => time.to_zoned_datetime(zone.clone()).strftime(form).to_string(),
        Err(_) => at.civil().map_or_else(|| at.to_string(), |civil| civil.strftime(form).to_string()),
    }
}

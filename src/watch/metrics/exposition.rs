//! The two text formats of metrics, and the choice between them by a client's `Accept` header.

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0, the default.
    OpenMetrics,
    /// Prometheus's own format, 0.0.4, for older clients.
    Prometheus,
}

impl Exposition {
    /// The format that an `Accept` header prefers (RFC 9110, section 12.5.1). `accept` is empty without a header.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let quality = |kind: &str, subtype: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let (wanted_kind, wanted_subtype) = parts.next()?.split_once('/')?;
                let is = |wanted: &str, is: &str| wanted == "*" || wanted.eq_ignore_ascii_case(is);
                // The most specific range decides, and not the one with the highest quality.
                let specific = u8::from(wanted_kind != "*") + u8::from(wanted_subtype != "*");
                let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                let quality = quality.map_or(Some(1.0), |text| text.trim().parse::<f64>().ok()).unwrap_or(0.0);
                (is(wanted_kind, kind) && is(wanted_subtype, subtype)).then_some((specific, quality))
            });
            // Among versions of the same type, the highest quality counts.
            ranges.fold((0, 0.0), |best: (u8, f64), (specific, quality)| match specific.cmp(&best.0) {
                std::cmp::Ordering::Greater => (specific, quality),
                std::cmp::Ordering::Equal => (specific, best.1.max(quality)),
                std::cmp::Ordering::Less => best,
            })
        };
        if quality("text", "plain").1 > quality("application", "openmetrics-text").1 {
            Self::Prometheus
        } else {
            Self::OpenMetrics
        }
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts text in OpenMetrics to this format.
    #[must_use]
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

/// In the older format, the name of a counter or an info includes the suffix of its samples. There is no unit and no end mark.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The help comes before the type, which decides the name.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus_server = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for accept in [
            "",
            "*/*",
            prometheus_server,
            "application/openmetrics-text",
            "application/*",
            "text/plain, application/openmetrics-text",
            "text/html",
            "nonsense",
            "text/plain;q=nonsense",
        ] {
            assert_eq!(Exposition::wanted(accept), Exposition::OpenMetrics, "{accept}");
        }
        for accept in [
            "text/plain",
            "text/plain; version=0.0.4",
            "Text/Plain;q=0.1",
            "text/*, application/json",
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;q=0, */*",
        ] {
            assert_eq!(Exposition::wanted(accept), Exposition::Prometheus, "{accept}");
        }
    }

    #[test]
    fn counters_and_infos_have_their_whole_names_in_the_older_format() {
        let open_metrics = "# HELP a Of a\\n b.\n# TYPE a counter\na_total{x=\"y\"} 1\n# HELP b B.\n# TYPE b info\n\
            b_info{v=\"1\"} 1\n# HELP c_seconds C.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds NaN\n# EOF\n";
        let expected = "# HELP a_total Of a\\n b.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n# HELP b_info B.\n\
            # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c_seconds C.\n# TYPE c_seconds gauge\nc_seconds NaN\n";
        assert_eq!(Exposition::Prometheus.of(open_metrics.to_owned()), expected);
        assert_eq!(Exposition::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}

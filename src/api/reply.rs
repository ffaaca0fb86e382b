//! What came back for a request, and the parts of a response that have to be searched or cut short.

use reqwest::{Response, header::HeaderMap};

use crate::model::{
    envelope::{Envelope, without_bom},
    outcome::{Answer, Fault},
    window::Window,
};

/// The outcome of one request. `T` is the content of a 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T = Answer> {
    /// The content of a 200, or the fault. It is not judged yet.
    pub result: Result<T, Fault>,
    /// The HTTP status, if a response came.
    pub status: Option<u16>,
    /// The message that came with a fault: the API's or the network's, shortened, without the key.
    pub detail: Option<String>,
    /// The correlation IDs in the response: the header's values, in their order.
    pub remote_ids: Vec<String>,
    /// The body of an error, if it has a shape that the API itself uses.
    pub envelope: Option<Envelope>,
    /// The windows of the rate limit that the response's headers tell.
    pub windows: Vec<Window>,
    /// The key file had another key after a 401 or a 403, so no person is needed.
    pub key_changed: bool,
}

impl<T> Reply<T> {
    /// The reply to a request that no response came for.
    #[must_use]
    pub fn unheard(fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            result: Err(fault),
            status: None,
            detail: Some(detail.into()),
            remote_ids: Vec::new(),
            envelope: None,
            windows: Vec::new(),
            key_changed: false,
        }
    }
}

/// A response's body.
pub(super) enum Read {
    Whole(Vec<u8>),
    TooLong,
}

/// Reads a body of at most `most` bytes.
pub(super) async fn read_body(response: &mut Response, most: usize) -> Result<Read, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(Read::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Read::Whole(body))
}

/// The values of this header that are text.
pub(super) fn text_headers<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// The message in the body of an error, in any shape that the API and its gateway are known to use. A body of another shape is
/// the message itself.
pub(super) fn message(body: &[u8]) -> Option<String> {
    let body = without_bom(body);
    let text = String::from_utf8_lossy(body);
    let said = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|value| {
        ["/error_message", "/error/message", "/message", "/error", "/detail"]
            .iter()
            .find_map(|path| value.pointer(path)?.as_str().map(str::to_owned))
    });
    said.or_else(|| (!text.trim().is_empty()).then(|| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_in_every_known_envelope() {
        let envelopes = [
            r#"{"success":false,"error":"Bad","error_id":"x","error_code":"BAD","error_message":"said","data":null}"#,
            r#"{"error":{"code":"BAD","id":"x","message":"said","correlation_id":"x"}}"#,
            r#"{"message":"said","errors":[{"field":"ids","message":"other"}]}"#,
            r#"{"message":"said"}"#,
            r#"{"success":false,"error":"said","error_message":null}"#,
            " said\n",
            "\u{feff}{\"message\":\"said\"}",
        ];
        for envelope in envelopes {
            assert_eq!(message(envelope.as_bytes()).as_deref(), Some("said"), "{envelope}");
        }
        assert_eq!(message(b" \n"), None);
        assert_eq!(message(b"[1]").as_deref(), Some("[1]"));
    }
}

//! The parts of the sandbox's answers.

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::Response,
};
use serde_json::json;

/// Marks a response in place of which the connection is cut.
#[derive(Clone, Copy)]
pub(super) struct Cut;

pub(super) fn cut() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Cut);
    response
}

pub(super) fn is_cut(response: &Response) -> bool {
    response.extensions().get::<Cut>().is_some()
}

pub(super) fn empty(status: u16) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn response(status: u16, content_type: &'static str, body: String) -> Response {
    let mut response = empty(status);
    *response.body_mut() = Body::from(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json_response(status: u16, body: String) -> Response {
    response(status, "application/json", body)
}

pub(super) fn html(status: u16) -> Response {
    response(status, "text/html", "<html><body>as ordered</body></html>".to_owned())
}

/// A response with this body and these headers. A header may be there several times.
pub(super) fn say(status: u16, headers: &[(&'static str, String)], body: &str) -> Response {
    let mut response = json_response(status, body.to_owned());
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        let Ok(value) = HeaderValue::from_str(value) else { continue };
        if name == CONTENT_TYPE {
            response.headers_mut().insert(name, value);
        } else {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// An error in the API's envelope.
pub(super) fn error(status: u16, correlation_id: &str, code: &str, message: &str) -> Response {
    let body = json!({
        "success": false, "error": message, "error_id": correlation_id, "error_code": code, "error_message": message,
        "data": null,
    });
    json_response(status, body.to_string())
}

/// An error in the API's envelope with `Retry-After`.
pub(super) fn throttle(status: u16, correlation_id: &str, seconds: u64) -> Response {
    let mut response = error(status, correlation_id, "ORDERED", "as ordered");
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

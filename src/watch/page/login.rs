//! `/login`: the form for the token, and what whoever has none, or a wrong one, is told.

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::html;
use tokio::time::timeout;

use super::{
    Busy, Peer, Shared,
    access::{Attempt, Visitor, Way},
    frame::document,
    told, value_of,
};

/// The longest form, in bytes. A token has 256 at most.
const MAX_FORM: usize = 2_048;
/// How long a form may take to come.
const FORM_WITHIN: Duration = Duration::from_secs(1);

/// Shows the form.
pub(super) async fn show(State(page): Shared) -> Response {
    if page.settings.token.is_none() { off() } else { form(StatusCode::OK, "") }
}

/// Takes the token, and gives a cookie for it; or ends the cookie.
pub(super) async fn take(
    State(page): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(busy): Extension<Busy>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if page.settings.token.is_none() {
        return off();
    }
    // Somebody else's page could have an address refused, or log somebody out.
    if let Err(said) = page.settings.hosts.check_form(&headers) {
        let said = format!(
            "the form is that of another page: the browser says {said}. A form is taken from the page under the name in the Host header, or \
             under a name in http.hosts\n"
        );
        return (StatusCode::FORBIDDEN, said).into_response();
    }
    let body = match received(body, &busy).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    let back =
        |cookie: String| (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]);
    if value_of(&body, "logout").is_some() {
        return back(page.keeper.log_out(&headers)).into_response();
    }
    // Without a token, nobody has guessed.
    let Some(token) = value_of(&body, "token").filter(|token| !token.is_empty()) else {
        return refused(Attempt::Wrong, "This is not the token.");
    };
    match page.keeper.attempt(&token, Way::Form, peer) {
        Attempt::Right => back(page.keeper.cookie()).into_response(),
        attempt @ (Attempt::Wrong | Attempt::TooSoon) => refused(attempt, "This is not the token."),
    }
}

/// The text of a form, once it is there. Until then the connection is not busy: clients that send slowly must not keep others out.
///
/// # Errors
/// If it is too long, or takes too long.
async fn received(body: Body, busy: &Busy) -> Result<String, (StatusCode, &'static str)> {
    busy.set(false);
    let body = timeout(FORM_WITHIN, to_bytes(body, MAX_FORM)).await;
    busy.set(true);
    match body {
        Ok(Ok(body)) => Ok(String::from_utf8_lossy(&body).into_owned()),
        Ok(Err(_)) => Err((StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the form took too long\n")),
    }
}

/// The form for the token, below what is wrong.
fn form(status: StatusCode, wrong: &str) -> Response {
    let content = html! {
        h1 { "Log in" }
        @if !wrong.is_empty() { p.alarm role="alert" { (wrong) } }
        p { "Agents, labels, IDs and requests are shown to whoever knows the token, which is http.token in the daemon’s configuration." }
        form.ask method="post" action="/login" {
            // For the password manager, which keeps a token under a name.
            input type="text" name="username" value="sweeper" autocomplete="username" hidden;
            label { "Token" input type="password" name="token" required autocomplete="current-password"; }
            button.go type="submit" { "Log in" }
        }
    };
    told(status, &document("Log in", Visitor::Off, &html! { li { a href="/" { "Overview" } } }, &content))
}

/// The form, for whoever is refused. `wrong` is the sentence about a token that is not the right one.
pub(super) fn refused(attempt: Attempt, wrong: &'static str) -> Response {
    refusing(attempt, form(StatusCode::UNAUTHORIZED, said(attempt, wrong)))
}

/// What whoever is refused reads.
pub(super) fn said(attempt: Attempt, wrong: &'static str) -> &'static str {
    match attempt {
        Attempt::TooSoon => "The last token from your address was wrong. Wait a second, and try again.",
        Attempt::Wrong | Attempt::Right => wrong,
    }
}

/// An answer with the status and the header for whoever is refused.
pub(super) fn refusing(attempt: Attempt, mut response: Response) -> Response {
    let (status, name, value) = match attempt {
        Attempt::TooSoon => (StatusCode::TOO_MANY_REQUESTS, header::RETRY_AFTER, "1"),
        Attempt::Wrong | Attempt::Right => (StatusCode::UNAUTHORIZED, header::WWW_AUTHENTICATE, "Bearer"),
    };
    *response.status_mut() = status;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// The page about names without a token.
pub(super) fn off() -> Response {
    let content = html! {
        h1 { "Names are not shown" }
        p { "This page shows agents, labels and IDs only if http.token or http.token_file is set. Set one, and restart the daemon." }
    };
    let links = html! { li { a href="/" { "Overview" } } };
    told(StatusCode::FORBIDDEN, &document("Names are not shown", Visitor::Off, &links, &content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::{Bytes, Frame};
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    /// A form that never comes.
    struct Endless;

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_connection_waits_for_its_client_until_the_form_is_there_and_is_busy_from_then_on() {
        let busy = Busy::default();
        busy.set(true);
        let slow = received(Body::new(Endless), &busy);
        assert!(timeout(Duration::ZERO, slow).await.is_err(), "it waits for the form");
        assert!(!busy.is_set(), "another connection may take its place");
        assert_eq!(received(Body::from("token=1"), &busy).await, Ok("token=1".to_owned()));
        assert!(busy.is_set());
        let long = received(Body::from("x".repeat(MAX_FORM + 1)), &busy).await;
        assert_eq!(long, Err((StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n")));
    }
}

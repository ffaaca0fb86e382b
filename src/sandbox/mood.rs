//! Orders for single requests, in the order in which they arrive.

/// How one request is answered. [`Sandbox::script`](super::Sandbox::script) sets it in advance.
#[derive(Clone, Debug)]
pub enum Mood {
    /// The options decide.
    Plain,
    /// Nothing is deleted, and this is the answer.
    Say {
        /// The status.
        status: u16,
        /// Headers beside the usual ones. A correlation ID among them replaces the request's own.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Nothing is deleted, and the answer is the API's envelope with the request's own correlation ID.
    Refuse {
        /// The status.
        status: u16,
        /// The `error_code`.
        code: &'static str,
        /// The `error_message`.
        message: &'static str,
    },
    /// The IDs are deleted, and the answer is a 200 with this body.
    Garble(String),
    /// The IDs are deleted, and the answer is a 200 with two empty lists, or with an empty object.
    Silent,
    /// The IDs are deleted, and the answer lists all of them as deleted and as failed. A single-entry DELETE is answered truly.
    Contradict,
    /// The IDs are deleted, and the answer is true, but its lists have further IDs that were not sent.
    Strangers,
    /// The connection is cut.
    Reset {
        /// The connection is cut after the deletion, and not before it.
        done: bool,
    },
    /// There is no answer, and the connection stays open.
    Hang,
    /// The options decide, but not before [`Sandbox::open_gate`](super::Sandbox::open_gate).
    Gate,
}

impl Mood {
    /// An answer with this status in the API's envelope. Its code and message do not say what it is about.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Refuse { status, code: "ORDERED", message: "as ordered" }
    }
}

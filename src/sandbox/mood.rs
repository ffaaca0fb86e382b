//! How single requests are treated, in the order in which they come in.

/// How one request is treated, ordered in advance by [`Sandbox::script`](super::Sandbox::script).
#[derive(Clone, Debug)]
pub enum Mood {
    /// As the options say.
    Plain,
    /// Nothing is done, and this is the answer.
    Say {
        /// The status.
        status: u16,
        /// Headers beside the usual ones. A correlation ID among them takes the place of the request's own.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Nothing is done, and the answer is the API's envelope, with the request's own correlation ID.
    Refuse {
        /// The status.
        status: u16,
        /// The `error_code`.
        code: &'static str,
        /// The `error_message`.
        message: &'static str,
    },
    /// Done, and then a 200 with this body.
    Garble(String),
    /// Done, and then a 200 with two empty lists, or with an empty object.
    Silent,
    /// Done, and then all of it listed as deleted and as failed; a single entry is told of truly.
    Contradict,
    /// Done, and told truly, with IDs that nobody sent if there are lists.
    Strangers,
    /// The connection is cut.
    Reset {
        /// After the deletion was done.
        done: bool,
    },
    /// Never answered.
    Hang,
    /// As the options say, but not before [`Sandbox::open_gate`](super::Sandbox::open_gate).
    Gate,
}

impl Mood {
    /// An answer of this status in the API's envelope, whose code and message say nothing about what it is about.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Refuse { status, code: "ORDERED", message: "as ordered" }
    }
}
